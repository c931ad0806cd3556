"""Makes a smaller `lite` from a trained one: `python -m models.narrow CONFIG DATA ONNX OUT`.

It keeps the first residual blocks of each level and, in each block, the inner channels that
contribute most to the block's output (Molchanov et al., "Importance Estimation for Neural Network
Pruning", CVPR 2019, with the energy of the contribution instead of the gradient). OUT holds the
initial weights of a training: `python -m models.train CONFIG DATA RUN --start-from OUT`.
"""

import argparse
import json
import shutil
import tomllib
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import DataLoader

from models.data.samples import Crops
from models.networks import read_network
from models.networks.lite import Lite, LiteConfig, ResidualBlock
from models.threads import limit_threads
from models.training.config import load_config
from models.training.exported import read_exported
from receiver.enhance.faces.generator import CHANNELS
from receiver.errors import InputError

BATCHES = 16
"""Batches used to rate the channels."""


def narrowed(large: Lite, config: LiteConfig, batches: Iterable[dict[str, Tensor]]) -> Lite:
    """Returns a network of `config` with the most important weights of `large`.

    Args:
        config: the same widths as `large`, and at most as many blocks and inner channels.
        batches: the network's inputs by name, Nx{3,3,1}xSxS.

    Raises ValueError if `config` does not fit into `large`.
    """
    energy = _energies(large, batches)
    small = Lite(config)
    weights = large.state_dict()
    for name, block in small.named_modules():
        if not isinstance(block, ResidualBlock):
            continue
        inner = block.conv1.out_channels
        if name not in energy or len(energy[name]) < inner:
            raise ValueError(f"the larger network has no {name}, or too few channels in it")
        kept = energy[name].argsort(descending=True)[:inner].sort().values
        for key in ("conv1.weight", "conv1.bias"):
            weights[f"{name}.{key}"] = weights[f"{name}.{key}"][kept]
        weights[f"{name}.conv2.weight"] = weights[f"{name}.conv2.weight"][:, kept]
    names = small.state_dict().keys()
    try:
        small.load_state_dict({name: weights[name] for name in names})
    except RuntimeError as error:
        raise ValueError(f"the larger network has other widths: {error}") from error
    return small


@torch.no_grad()
def _energies(network: Lite, batches: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Returns, by residual block, the energy that each inner channel adds to the block's output."""
    blocks = {n: block for n, block in network.named_modules() if isinstance(block, ResidualBlock)}
    energy = {name: torch.zeros(block.conv1.out_channels) for name, block in blocks.items()}

    def watch(name: str) -> None:
        def add(conv2: nn.Conv2d, inputs: tuple[Tensor, ...]) -> None:
            squares = inputs[0].square().mean(dim=(0, 2, 3))
            energy[name] += squares * conv2.weight.square().sum(dim=(0, 2, 3))

        handles.append(blocks[name].conv2.register_forward_pre_hook(add))

    handles: list[torch.utils.hooks.RemovableHandle] = []
    for name in blocks:
        watch(name)
    try:
        for batch in batches:
            network(*(batch[name] for name in CHANNELS))
    finally:
        for handle in handles:
            handle.remove()
    return energy


def read_lite(path: Path) -> tuple[Lite, int, float]:
    """Reads a floating-point `lite` that `models.export` wrote, and its card.

    Returns the network, the steps and the minutes of its training. Raises OSError, ValueError or
    RuntimeError for an unreadable file or another network.
    """
    weights, steps, minutes = read_exported(path)
    settings = json.loads(path.with_suffix(".json").read_text())["settings"]
    settings.pop("reference_mix", None)
    config = read_network(settings)
    if not isinstance(config, LiteConfig):
        raise ValueError(f"{path} holds another network than lite")
    network = Lite(config)
    network.load_state_dict(weights)
    return network.eval(), steps, minutes


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "config", type=Path, help="of the smaller network, for example models/configs/lite.toml"
    )
    parser.add_argument("data", type=Path, help="folder of shards from python -m models.prepare")
    parser.add_argument("onnx", type=Path, help="the larger network in floats, beside its card")
    parser.add_argument("out", type=Path, help="folder, for --start-from of models.train")
    args = parser.parse_args()
    limit_threads()
    try:
        config = load_config(args.config)
        crops = Crops(args.data, BATCHES * config.batch, config.side, config.mix, config.seed)
        large, steps, minutes = read_lite(args.onnx)
        batches = islice(DataLoader(crops, config.batch), BATCHES)
        if not isinstance(config.network, LiteConfig):
            raise ValueError(f"{args.config} describes another network than lite")
        small = narrowed(large, config.network, track(batches, "rating channels", BATCHES))
    except (
        InputError,
        OSError,
        TypeError,
        ValueError,
        RuntimeError,
        tomllib.TOMLDecodeError,
    ) as error:
        parser.error(str(error))
    args.out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(args.config, args.out / "config.toml")
    state = {"step": 0, "earlier_steps": steps, "seconds": 60.0 * minutes, "clips": crops.clips}
    torch.save(state | {"ema": small.state_dict()}, args.out / "checkpoint.pt")
    print(f"python -m models.train {args.config} {args.data} RUN --start-from {args.out}")


if __name__ == "__main__":
    main()
