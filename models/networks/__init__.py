"""One file a network; each exports to the signature of `Generator`.

To train alike, every generator has a second method beside `forward`: `forward_aligned`, of the same
three inputs, gives the restored crop and the reference as the network has aligned it.
"""

from typing import Any, TypeAlias

from torch import nn

from models.networks.keyframes_gan import KeyframesGAN, KeyframesGANConfig
from models.networks.lite import Lite, LiteConfig

NetworkConfig: TypeAlias = LiteConfig | KeyframesGANConfig
CONFIGS: dict[str, type[Any]] = {"lite": LiteConfig, "keyframes-gan": KeyframesGANConfig}


def read_network(table: dict[str, Any]) -> NetworkConfig:
    """The `[network]` table of a config file: `kind`, by default lite, and its settings.

    Raises TypeError for a setting that does not exist, ValueError for a kind or word.
    """
    settings = {key: tuple(v) if isinstance(v, list) else v for key, v in table.items()}
    kind = settings.pop("kind", "lite")
    if kind not in CONFIGS:
        raise ValueError(f"kind is one of {', '.join(CONFIGS)}, not {kind}")
    config: NetworkConfig = CONFIGS[kind](**settings)
    return config


def build(config: NetworkConfig) -> nn.Module:
    """The generator of that configuration, not trained."""
    return Lite(config) if isinstance(config, LiteConfig) else KeyframesGAN(config)
