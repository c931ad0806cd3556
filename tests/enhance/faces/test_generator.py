"""The session: which device, which file, which signature."""

import hashlib
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import receiver.enhance.faces.generator
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.alignment import draw_landmarks, extract_crop, transform
from receiver.enhance.faces.generator import (
    CHANNELS,
    MODELS,
    WEIGHTS,
    Device,
    Generator,
    Model,
    cuda_problem,
    tensorrt_problem,
)
from receiver.enhance.faces.tracking import FaceTracker
from receiver.errors import DeviceError, ModelError
from receiver.media.frame import DecodedFrame
from receiver.media.planes import planes
from tests.conftest import same_pixels


def inputs(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = [(count, channels, 256, 256) for channels in CHANNELS.values()]
    return [rng.random(shape, np.float32) for shape in shapes]


def test_it_restores_one_crop_or_several(generator):
    several = inputs(3)
    together = generator.restore(*several)
    assert together.shape == (3, 3, 256, 256)
    assert together.dtype == np.float32
    alone = generator.restore(*(array[1:2] for array in several))
    np.testing.assert_allclose(alone[0], together[1], atol=1e-5)


def test_it_says_where_it_runs(generator):
    assert generator.device == "cpu"
    assert generator._network.session.get_providers()[0] == "CPUExecutionProvider"


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("on_gpu", [False, True])
def test_the_shipped_weights_are_those_of_their_card(name, on_gpu):
    model = Model.find(name, on_gpu)
    assert model.card is not None
    assert model.expected_sha256 == hashlib.sha256(model.path.read_bytes()).hexdigest()
    assert "research use" in model.card["licence"]
    assert len(model.card["trained_on"]) > 10
    assert model.card["training_minutes"] >= 60
    assert model.path.stat().st_size < 6e6
    assert WEIGHTS in model.path.parents


@pytest.fixture
def weights(tmp_path, monkeypatch) -> Path:
    """A copy of the shipped weights, as if they were the installed ones."""
    shutil.copytree(WEIGHTS, tmp_path / "weights")
    monkeypatch.setattr("receiver.enhance.faces.generator.WEIGHTS", tmp_path / "weights")
    return tmp_path / "weights"


def change(path: Path) -> str:
    """Changes one bit of a file; returns the SHA-256 that it then has."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("file", ["lite-int8.onnx", "lite-int8-align.onnx"])
def test_changed_weights_are_not_opened_and_both_hashes_are_named(weights, file):
    Generator("lite", "cpu")
    expected = hashlib.sha256((weights / file).read_bytes()).hexdigest()
    found = change(weights / file)
    with pytest.raises(ModelError) as raised:
        Generator("lite", "cpu")
    for words in (file, found, expected, "install the package again"):
        assert words in str(raised.value)


def test_a_running_generator_does_not_go_over_to_changed_weights(weights):
    generator = Generator("lite", "cpu")
    change(weights / "lite.onnx")
    with pytest.raises(ModelError, match="SHA-256"):
        generator.switch(Model.find("lite", on_gpu=True))
    change(weights / "lite-int8.onnx")
    with pytest.raises(ModelError, match="SHA-256"):
        generator.rebuild()
    assert generator.restore(*inputs(1)).shape == (1, 3, 256, 256)


@pytest.mark.parametrize("card", [None, '{"sha256": {}}', '{"name": "lite"}'])
def test_shipped_weights_need_their_card(weights, card):
    (weights / "lite.json").unlink()
    if card is not None:
        (weights / "lite.json").write_text(card)
    with pytest.raises(ModelError, match="instead of any on its card"):
        Generator("lite", "cpu")


@pytest.mark.parametrize("with_card", [False, True])
def test_a_file_from_elsewhere_is_the_users_decision(weights, tmp_path, with_card):
    other = tmp_path / "other"
    other.mkdir()
    network = onnx.load(weights / "lite.onnx")
    network.doc_string = "another file that gives the same"
    onnx.save(network, other / "lite.onnx")
    if with_card:
        shutil.copyfile(weights / "lite.json", other / "lite.json")
    generator = Generator(str(other / "lite.onnx"), "cpu")
    assert generator.model.sha256 != Model.find("lite", on_gpu=True).sha256
    assert generator.restore(*inputs(1)).shape == (1, 3, 256, 256)


def test_a_cpu_gets_the_integers_and_cuda_the_floats(generator):
    assert Model.find("lite").path.name == generator.model.path.name == "lite-int8.onnx"
    assert Model.find("lite", on_gpu=True).path.name == "lite.onnx"


def test_both_files_are_the_same_network(generator, portrait):
    """Rounding to 8 bits changes the restored picture by far less than restoring does."""
    floats = Generator(str(WEIGHTS / "lite.onnx"), "cpu")
    face = FaceTracker().track(planes(portrait[0])[0])[0]
    crop = extract_crop(portrait[0], face.crop_from_frame)[None]
    drawn = draw_landmarks(transform(face.landmarks, face.crop_from_frame))[None, None]
    blocky = np.repeat(np.repeat(crop[:, :, 2::4, 2::4], 4, axis=2), 4, axis=3)
    pictures = [model.restore(blocky, blocky, drawn) for model in (floats, generator)]
    restored, rounded = np.abs(pictures[0] - blocky).mean(), np.abs(np.subtract(*pictures)).mean()
    assert restored > 1 / 255
    assert rounded < 0.4 * restored


def test_an_unknown_model_is_named():
    with pytest.raises(ModelError, match="there is no model 'nosuch': give one of lite or"):
        Generator("nosuch", "cpu")


def test_a_file_that_is_no_onnx_is_named(tmp_path):
    path = tmp_path / "notes.onnx"
    path.write_text("not a network")
    with pytest.raises(ModelError, match=r"notes\.onnx is no ONNX model"):
        Generator(str(path), "cpu")


def identity_model(path, names: dict[str, list[int | str]], output: str) -> None:
    """A network that hands its first input through."""
    made = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in names.items()]
    first = next(iter(names))
    result = helper.make_tensor_value_info(output, TensorProto.FLOAT, names[first])
    node = helper.make_node("Identity", [first], [output])
    graph = helper.make_graph([node], "identity", made, [result])
    onnx.save(
        helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)]), path
    )


GOOD: dict[str, list[int | str]] = {name: ["n", c, 256, 256] for name, c in CHANNELS.items()}


@pytest.mark.parametrize(
    ("names", "output"),
    [
        ({"picture": ["n", 3, 256, 256]}, "restored"),
        (GOOD, "result"),
        (GOOD | {"landmarks": ["n", 68, 256, 256]}, "restored"),
        (GOOD | {"degraded": ["n", 3, 128, 128]}, "restored"),
    ],
)
def test_another_signature_is_refused(tmp_path, names, output):
    path = tmp_path / "other.onnx"
    identity_model(path, names, output)
    with pytest.raises(ModelError, match=r"other\.onnx is not a generator"):
        Generator(str(path), "cpu")


def test_any_file_of_the_right_signature_runs(tmp_path):
    path = tmp_path / "identity.onnx"
    identity_model(path, GOOD, "restored")
    arrays = inputs(1)
    np.testing.assert_array_equal(Generator(str(path), "cpu").restore(*arrays), arrays[0])


def test_cuda_that_is_absent_is_an_error_and_auto_goes_on(monkeypatch):
    monkeypatch.setattr(
        "receiver.enhance.faces.generator.cuda_problem", lambda: "no NVIDIA driver was found"
    )
    with pytest.raises(DeviceError, match=r"CUDA was asked for and is not there: no NVIDIA driver"):
        Generator("lite", "cuda")
    assert Generator("lite", "auto").device == "cpu"


def test_tensorrt_that_is_absent_is_an_error(monkeypatch):
    monkeypatch.setattr("receiver.enhance.faces.generator.cuda_problem", lambda: None)
    monkeypatch.setattr("receiver.enhance.faces.generator._NVINFER", "libnosuch.so.10")
    with pytest.raises(DeviceError, match=r"TensorRT was asked for and is not there: libnosuch"):
        Generator("lite", "tensorrt")
    assert "pip install 'tensorrt-cu13<11'" in str(tensorrt_problem())


def test_a_build_without_cuda_says_what_to_install(monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert "pip install 'keyframe-receiver[gpu]'" in str(cuda_problem())
    assert "pip install 'keyframe-receiver[gpu]'" in str(tensorrt_problem())


def test_a_gpu_whose_session_does_not_open_is_an_error_and_auto_goes_on(monkeypatch, caplog):
    new_session = receiver.enhance.faces.generator._new_session

    def opening(model, device, has_graphs, threads):
        if device != "cpu":
            raise DeviceError("CUDA failure 999")
        return new_session(model, device, has_graphs, threads)

    monkeypatch.setattr("receiver.enhance.faces.generator._new_session", opening)
    monkeypatch.setattr("receiver.enhance.faces.generator.device_problem", lambda _: None)
    with pytest.raises(DeviceError, match="999"):
        Generator("lite", "cuda")
    generator = Generator("lite", "auto")
    assert (generator.device, generator.model.path.name) == ("cpu", "lite-int8.onnx")
    (record,) = caplog.records
    assert record.getMessage() == "the CPU is used instead of CUDA: CUDA failure 999"


def test_tensorrt_s_engines_are_kept_by_the_weights_they_are_of(monkeypatch, tmp_path):
    """ONNX Runtime itself would load them for any weights of the same structure."""

    class Library:
        def getInferLibVersion(self):  # noqa: N802
            return 101600

    monkeypatch.setattr("receiver.enhance.faces.generator.ctypes.CDLL", lambda _: Library())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folders = set()
    for path in (WEIGHTS / "lite.onnx", WEIGHTS / "lite-int8.onnx"):
        tensorrt, cuda, cpu = receiver.enhance.faces.generator._providers(
            Model("lite", path), "tensorrt", False
        )
        assert (tensorrt[0], cuda[0], cpu) == (
            "TensorrtExecutionProvider",
            "CUDAExecutionProvider",
            "CPUExecutionProvider",
        )
        assert tensorrt[1]["trt_profile_max_shapes"].split(",")[-1] == "landmarks:8x1x256x256"
        folders.add(tensorrt[1]["trt_engine_cache_path"])
    assert {path.parent for path in map(Path, folders)} == {
        tmp_path / "keyframe-receiver" / "tensorrt"
    }
    assert len(folders) == 2
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DeviceError, match="no folder for TensorRT's engines"):
        receiver.enhance.faces.generator._providers(
            Model.find("lite", on_gpu=True), "tensorrt", False
        )


def test_cuda_is_used_where_it_is():
    problem = cuda_problem()
    if problem:
        pytest.skip(f"needs CUDA: {problem}")
    restores_as_the_cpu_does("cuda")


def test_cuda_replays_graphs(caplog):
    problem = cuda_problem()
    if problem:
        pytest.skip(f"needs CUDA: {problem}")
    Generator("lite", "cuda")
    assert "without CUDA graphs" not in caplog.text


def test_tensorrt_is_used_where_it_is(monkeypatch, tmp_path):
    problem = tensorrt_problem()
    if problem:
        pytest.skip(f"needs CUDA and TensorRT: {problem}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    restores_as_the_cpu_does("tensorrt")
    assert list(tmp_path.rglob("*.engine"))


def restores_as_the_cpu_does(device: Device) -> None:
    """With the same weights, in floating point, for some numbers of faces in turn."""
    on_gpu = Generator("lite", device)
    on_cpu = Generator(str(WEIGHTS / "lite.onnx"), "cpu")
    assert on_gpu.device == device
    for count in (1, 4, 2, 9, 1):
        arrays = inputs(count)
        np.testing.assert_allclose(on_gpu.restore(*arrays), on_cpu.restore(*arrays), atol=3e-2)


# Shared by several calls


def test_two_calls_that_share_it_see_what_each_sees_alone(decoded):
    """To the bit, batched or not: in 8-bit integers nothing depends on what else is in a run."""
    generator = Generator("lite", "cpu")
    streams = [decoded[:12], decoded[12:24]]
    alone = [in_step(generator, [frames])[0] for frames in streams]
    for batch in (1, 8):
        generator.batch = batch
        together = in_step(generator, streams)
        for one, other in zip(alone, together, strict=True):
            assert all(map(same_pixels, one, other))


def in_step(generator: Generator, streams: list[list[DecodedFrame]]) -> list[list]:
    """Every stream by an enhancer and a thread of its own, frame by frame at the same moment."""
    start = threading.Barrier(len(streams))

    def enhance(frames: list[DecodedFrame]) -> list:
        enhancer, outputs = Enhancer(generator), []
        for frame in frames:
            start.wait(10)
            outputs.append(enhancer.enhance(frame))
        return outputs

    with ThreadPoolExecutor(len(streams)) as pool:
        return list(pool.map(enhance, streams, timeout=60))


def test_several_calls_that_recover_together_open_one_session(monkeypatch):
    generator, opened = Generator("lite", "cpu"), []
    before, open_network = generator._network, receiver.enhance.faces.generator._Network.open
    asking = [threading.Thread(target=generator.rebuild) for _ in range(4)]

    def opening(*of):
        opened.append(of)
        for thread in asking[1:] if len(opened) == 1 else ():
            thread.start()
            time.sleep(0.05)  # it waits for this one to end, and cannot tell
        return open_network(*of)

    monkeypatch.setattr(receiver.enhance.faces.generator._Network, "open", opening)
    asking[0].start()
    for thread in asking:
        thread.join(30)
    assert len(opened) == 1
    assert generator._network is not before
    generator.rebuild()  # at another time it is another failure
    assert len(opened) == 2


class Hanging:
    """A session whose runs hang until they are let go, and fail then."""

    def __init__(self) -> None:
        self.began, self.go_on = threading.Event(), threading.Event()

    def get_providers(self):
        return ["CPUExecutionProvider"]

    def run(self, *_):
        self.began.set()
        self.go_on.wait(10)
        raise RuntimeError("too late")


def test_who_waits_for_a_run_that_hangs_goes_over_to_the_new_network():
    generator = Generator("lite", "cpu")
    arrays, good = inputs(1), generator._network
    hanging = Hanging()
    generator._network = replace(good, session=hanging, alignment=None)
    with ThreadPoolExecutor(2) as pool:
        stuck = pool.submit(generator.restore, *arrays)
        assert hanging.began.wait(10)
        waiting = pool.submit(generator.restore, *arrays)
        generator.rebuild()
        np.testing.assert_array_equal(waiting.result(10), good.restore(named(arrays)))
        hanging.go_on.set()
        with pytest.raises(RuntimeError, match="too late"):
            stuck.result(10)


def named(arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
    return dict(zip(CHANNELS, arrays, strict=True))


def test_it_goes_over_to_another_file_and_stays_where_that_fails(tmp_path):
    generator = Generator("lite", "cpu")
    floats = Model.find("lite", on_gpu=True)
    generator.switch(floats)
    assert generator.model == floats
    arrays = inputs(1)
    floating = Generator(str(floats.path), "cpu").restore(*arrays)
    np.testing.assert_array_equal(generator.restore(*arrays), floating)
    with pytest.raises(ModelError, match=r"gone\.onnx is missing"):
        generator.switch(Model("gone", tmp_path / "gone.onnx"))
    assert generator.model == floats


def test_threads_change_nothing_but_time(generator):
    arrays = inputs(1)
    restored = Generator("lite", "cpu", threads=2).restore(*arrays)
    np.testing.assert_allclose(restored, generator.restore(*arrays), atol=1e-5)
