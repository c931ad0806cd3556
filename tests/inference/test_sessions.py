"""Opening sessions: files that cannot be loaded, a simulated GPU, TensorRT's engine cache."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from receiver.enhance.faces.generator import BATCH, GENERATOR
from receiver.errors import DeviceError, ModelError
from receiver.inference.io_binding import BoundSession
from receiver.inference.model_files import WEIGHTS, Model
from receiver.inference.network import Network
from receiver.inference.sessions import default_threads, open_session, providers_for
from receiver.inference.signature import Shape, Signature, StateTensor
from tests.inference.small_networks import accumulator, doubler

PAIR: Shape = (None, 2)
FRAMES = Signature({"luma": (None, 1, None, None)}, {"large": (None, 1, None, None)})


def test_a_file_that_is_no_onnx_is_named(tmp_path):
    path = tmp_path / "notes.onnx"
    path.write_text("not a network")
    with pytest.raises(ModelError, match=r"notes\.onnx cannot be loaded as an ONNX model: give"):
        open_session(Model("notes", path), GENERATOR, "cpu")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"the model file .*gone\.onnx is missing"):
        open_session(Model("gone", tmp_path / "gone.onnx"), GENERATOR, "cpu")


def test_a_session_runs_where_it_was_asked_to():
    session = open_session(Model.find("lite"), GENERATOR, "cpu")
    assert session.get_providers() == ["CPUExecutionProvider"]


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (3, 1), (6, 3), (64, 4)])
def test_a_run_takes_half_of_the_cores_at_most_four(monkeypatch, cores, threads):
    monkeypatch.setattr("receiver.inference.sessions.usable_cores", lambda: cores)
    assert default_threads() == threads


# A simulated GPU


class OnCuda:
    """A session on the CPU that claims to be on a GPU."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider"]


@pytest.fixture
def cuda(monkeypatch) -> None:
    def opening(model: Model, device: str, providers: list[Any], threads: int | None) -> OnCuda:
        assert [name for name, _ in providers[:-1]] == ["CUDAExecutionProvider"]
        return OnCuda(onnxruntime.InferenceSession(model.path, providers=providers[-1:]))

    monkeypatch.setattr("receiver.inference.sessions.new_session", opening)
    monkeypatch.setattr("receiver.inference.io_binding.MEMORY", {})


def test_a_network_free_in_its_batch_alone_gets_fixed_buffers(cuda, tmp_path):
    """Those hold for every stream: what one stream got stays as it was."""
    path = accumulator(tmp_path / "sums.onnx")
    network = Network.open(
        Model("sums", path),
        Signature({"x": PAIR}, {"mean": PAIR}),
        [StateTensor("sum", "new_sum", PAIR)],
        device="cuda",
        batch=2,
    )
    assert isinstance(network.session, BoundSession)
    assert (network.device, network.batch) == ("cuda", 2)
    states: list[Any] = [None, None]
    for value in range(1, 4):
        for stream in range(2):
            x = np.full((1, 2), value * (stream + 1), np.float32)
            states[stream] = network.run({"x": x}, states[stream])[1]
    assert [state["sum"].tolist() for state in states] == [[[6, 6]], [[12, 12]]]


def test_a_network_of_any_frame_size_runs_without_fixed_buffers(cuda, tmp_path):
    network = Network.open(Model("x2", doubler(tmp_path / "x2.onnx")), FRAMES, device="cuda")
    assert isinstance(network.session, OnCuda)
    for size in ((2, 4), (6, 2)):
        large = network.run({"luma": np.ones((1, 1, *size), np.float32)})[0]["large"]
        assert large.shape == (1, 1, 2 * size[0], 2 * size[1])


# TensorRT


class Library:
    """TensorRT's library of a certain version."""

    version = 101600

    def getInferLibVersion(self) -> int:  # noqa: N802
        return self.version


@pytest.fixture
def tensorrt(monkeypatch, tmp_path) -> Path:
    """A library in place of TensorRT's; returns the folder in which its engines go."""
    monkeypatch.setattr("receiver.inference.sessions.ctypes.CDLL", lambda _: Library())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "keyframe-receiver" / "tensorrt"


def engine_folder(name: str) -> Path:
    model = Model("lite", WEIGHTS / name)
    (_, options), *_ = providers_for(model, GENERATOR, "tensorrt", False, BATCH)
    return Path(options["trt_engine_cache_path"])


def test_engines_are_kept_apart_by_weights_and_version(tensorrt, monkeypatch):
    """ONNX Runtime itself would load one for any weights of the same structure."""
    folders = {engine_folder("lite.onnx"), engine_folder("lite-int8.onnx")}
    assert engine_folder("lite.onnx") in folders
    monkeypatch.setattr(Library, "version", 101700)
    folders.add(engine_folder("lite.onnx"))
    assert len(folders) == 3
    assert {folder.parent for folder in folders} == {tensorrt}
    assert {folder.stat().st_mode & 0o777 for folder in folders} == {0o700}


def test_an_engine_serves_all_batches(tensorrt):
    providers = providers_for(Model.find("lite", on_gpu=True), GENERATOR, "tensorrt", False, BATCH)
    (first, options), (second, _), third = providers
    names = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
    assert (first, second, third) == names
    crops = "degraded:{0}x3x256x256,reference:{0}x3x256x256,landmarks:{0}x1x256x256"
    for of, count in (("min", 1), ("opt", 1), ("max", 8)):
        assert options[f"trt_profile_{of}_shapes"] == crops.format(count)


def test_frames_of_any_size_have_no_profile(tensorrt):
    (_, options), *_ = providers_for(Model.find("lite", True), FRAMES, "tensorrt", False, 1)
    assert not [name for name in options if "profile" in name]


def test_a_cache_that_cannot_be_made_is_an_error(tensorrt, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DeviceError, match="no folder for TensorRT's engines"):
        engine_folder("lite.onnx")
