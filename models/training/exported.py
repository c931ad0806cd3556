"""Reads the weights of an exported network back."""

import json
from pathlib import Path

import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import numpy_helper
from torch import Tensor


def read_exported(path: Path) -> tuple[dict[str, Tensor], int, float]:
    """Reads a floating-point ONNX file and its card, both written by `models.export`.

    Returns the weights by name, the steps and the minutes of training.

    Raises OSError or ValueError for an unreadable or invalid file.
    """
    try:
        graph = onnx.load(path).graph
    except DecodeError as error:
        raise ValueError(f"{path} is not an ONNX file: {error}") from error
    # A name without a dot belongs to a constant of the exporter, not to a layer.
    weights = {
        one.name: torch.from_numpy(numpy_helper.to_array(one).copy())
        for one in graph.initializer
        if "." in one.name
    }
    card = json.loads(path.with_suffix(".json").read_text())
    return weights, int(card["steps"]), float(card["training_minutes"])
