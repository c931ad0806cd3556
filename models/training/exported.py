"""Reads the weights of an exported network back."""

import json
from pathlib import Path

import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import numpy_helper
from torch import Tensor


def read_exported(path: Path) -> tuple[dict[str, Tensor], int, float]:
    """Weights by name, steps and minutes of what `models.export` wrote in floats, with its card.

    Raises OSError or ValueError for a file that is none.
    """
    try:
        graph = onnx.load(path).graph
    except DecodeError as error:
        raise ValueError(f"{path} is no ONNX file: {error}") from error
    # What belongs to no layer are constants of the exporter's.
    weights = {
        one.name: torch.from_numpy(numpy_helper.to_array(one).copy())
        for one in graph.initializer
        if "." in one.name
    }
    card = json.loads(path.with_suffix(".json").read_text())
    return weights, int(card["steps"]), float(card["training_minutes"])
