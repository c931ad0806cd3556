"""Exports a trained generator: `python -m models.export RUN [--name lite] [--out FOLDER]`.

RUN is a folder that `models.train` wrote. Writes NAME.onnx, with the averaged weights, and its card
NAME.json; the ONNX file is compared with PyTorch before it gets its name. A run that was trained in
8-bit integers (`quantized = true`) also gives NAME-int8.onnx, for CPUs.
"""

import argparse
import hashlib
import json
import logging
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import nn

from models.networks.lite import Lite
from models.quantize import float_weights, ranges, write_int8
from models.train import TrainConfig, load_config
from receiver.alignment import CROP
from receiver.generator import CHANNELS, INT8, WEIGHTS

TOLERANCE = 1e-4
"""Largest absolute difference between ONNX Runtime and PyTorch, for pixels in [0, 1]."""


def load_trained(run: Path) -> tuple[nn.Module, TrainConfig, dict[str, Any]]:
    """The network of a training run with its averaged weights, its settings and its state.

    A quantised run's network comes back in floating point; its ranges are in the state.

    Raises FileNotFoundError if `run` holds no checkpoint, RuntimeError if its keys do not match.
    """
    config = load_config(run / "config.toml")
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    network = Lite(config.network)
    network.load_state_dict(float_weights(state["ema"]))
    return network.eval(), config, state


def export(network: nn.Module, path: Path) -> float:
    """Writes `network` as ONNX; returns its largest difference from PyTorch.

    Raises ValueError, leaving nothing behind, if that is above `TOLERANCE`.
    """
    inputs = tuple(torch.rand(2, channels, CROP, CROP) for channels in CHANNELS.values())
    unfinished = path.with_suffix(".part")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            inputs,
            input_names=list(CHANNELS),
            output_names=["restored"],
            dynamic_shapes=tuple({0: torch.export.Dim("n", min=1, max=64)} for _ in inputs),
            dynamo=True,
            verbose=False,
        )
    program.save(str(unfinished), external_data=False)
    difference = onnx_difference(network, unfinished, inputs)
    if not difference <= TOLERANCE:
        unfinished.unlink()
        raise ValueError(f"ONNX differs from PyTorch by {difference:.2e}, above {TOLERANCE:.0e}")
    os.replace(unfinished, path)
    return difference


def onnx_difference(network: nn.Module, path: Path, inputs: tuple[torch.Tensor, ...]) -> float:
    """Largest absolute difference between an ONNX file on the CPU and PyTorch."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    arrays = {name: value.numpy() for name, value in zip(CHANNELS, inputs, strict=True)}
    with torch.no_grad():
        expected = network(*inputs).numpy()
    return float(np.abs(session.run(["restored"], arrays)[0] - expected).max())


def write_card(files: list[Path], config: TrainConfig, state: dict[str, Any]) -> None:
    """What whoever uses the weights has to know of them, beside their ONNX files."""
    path = files[0]
    card = {
        "name": path.stem,
        "network": "models/networks/lite.py",
        "settings": vars(config.network) | {"reference_mix": vars(config.mix)},
        "parameters": sum(value.numel() for value in float_weights(state["ema"]).values()),
        "sha256": {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files},
        "inputs": {name: ["n", channels, CROP, CROP] for name, channels in CHANNELS.items()},
        "output": {"restored": ["n", 3, CROP, CROP]},
        "steps": state["earlier_steps"] + state["step"],
        "training_minutes": round(state["seconds"] / 60),
        "trained_on": state["clips"],
        "licence": "research use only: trained on the clips of trained_on, whose terms differ",
    }
    path.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder that models.train wrote")
    parser.add_argument("--name", default="lite", help="name of the model (default lite)")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help=f"folder (default {WEIGHTS})")
    args = parser.parse_args()
    try:
        network, config, state = load_trained(args.run)
    except (OSError, RuntimeError, KeyError) as error:
        parser.error(f"{args.run} holds no finished training: {error}")
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"{args.name}.onnx"
    difference = export(network, path)
    files = [path]
    if config.quantized:
        files.append(path.with_name(f"{args.name}{INT8}.onnx"))
        write_int8(path, files[-1], ranges(state["ema"]))
    write_card(files, config, state)
    for file in files:
        print(f"{file}: {file.stat().st_size / 1e6:.2f} MB")
    print(f"{path} differs from PyTorch by {difference:.1e}")


if __name__ == "__main__":
    main()
