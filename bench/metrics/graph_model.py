"""Converts a small TensorFlow.js graph model to ONNX: only the operators that MobileFace has.

Tensors keep TensorFlow's order of axes, NHWC; a convolution is transposed to NCHW and back.
"""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from receiver.errors import InputError

OPSET = 17
TO_NCHW, TO_NHWC = [0, 3, 1, 2], [0, 2, 3, 1]
SAME_IN_ONNX = {
    "AddV2": "Add",
    "MatMul": "MatMul",
    "Maximum": "Max",
    "Minimum": "Min",
    "Mul": "Mul",
    "Reshape": "Reshape",
    "Sub": "Sub",
}
"""Operators with the same inputs in ONNX, by TensorFlow's name."""


def onnx_of(file: Path) -> bytes:
    """Returns the ONNX model of a graph model's JSON file, whose weights lie beside it.

    Its input and output have the names and shapes of the signature, the first axis free. Raises
    InputError if a file cannot be read, or the model has an unknown operator.
    """
    from onnx import checker, helper, numpy_helper

    try:
        model = json.loads(file.read_text())
        weights = _weights(model["weightsManifest"], file.parent)
        ends = model["signature"]
        operators = list(_operators(model["modelTopology"]["node"], weights))
        inputs, outputs = (_ports(ends[kind]) for kind in ("inputs", "outputs"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} cannot be read as a TensorFlow.js graph model: {error}") from None
    nodes = [
        helper.make_node(kind, sources, [output], **attributes)
        for kind, sources, output, attributes in operators
    ]
    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, file.stem, inputs, outputs, constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    checker.check_model(made, full_check=True)
    content: bytes = made.SerializeToString()
    return content


def _ports(described: dict[str, Any]) -> list[Any]:
    """Returns ONNX inputs or outputs; the first axis is free."""
    from onnx import TensorProto, helper

    ports = []
    for name, info in described.items():
        sizes = [int(axis["size"]) for axis in info["tensorShape"]["dim"][1:]]
        port = helper.make_tensor_value_info(
            name.removesuffix(":0"), TensorProto.FLOAT, ["n", *sizes]
        )
        ports.append(port)
    return ports


Operator = tuple[str, list[str], str, dict[str, Any]]
"""ONNX name, inputs, output and attributes."""


def _operators(nodes: list[dict[str, Any]], weights: dict[str, NDArray[Any]]) -> Iterator[Operator]:
    """Yields the operators; replaces or adds the weights that they need in another form."""
    for node in nodes:
        kind, name, inputs = node["op"], node["name"], node.get("input", [])
        if kind in ("Const", "Placeholder"):
            continue
        if kind in SAME_IN_ONNX:
            if kind == "Reshape":
                weights[inputs[1]] = weights[inputs[1]].astype(np.int64)
            yield SAME_IN_ONNX[kind], inputs, name, {}
        elif kind == "Pad":
            pads = weights[inputs[1]]  # (axes, 2), in ONNX all first ones before all last ones
            weights[inputs[1]] = pads.T.reshape(-1).astype(np.int64) if pads.ndim == 2 else pads
            yield "Pad", inputs, name, {}
        elif kind in ("Conv2D", "DepthwiseConv2dNative"):
            yield from _convolution(node, weights)
        else:
            raise ValueError(f"operator {kind} is unknown")


def _convolution(node: dict[str, Any], weights: dict[str, NDArray[Any]]) -> Iterator[Operator]:
    name, (source, kernel) = node["name"], node["input"]
    if _text(node, "padding") != "VALID" or _text(node, "data_format") != "NHWC":
        raise ValueError(f"{name} is padded, or not in NHWC")
    if set(_integers(node, "dilations")) != {1}:
        raise ValueError(f"{name} is dilated")
    values = weights.pop(kernel)
    high, wide, channels, number = values.shape
    groups = 1
    if node["op"] == "DepthwiseConv2dNative":
        groups = channels
        weights[kernel] = values.transpose(2, 3, 0, 1).reshape(channels * number, 1, high, wide)
    else:
        weights[kernel] = values.transpose(3, 2, 0, 1)
    _, down, right, _ = _integers(node, "strides")
    yield "Transpose", [source], f"{name}/in", {"perm": TO_NCHW}
    attributes = {"strides": [down, right], "group": groups}
    yield "Conv", [f"{name}/in", kernel], f"{name}/out", attributes
    yield "Transpose", [f"{name}/out"], name, {"perm": TO_NHWC}


def _text(node: dict[str, Any], attribute: str) -> str:
    return base64.b64decode(node["attr"][attribute]["s"]).decode()


def _integers(node: dict[str, Any], attribute: str) -> list[int]:
    return [int(value) for value in node["attr"][attribute]["list"]["i"]]


def _weights(manifest: list[dict[str, Any]], folder: Path) -> dict[str, NDArray[Any]]:
    """Reads the tensors: each group's files are one run of bytes, without gaps."""
    weights = {}
    for group in manifest:
        content = b"".join((folder / path).read_bytes() for path in group["paths"])
        place = 0
        for entry in group["weights"]:
            if "quantization" in entry or entry["dtype"] not in ("float32", "int32"):
                raise ValueError(f"weights of {entry['name']} are not float32 or int32")
            count = int(np.prod(entry["shape"], dtype=np.int64))
            values = np.frombuffer(content, entry["dtype"], count, place)
            weights[entry["name"]] = values.reshape(entry["shape"])
            place += values.nbytes
        if place != len(content):
            raise ValueError(f"{', '.join(group['paths'])} have {len(content)} bytes, not {place}")
    return weights
