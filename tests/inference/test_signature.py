"""Signatures compared with those of real files."""

from pathlib import Path

import onnxruntime
import pytest
from onnx import TensorProto, helper

from receiver.errors import ModelError
from receiver.inference.signature import Signature, StateTensor
from tests.inference.small_networks import accumulator, doubler, identity, save

FRAME = Signature({"luma": (None, 1, None, None)}, {"large": (None, 1, None, None)}, "doubler")


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def check(signature: Signature, path: Path) -> None:
    signature.check(session(path), path)


def test_a_matching_file_is_accepted(tmp_path):
    check(FRAME, doubler(tmp_path / "doubler.onnx"))


@pytest.mark.parametrize("sizes", [(1, 1, "h", "w"), ("n", 1, "h", "w")])
def test_the_batch_alone_may_be_fixed(tmp_path, sizes):
    check(FRAME, identity(tmp_path / "x.onnx", {"luma": sizes}, "large"))


@pytest.mark.parametrize(
    "sizes", [("n", 1, 48, "w"), ("n", 3, "h", "w"), ("n", "c", "h", "w"), ("n", 1, "h")]
)
def test_an_input_of_other_sizes_is_rejected(tmp_path, sizes):
    path = identity(tmp_path / "x.onnx", {"luma": sizes}, "large")
    with pytest.raises(ModelError, match=r"x\.onnx is not a doubler: it takes luma \["):
        check(FRAME, path)


def test_an_input_that_is_no_float32_is_rejected(tmp_path):
    sizes = {"luma": ("n", 1, "h", "w")}
    path = identity(tmp_path / "x.onnx", sizes, "large", kind=TensorProto.DOUBLE)
    with pytest.raises(ModelError, match="is not a doubler"):
        check(FRAME, path)


@pytest.mark.parametrize("shape", [(None, 3, None, None), (None, 1, None), (2, 1, None, None, 1)])
def test_an_output_of_other_sizes_is_rejected(tmp_path, shape):
    path = identity(tmp_path / "x.onnx", {"luma": ("n", 1, "h", "w")}, "large")
    with pytest.raises(ModelError, match=r"returns large \['n', 1, 'h', 'w'\], instead of luma"):
        check(Signature(FRAME.inputs, {"large": shape}), path)


def test_an_output_may_be_free_and_of_unknown_sizes(tmp_path):
    """As many exporters leave them: only a run shows the sizes."""
    path = tmp_path / "x.onnx"
    frame = Signature(FRAME.inputs, {"large": (None, 1, 48, 64)})
    check(frame, identity(path, {"luma": ("n", 1, "h", "w")}, "large"))
    nodes = [  # the output's rank depends on the samples
        helper.make_node("Reshape", ["luma", "all"], ["row"]),
        helper.make_node("Cast", ["row"], ["sizes"], to=TensorProto.INT64),
        helper.make_node("Cast", ["row"], ["kept"], to=TensorProto.BOOL),
        helper.make_node("Compress", ["sizes", "kept"], ["shape"]),
        helper.make_node("Reshape", ["luma", "shape"], ["large"]),
    ]
    row = helper.make_tensor("all", TensorProto.INT64, [1], [-1])
    save(path, nodes, {"luma": ("n", 1, "h", "w")}, {"large": None}, [row])
    assert session(path).get_outputs()[0].shape == []
    check(frame, path)


def test_an_output_may_be_freer_than_the_signature(tmp_path):
    fixed = Signature({"x": (None, 2)}, {"y": (None, 2)})
    path = identity(tmp_path / "x.onnx", {"x": ("n", 2)}, "y")
    check(fixed, path)
    with pytest.raises(ModelError, match="network for this task"):
        check(Signature({"x": (None, 2)}, {"y": (None, 3)}), path)


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ({"x": (None, 2)}, {"z": (None, 2)}),
        ({"x": (None, 2), "more": (None, 2)}, {"y": (None, 2)}),
        ({}, {"y": (None, 2)}),
        ({"x": (None, 2)}, {}),
    ],
)
def test_missing_and_further_tensors_are_rejected(tmp_path, inputs, outputs):
    path = identity(tmp_path / "x.onnx", {"x": ("n", 2)}, "y")
    with pytest.raises(ModelError):
        check(Signature(inputs, outputs), path)


def test_the_state_is_a_part_of_the_signature(tmp_path):
    path = accumulator(tmp_path / "sums.onnx")
    plain = Signature({"x": (None, 2)}, {"mean": (None, 2)}, "running mean")
    check(plain.with_state([StateTensor("sum", "new_sum", (None, 2))]), path)
    for state in ((), (StateTensor("sum", "new_sum", (None, 3)),)):
        with pytest.raises(ModelError, match="is not a running mean"):
            check(plain.with_state(state), path)


def test_only_networks_free_in_their_batch_alone_get_fixed_buffers():
    fixed = {"x": (None, 2), "y": (None, 3, 4)}
    assert Signature(fixed, {}).is_free_in_batch_only
    for shape in ((None, None), (1, 2), ()):
        assert not Signature({**fixed, "z": shape}, {}).is_free_in_batch_only
