"""Splits an exported `lite` at its warp, which OpenCV does faster than ONNX Runtime on CPUs.

The first part computes the flow; the second takes the reference after OpenCV has moved it.
"""

from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto
from onnx.utils import Extractor

from receiver.enhance.faces.generator import CHANNELS


def split_at_warp(whole: Path, aligner: Path) -> None:
    """Moves the part of the ONNX file `whole` that computes `flow` to the file `aligner`.

    The flow is Nx2xhxw, in crop pixels. The rest, in `whole`, keeps a generator's signature; its
    `reference` replaces the output of GridSample. Raises ValueError unless there is exactly one
    GridSample.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load(whole))
    warps = [node for node in model.graph.node if node.op_type == "GridSample"]
    if len(warps) != 1:
        raise ValueError(f"{whole} has {len(warps)} GridSample nodes instead of one")
    flow, moved = _enlarged_tensor(model, warps[0].input[1]), warps[0].output[0]
    extractor = Extractor(model)
    align = extractor.extract_model(list(CHANNELS), [flow])
    restore = extractor.extract_model(["degraded", moved, "landmarks"], ["restored"])
    for part, old, new, path in (
        (align, flow, "flow", aligner),
        (restore, moved, "reference", whole),
    ):
        _rename(part, old, new)
        onnx.save(part, path)


def _enlarged_tensor(model: ModelProto, tensor: str) -> str:
    """Returns the input of the nearest Resize before `tensor`."""
    makers = {output: node for node in model.graph.node for output in node.output}
    waiting = [tensor]
    while waiting:
        node: NodeProto | None = makers.get(waiting.pop(0))
        if node is not None and node.op_type == "Resize":
            return str(node.input[0])
        waiting += node.input if node is not None else ()
    raise ValueError("there is no Resize before the warp")


def _rename(model: ModelProto, old: str, new: str) -> None:
    """Renames a tensor wherever nodes, inputs and outputs refer to it."""
    for node in model.graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = new if name == old else name
    for value in (*model.graph.input, *model.graph.output):
        value.name = new if value.name == old else value.name
