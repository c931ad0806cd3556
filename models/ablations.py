"""What each part of the paper's network costs: `python -m models.ablations`.

Prints the paper's network and the variants of models/configs/ablations/, which lack one part each:
parameters, multiplications of one 256x256 crop, and milliseconds of the exported network on this
CPU, which do not depend on the weights. With --runs and --data it also prints the quality of the
variants that were trained, as the mean gain of PSNR over the received crops.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track as progress
from rich.table import Table
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from models.data.samples import Crops
from models.export import export, load_trained
from models.networks import GeneratorNetwork, build, channels_last
from models.networks.backbones import BACKBONES
from models.networks.keyframes_gan import KeyframesGANConfig
from models.networks.spectral import bake_spectral_norm
from models.training.config import TrainConfig, load_config
from receiver.enhance.capacity import generator_seconds
from receiver.enhance.faces.alignment import CROP
from receiver.enhance.faces.generator import CHANNELS, Generator
from receiver.errors import InputError, ReceiverError

CONFIGS = Path(__file__).parent / "configs"
FULL = "full"
"""Name of the paper's network, which lacks nothing."""
SAMPLES, BATCH = 256, 8
"""Crops on which the quality of a trained variant is measured, and how many at a time."""


@dataclass(frozen=True)
class Figures:
    """The figures of one variant.

    Attributes:
        variant: its name.
        parameters: their number.
        gmac: multiplications of one crop, in thousands of millions.
        cpu_ms: milliseconds of one crop in ONNX Runtime on this CPU.
        gain_db: gain of PSNR over the received crops; None if it was not trained.
    """

    variant: str
    parameters: int
    gmac: float
    cpu_ms: float
    gain_db: float | None = None


def variants() -> dict[str, TrainConfig]:
    """Returns the configuration of each variant by its name, that of the whole network first."""
    paths = sorted((CONFIGS / "ablations").glob("*.toml"))
    return {FULL: load_config(CONFIGS / "vgg19.toml")} | {p.stem: load_config(p) for p in paths}


def size(config: KeyframesGANConfig) -> tuple[int, float]:
    """Returns the number of parameters, and the thousands of millions of multiplications a crop."""
    with torch.device("meta"):
        network = build(config).eval()
        inputs = [torch.empty(1, channels, CROP, CROP) for channels in CHANNELS.values()]
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(*inputs)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return parameters, counter.get_total_flops() / 2e9


def cpu_milliseconds(config: KeyframesGANConfig) -> float:
    """Exports an untrained network and returns the milliseconds that one crop takes."""
    network = build(config).eval()
    bake_spectral_norm(network)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "variant.onnx"
        export(network, path)
        return 1e3 * generator_seconds(Generator(str(path), "cpu"))


def trained(run: Path, config: KeyframesGANConfig) -> GeneratorNetwork | None:
    """Returns the network of a run of `models.train`; None if there is no such run.

    Raises InputError if the run trained another network.
    """
    if not (run / "checkpoint.pt").is_file():
        return None
    network, its, _ = load_trained(run)
    found = its.network
    same = isinstance(found, KeyframesGANConfig) and replace(found, weights=config.weights)
    if same != config:
        raise InputError(f"{run} is a training of another network: give it another name")
    return network


@torch.no_grad()
def gain_db(network: GeneratorNetwork, data: Path, config: TrainConfig) -> float:
    """Returns the mean gain of PSNR over the crops as received, in dB."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    channels_last(network, device)
    gains = []
    for batch in DataLoader(Crops(data, SAMPLES, CROP, config.mix, config.seed), BATCH):
        batch = {name: value.to(device) for name, value in batch.items()}
        restored = network(*(batch[name] for name in CHANNELS)).clamp(0.0, 1.0)
        before, after = (
            (picture - batch["target"]).square().mean(dim=(1, 2, 3)).clamp_min(1e-10)
            for picture in (batch["degraded"], restored)
        )
        gains.append(10.0 * torch.log10(before / after))
    return float(torch.cat(gains).mean())


def measure(
    names: list[str], backbone: str, runs: Path | None, data: Path | None
) -> Iterator[Figures]:
    """Yields the figures of each variant. Raises InputError or OSError for bad input."""
    configs = variants()
    for name in names:
        config = configs[name]
        assert isinstance(config.network, KeyframesGANConfig)
        network = replace(config.network, backbone=backbone)
        found = trained(runs / name, network) if runs and data else None
        gain = gain_db(found, data, config) if found and data else None
        yield Figures(name, *size(network), cpu_milliseconds(network), gain)


def table(figures: list[Figures], backbone: str) -> Table:
    """Returns the figures as a table."""
    shown = Table(title=f"{backbone}, one {CROP}x{CROP} crop")
    for heading in ("variant", "parameters", "GMAC", "ms on this CPU", "gain of PSNR"):
        shown.add_column(heading, justify="left" if heading == "variant" else "right")
    for one in figures:
        gain = "not trained" if one.gain_db is None else f"{one.gain_db:+.2f} dB"
        millions = f"{one.parameters / 1e6:.3f} M"
        shown.add_row(one.variant, millions, f"{one.gmac:.2f}", f"{one.cpu_ms:.1f}", gain)
    return shown


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    names = list(variants())
    parser.add_argument(
        "variants",
        nargs="*",
        metavar="VARIANT",
        help=f"default: all of {', '.join(names)}",
    )
    parser.add_argument(
        "--backbone", choices=BACKBONES, default="vgg19", help="default vgg19, as in the paper"
    )
    parser.add_argument(
        "--runs", type=Path, metavar="FOLDER", help="runs of models.train, named as their variant"
    )
    parser.add_argument(
        "--data", type=Path, help="folder of shards that no variant was trained on, for the quality"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per variant")
    args = parser.parse_args()
    unknown = [name for name in args.variants if name not in names]
    if unknown:
        parser.error(f"there is no variant {unknown[0]!r}: give some of {', '.join(names)}")
    if (args.runs is None) != (args.data is None):
        parser.error("the quality needs both --runs and --data: give both or neither")
    chosen = args.variants or names
    measured = measure(chosen, args.backbone, args.runs, args.data)
    try:
        figures = list(progress(measured, "measuring", total=len(chosen), console=_errors()))
    except (ReceiverError, OSError, RuntimeError, ValueError) as error:
        parser.error(str(error))
    if args.json:
        for one in figures:
            print(json.dumps(asdict(one)))
    else:
        Console().print(table(figures, args.backbone))


def _errors() -> Console:
    return Console(stderr=True)


if __name__ == "__main__":
    main()
