"""Cuts an exported `lite` in two at its warp, which OpenCV does faster than ONNX Runtime on CPUs.

What is left is a graph that gives the flow and one that takes the reference as it was moved.
"""

from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto
from onnx.utils import Extractor

from receiver.enhance.faces.generator import CHANNELS


def split_at_warp(whole: Path, aligner: Path) -> None:
    """Writes the part of `whole` that gives `flow` to `aligner`, and leaves in `whole` the rest.

    The flow is Nx2xhxw, in crop pixels. The rest has a generator's signature; its `reference` is
    what the GridSample gave. Raises ValueError if there is not exactly one GridSample.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load(whole))
    warps = [node for node in model.graph.node if node.op_type == "GridSample"]
    if len(warps) != 1:
        raise ValueError(f"{whole} has {len(warps)} GridSample nodes instead of one")
    flow, moved = _enlarged(model, warps[0].input[1]), warps[0].output[0]
    extractor = Extractor(model)
    align = extractor.extract_model(list(CHANNELS), [flow])
    restore = extractor.extract_model(["degraded", moved, "landmarks"], ["restored"])
    for part, old, new, path in (
        (align, flow, "flow", aligner),
        (restore, moved, "reference", whole),
    ):
        _rename(part, old, new)
        onnx.save(part, path)


def _enlarged(model: ModelProto, tensor: str) -> str:
    """What the nearest Resize before `tensor` enlarges."""
    makers = {output: node for node in model.graph.node for output in node.output}
    waiting = [tensor]
    while waiting:
        node: NodeProto | None = makers.get(waiting.pop(0))
        if node is not None and node.op_type == "Resize":
            return str(node.input[0])
        waiting += node.input if node is not None else ()
    raise ValueError("nothing is enlarged before the warp")


def _rename(model: ModelProto, old: str, new: str) -> None:
    for node in model.graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = new if name == old else name
    for value in (*model.graph.input, *model.graph.output):
        value.name = new if value.name == old else value.name
