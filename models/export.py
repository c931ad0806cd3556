"""Exports a trained generator: `python -m models.export RUN [--name lite] [--out FOLDER]`.

RUN is a folder that `models.train` wrote. Writes NAME.onnx, with the averaged weights, and its card
NAME.json; the ONNX file is compared with PyTorch before it gets its name. A run that was trained in
8-bit integers (`quantized = true`) also gives NAME-int8.onnx, for CPUs; `--half` gives
NAME-half.onnx, in 16-bit floats inside, for GPUs.
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
import onnx
import onnxruntime
import torch
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel
from torch import nn
from torch.nn import functional as F

from models.networks import build
from models.networks.spectral import bake_spectral_norm
from models.quantize import float_weights, ranges, write_int8
from models.split import split_at_warp
from models.train import TrainConfig, load_config
from receiver.enhance.faces.alignment import CROP
from receiver.enhance.faces.generator import CHANNELS
from receiver.inference.model_files import ALIGN, INT8, WEIGHTS

TOLERANCE = 1e-4
"""Largest absolute difference between ONNX Runtime and PyTorch, for pixels in [0, 1]."""
HALF_TOLERANCE = 1e-2
HALF = "-half"


def load_trained(run: Path) -> tuple[nn.Module, TrainConfig, dict[str, Any]]:
    """The network of a training run with its averaged weights, its settings and its state.

    A quantised run's network comes back in floating point; its ranges are in the state.

    Raises FileNotFoundError if `run` holds no checkpoint, RuntimeError if its keys do not match.
    """
    config = load_config(run / "config.toml")
    state = torch.load(run / "checkpoint.pt", weights_only=True, map_location="cpu")
    network = build(config.network)
    network.load_state_dict(float_weights(state["ema"]))
    bake_spectral_norm(network)
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
    _forget_sources(unfinished)
    difference = onnx_difference(network, unfinished, inputs)
    if not difference <= TOLERANCE:
        unfinished.unlink()
        raise ValueError(f"ONNX differs from PyTorch by {difference:.2e}, above {TOLERANCE:.0e}")
    os.replace(unfinished, path)
    return difference


def _forget_sources(path: Path) -> None:
    """Takes out of an ONNX file which lines of which files on this machine its nodes came from."""
    model = onnx.load(path)
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    onnx.save(model, path)


def write_half(network: nn.Module, source: Path, target: Path) -> float:
    """Writes the ONNX file `source` of `network` in 16-bit floats, its inputs and output in 32.

    Returns its largest difference from PyTorch, for inputs as smooth as pictures. Raises
    ValueError, leaving nothing behind, if that is above `HALF_TOLERANCE`.
    """
    half = convert_float_to_float16(
        onnx.load(source),
        keep_io_types=True,
        op_block_list=[*DEFAULT_OP_BLOCK_LIST, "GridSample"],  # CUDA has it in 32 bits alone
    )
    # A tensor that several nodes want in 32 bits comes out of the converter cast several times,
    # under one name.
    once: dict[str, onnx.NodeProto] = {}
    for node in half.graph.node:
        once.setdefault(node.output[0], node)
    nodes = list(once.values())
    del half.graph.node[:]
    half.graph.node.extend(nodes)
    OnnxModel(half).topological_sort()  # ONNX asks for it; the converter puts its casts at the end
    del half.graph.value_info[:]  # some tell the type from before
    unfinished = target.with_suffix(".part")
    onnx.save(half, unfinished)
    blots = (torch.rand(2, channels, 16, 16) for channels in CHANNELS.values())
    inputs = tuple(F.interpolate(x, size=(CROP, CROP), mode="bilinear") for x in blots)
    difference = onnx_difference(network, unfinished, inputs)
    if not difference <= HALF_TOLERANCE:
        unfinished.unlink()
        raise ValueError(f"in 16 bits it differs by {difference:.2e}, above {HALF_TOLERANCE:.0e}")
    os.replace(unfinished, target)
    return difference


def onnx_difference(network: nn.Module, path: Path, inputs: tuple[torch.Tensor, ...]) -> float:
    """Largest absolute difference between an ONNX file on the CPU and PyTorch."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    arrays = {name: value.numpy() for name, value in zip(CHANNELS, inputs, strict=True)}
    with torch.no_grad():
        expected = network(*inputs).numpy()
    return float(np.abs(session.run(["restored"], arrays)[0] - expected).max())


def write_card(
    files: list[Path], network: nn.Module, config: TrainConfig, state: dict[str, Any]
) -> None:
    """What whoever uses the weights has to know of them, beside their ONNX files."""
    path = files[0]
    card = {
        "name": path.stem,
        "network": type(network).__module__.replace(".", "/") + ".py",
        "settings": vars(config.network) | {"reference_mix": vars(config.mix)},
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
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
    parser.add_argument("--name", help="name of the model (default: lite, or the backbone's)")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help=f"folder (default {WEIGHTS})")
    parser.add_argument("--half", action="store_true", help="also in 16-bit floats, for GPUs")
    args = parser.parse_args()
    try:
        network, config, state = load_trained(args.run)
    except (OSError, RuntimeError, KeyError) as error:
        parser.error(f"{args.run} holds no finished training: {error}")
    args.out.mkdir(parents=True, exist_ok=True)
    name = args.name or getattr(config.network, "backbone", "lite")
    path = args.out / f"{name}.onnx"
    difference = export(network, path)
    files = [path]
    if config.quantized:
        files.append(path.with_name(f"{name}{INT8}.onnx"))
        write_int8(path, files[-1], ranges(state["ema"]))
        files.append(files[-1].with_name(f"{files[-1].stem}{ALIGN}.onnx"))
        split_at_warp(files[-2], files[-1])
    if args.half:
        files.append(path.with_name(f"{name}{HALF}.onnx"))
        write_half(network, path, files[-1])
    write_card(files, network, config, state)
    for file in files:
        print(f"{file}: {file.stat().st_size / 1e6:.2f} MB")
    print(f"{path} differs from PyTorch by {difference:.1e}")


if __name__ == "__main__":
    main()
