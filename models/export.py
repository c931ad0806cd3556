"""Exports a trained generator: `python -m models.export RUN [--name NAME] [--out FOLDER]`.

RUN is a folder that `models.train` wrote. The export writes NAME.onnx, with the averaged weights,
and its card NAME.json, after a comparison of the ONNX file with PyTorch. A run that was trained in
8-bit integers (`quantized = true`) also gives NAME-int8.onnx and NAME-int8-align.onnx, for CPUs;
`--half` adds NAME-half.onnx, with 16-bit floats inside, for GPUs.

Without --out, the files are written to the models folder, in which `receiver --model NAME` looks
for them: keyframe-receiver/models in $XDG_DATA_HOME, by default in ~/.local/share.
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

from models.networks import GeneratorNetwork, build
from models.networks.spectral import bake_spectral_norm
from models.quantize import float_weights, ranges, write_int8
from models.split import split_at_warp
from models.threads import limit_threads
from models.training.config import TrainConfig, load_config
from receiver.enhance.faces.alignment import CROP
from receiver.enhance.faces.generator import CHANNELS
from receiver.errors import InputError
from receiver.inference.model_files import ALIGN, INT8, MODELS
from receiver.inference.models_folder import models_folder

FLOAT_TOLERANCE = 1e-4
"""Largest absolute difference between ONNX Runtime and PyTorch, for pixels in [0, 1]."""
HALF_TOLERANCE = 1e-2
"""The same for 16-bit floats."""
HALF = "-half"
"""Ends the name of a file with 16-bit floats."""


def load_trained(run: Path) -> tuple[GeneratorNetwork, TrainConfig, dict[str, Any]]:
    """Loads a training run: the network with its averaged weights, its settings and its state.

    The network of a quantised run is in floating point; its ranges are in the state.

    Raises FileNotFoundError if `run` holds no checkpoint, RuntimeError if the weights do not match
    the settings.
    """
    config = load_config(run / "config.toml")
    state = torch.load(run / "checkpoint.pt", weights_only=True, map_location="cpu")
    network = build(config.network)
    network.load_state_dict(float_weights(state["ema"]))
    bake_spectral_norm(network)
    return network.eval(), config, state


def export(network: nn.Module, path: Path) -> float:
    """Writes `network` as ONNX and returns its largest absolute difference from PyTorch.

    Raises ValueError, leaving no file behind, if the difference is above FLOAT_TOLERANCE.
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
    assert program is not None  # with dynamo=True there always is one
    program.save(str(unfinished), external_data=False)
    _remove_sources(unfinished)
    difference = onnx_difference(network, unfinished, inputs)
    if not difference <= FLOAT_TOLERANCE:
        unfinished.unlink()
        raise ValueError(
            f"ONNX differs from PyTorch by {difference:.2e}, above {FLOAT_TOLERANCE:.0e}"
        )
    os.replace(unfinished, path)
    return difference


def _remove_sources(path: Path) -> None:
    """Removes the source files and lines of this machine that the exporter adds to each node."""
    model = onnx.load(path)
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    onnx.save(model, path)


def write_half(network: nn.Module, source: Path, target: Path) -> float:
    """Converts the ONNX file `source` of `network` to 16-bit floats, with 32-bit inputs and output.

    Returns the largest absolute difference from PyTorch for inputs as smooth as pictures. Raises
    ValueError, leaving no file behind, if the difference is above HALF_TOLERANCE.
    """
    half = convert_float_to_float16(
        onnx.load(source),
        keep_io_types=True,
        op_block_list=[*DEFAULT_OP_BLOCK_LIST, "GridSample"],  # CUDA has it in 32 bits only
    )
    # If several nodes need a tensor in 32 bits, the converter adds the same cast, with the same
    # output name, several times.
    once: dict[str, onnx.NodeProto] = {}
    for node in half.graph.node:
        once.setdefault(node.output[0], node)
    nodes = list(once.values())
    del half.graph.node[:]
    half.graph.node.extend(nodes)
    OnnxModel(half).topological_sort()  # ONNX requires it; the converter appends its casts
    del half.graph.value_info[:]  # some state the type before the conversion
    unfinished = target.with_suffix(".part")
    onnx.save(half, unfinished)
    coarse = (torch.rand(2, channels, 16, 16) for channels in CHANNELS.values())
    inputs = tuple(F.interpolate(x, size=(CROP, CROP), mode="bilinear") for x in coarse)
    difference = onnx_difference(network, unfinished, inputs)
    if not difference <= HALF_TOLERANCE:
        unfinished.unlink()
        raise ValueError(f"16 bits differ by {difference:.2e}, above {HALF_TOLERANCE:.0e}")
    os.replace(unfinished, target)
    return difference


def onnx_difference(network: nn.Module, path: Path, inputs: tuple[torch.Tensor, ...]) -> float:
    """Returns the largest absolute difference between an ONNX file on the CPU and PyTorch."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    arrays = {name: value.numpy() for name, value in zip(CHANNELS, inputs, strict=True)}
    with torch.no_grad():
        expected = network(*inputs).numpy()
    return float(np.abs(session.run(["restored"], arrays)[0] - expected).max())


def write_card(
    files: list[Path], network: nn.Module, config: TrainConfig, state: dict[str, Any]
) -> None:
    """Writes the card of exported files beside the first of them, as JSON.

    It holds the network and its settings, checksums, signature, training effort and data, licence.
    """
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


def write_files(
    path: Path, network: GeneratorNetwork, config: TrainConfig, state: dict[str, Any], half: bool
) -> tuple[list[Path], float]:
    """Writes the ONNX file `path`, its variants and their card into the folder of `path`.

    Args:
        network, config, state: the result of `load_trained`.
        half: also write the variant with 16-bit floats.

    Returns the ONNX files, `path` first, and its largest absolute difference from PyTorch. Raises
    ValueError if a file differs too much.
    """
    difference = export(network, path)
    files = [path]
    if config.quantized:
        integers = path.with_name(f"{path.stem}{INT8}.onnx")
        aligner = path.with_name(f"{path.stem}{INT8}{ALIGN}.onnx")
        write_int8(path, integers, ranges(state["ema"]))
        split_at_warp(integers, aligner)
        files += [integers, aligner]
    if half:
        files.append(path.with_name(f"{path.stem}{HALF}.onnx"))
        write_half(network, path, files[-1])
    write_card(files, network, config, state)
    return files, difference


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder that models.train wrote")
    parser.add_argument("--name", help="name of the model (default: lite, or the backbone's)")
    parser.add_argument("--out", type=Path, help="folder (default: the models folder)")
    parser.add_argument("--half", action="store_true", help="also in 16-bit floats, for GPUs")
    args = parser.parse_args()
    limit_threads()
    try:
        network, config, state = load_trained(args.run)
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        parser.error(f"{args.run} holds no training that can be read: {error}")
    name = args.name or getattr(config.network, "backbone", "lite")
    try:
        path = (args.out or models_folder()) / f"{name}.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        files, difference = write_files(path, network, config, state, args.half)
    except (OSError, ValueError, InputError) as error:
        parser.error(f"{args.run} cannot be exported: {error}")
    for file in files:
        print(f"{file}: {file.stat().st_size / 1e6:.2f} MB")
    print(f"{path} differs from PyTorch by {difference:.1e}")
    found_by_name = args.out is None and name not in MODELS
    print(f"use it with receiver --model {name if found_by_name else path}")


if __name__ == "__main__":
    main()
