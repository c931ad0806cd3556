"""Small ONNX files that the tests make themselves."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
from onnx import TensorProto, helper

Sizes = Sequence[int | str | None]


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: Mapping[str, Sizes],
    outputs: Mapping[str, Sizes | None],
    constants: Sequence[onnx.TensorProto] = (),
    kind: int = TensorProto.FLOAT,
) -> Path:
    """Writes a network. A size is a number, or a name if it is free; None: sizes are unknown."""
    taken, given = (
        [helper.make_tensor_value_info(name, kind, sizes) for name, sizes in tensors.items()]
        for tensors in (inputs, outputs)
    )
    graph = helper.make_graph(nodes, "small", taken, given, constants)
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, ir_version=9, opset_imports=[opset]), path)
    return path


def identity(
    path: Path, inputs: Mapping[str, Sizes], output: str, kind: int = TensorProto.FLOAT
) -> Path:
    """Writes a network that returns its first input."""
    first, sizes = next(iter(inputs.items()))
    node = helper.make_node("Identity", [first], [output])
    return save(path, [node], inputs, {output: sizes}, kind=kind)


def accumulator(path: Path, sizes: Sizes = ("n", 2), state_sizes: Sizes | None = None) -> Path:
    """Writes a recurrent network: `mean` = (`x` + `sum`) / 2, `new_sum` = `x` + `sum`."""
    half = helper.make_tensor("half", TensorProto.FLOAT, [], [0.5])
    nodes = [
        helper.make_node("Add", ["x", "sum"], ["new_sum"]),
        helper.make_node("Mul", ["new_sum", "half"], ["mean"]),
    ]
    state_sizes = sizes if state_sizes is None else state_sizes
    inputs = {"x": sizes, "sum": state_sizes}
    return save(path, nodes, inputs, {"mean": sizes, "new_sum": state_sizes}, [half])


def doubler(path: Path) -> Path:
    """Writes a whole-frame network: `large` is `luma`, Nx1xHxW, enlarged by two, nearest."""
    scales = helper.make_tensor("scales", TensorProto.FLOAT, [4], [1, 1, 2, 2])
    node = helper.make_node("Resize", ["luma", "", "scales"], ["large"], mode="nearest")
    return save(path, [node], {"luma": ["n", 1, "h", "w"]}, {"large": ["n", 1, "H", "W"]}, [scales])
