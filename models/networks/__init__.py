"""The networks, one file each. Every generator exports to the signature of `Generator`.

Besides `forward`, a generator has `forward_aligned`, which takes the same three inputs and returns
the restored crop and the reference as the network has aligned it. Training uses both results.
"""

from typing import Any, TypeAlias, TypeVar

import torch
from torch import nn

from models.networks.keyframes_gan import KeyframesGAN, KeyframesGANConfig
from models.networks.lite import Lite, LiteConfig

NetworkConfig: TypeAlias = LiteConfig | KeyframesGANConfig
GeneratorNetwork: TypeAlias = Lite | KeyframesGAN
CONFIGS: dict[str, type[Any]] = {"lite": LiteConfig, "keyframes-gan": KeyframesGANConfig}

_Module = TypeVar("_Module", bound=nn.Module)


def read_network(table: dict[str, Any]) -> NetworkConfig:
    """Reads the `[network]` table of a configuration: `kind` (default: lite) and its settings.

    Raises TypeError for an unknown setting, ValueError for an invalid kind or value.
    """
    settings = {key: tuple(v) if isinstance(v, list) else v for key, v in table.items()}
    kind = settings.pop("kind", "lite")
    if kind not in CONFIGS:
        raise ValueError(f"kind must be one of {', '.join(CONFIGS)}, not {kind}")
    config: NetworkConfig = CONFIGS[kind](**settings)
    return config


def build(config: NetworkConfig) -> GeneratorNetwork:
    """Returns an untrained generator of this configuration."""
    return Lite(config) if isinstance(config, LiteConfig) else KeyframesGAN(config)


def channels_last(network: _Module, device: torch.device | str = "cpu") -> _Module:
    """Moves a network to `device`, in the memory layout that is fastest for convolutions."""
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
