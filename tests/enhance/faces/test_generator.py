"""The face generator: its files and signature, its device, and calls that share it."""

import hashlib
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import receiver.enhance.faces.generator
import receiver.inference.sessions
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.alignment import draw_landmarks, extract_crop, transform
from receiver.enhance.faces.generator import CHANNELS, Generator
from receiver.enhance.faces.tracking import FaceTracker
from receiver.errors import DeviceError, ModelError
from receiver.inference.devices import Device, cuda_problem, tensorrt_problem
from receiver.inference.model_files import WEIGHTS, Model
from receiver.inference.network import Network
from receiver.media.frame import DecodedFrame
from receiver.media.planes import planes
from tests.conftest import same_pixels
from tests.inference.small_networks import identity
from tests.inference.test_request_queue import until

pytestmark = pytest.mark.slow


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


def test_its_device_is_that_of_its_session(generator):
    assert generator.device == "cpu"
    session = generator._networks.restorer.session
    assert session.get_providers()[0] == "CPUExecutionProvider"


def test_a_cpu_runs_the_integers(generator):
    assert generator.model.path.name == "lite-int8.onnx"


def test_both_files_are_the_same_network(generator, portrait):
    """Rounding to 8 bits changes the restored crop by far less than restoring does."""
    floats = Generator(str(WEIGHTS / "lite.onnx"), "cpu")
    face = FaceTracker().track(planes(portrait[0])[0])[0]
    crop = extract_crop(portrait[0], face.crop_from_frame)[None]
    drawn = draw_landmarks(transform(face.landmarks, face.crop_from_frame))[None, None]
    blocky = np.repeat(np.repeat(crop[:, :, 2::4, 2::4], 4, axis=2), 4, axis=3)
    crops = [model.restore(blocky, blocky, drawn) for model in (floats, generator)]
    restored, rounded = np.abs(crops[0] - blocky).mean(), np.abs(np.subtract(*crops)).mean()
    assert restored > 1 / 255
    assert rounded < 0.4 * restored


def test_threads_change_only_the_time(generator):
    arrays = inputs(1)
    restored = Generator("lite", "cpu", threads=2).restore(*arrays)
    np.testing.assert_allclose(restored, generator.restore(*arrays), atol=1e-5)


# Files


@pytest.fixture
def weights(tmp_path, monkeypatch) -> Path:
    """A copy of the shipped weights in place of the installed ones."""
    shutil.copytree(WEIGHTS, tmp_path / "weights")
    monkeypatch.setattr("receiver.inference.model_files.WEIGHTS", tmp_path / "weights")
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


def test_a_running_generator_rejects_changed_weights(weights):
    generator = Generator("lite", "cpu")
    change(weights / "lite.onnx")
    with pytest.raises(ModelError, match="SHA-256"):
        generator.switch(Model.find("lite", on_gpu=True))
    change(weights / "lite-int8.onnx")
    with pytest.raises(ModelError, match="SHA-256"):
        generator.rebuild()
    assert generator.restore(*inputs(1)).shape == (1, 3, 256, 256)


@pytest.mark.parametrize("with_card", [False, True])
def test_a_file_from_elsewhere_is_not_checked(weights, tmp_path, with_card):
    other = tmp_path / "other"
    other.mkdir()
    network = onnx.load(weights / "lite.onnx")
    network.doc_string = "another file of the same network"
    onnx.save(network, other / "lite.onnx")
    if with_card:
        shutil.copyfile(weights / "lite.json", other / "lite.json")
    generator = Generator(str(other / "lite.onnx"), "cpu")
    assert generator.model.sha256 != Model.find("lite", on_gpu=True).sha256
    assert generator.restore(*inputs(1)).shape == (1, 3, 256, 256)


def test_an_exported_model_runs_by_its_name_with_its_aligner(tmp_path, monkeypatch, generator):
    folder = tmp_path / "keyframe-receiver" / "models"
    folder.mkdir(parents=True)
    for end in ("-int8.onnx", "-int8-align.onnx"):
        shutil.copyfile(WEIGHTS / f"lite{end}", folder / f"mine{end}")
    (folder / "mine.json").write_text('{"sha256": {"mine-int8-align.onnx": "unchecked"}}')
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    mine, arrays = Generator("mine", "cpu"), inputs(1)
    assert (mine.name, mine.model.name) == ("mine", "mine")
    np.testing.assert_array_equal(mine.restore(*arrays), generator.restore(*arrays))


def test_an_unknown_model_is_named():
    with pytest.raises(ModelError, match="there is no model 'nosuch': give one of lite, the name"):
        Generator("nosuch", "cpu")


GOOD: dict[str, list[int | str]] = {name: ["n", c, 256, 256] for name, c in CHANNELS.items()}


@pytest.mark.parametrize(
    ("names", "output"),
    [
        ({"picture": ["n", 3, 256, 256]}, "restored"),
        (GOOD, "result"),
        (GOOD | {"landmarks": ["n", 68, 256, 256]}, "restored"),
        (GOOD | {"degraded": ["n", 3, 128, 128]}, "restored"),
        (GOOD | {"degraded": ["n", 3, "h", "w"]}, "restored"),
    ],
)
def test_another_signature_is_rejected(tmp_path, names, output):
    path = identity(tmp_path / "other.onnx", names, output)
    with pytest.raises(ModelError, match=r"other\.onnx is not a generator: it takes ") as raised:
        Generator(str(path), "cpu")
    assert str(raised.value).endswith(
        f"and returns {output} {list(next(iter(names.values())))}, instead of degraded and "
        "reference Nx3x256x256, landmarks Nx1x256x256 and restored Nx3x256x256; export one with "
        "python -m models.export"
    )


@pytest.mark.parametrize("batch", ["n", 1])
def test_any_file_of_the_right_signature_runs(tmp_path, batch):
    names = {name: [batch, *sizes[1:]] for name, sizes in GOOD.items()}
    path = identity(tmp_path / "identity.onnx", names, "restored")
    arrays = inputs(1)
    np.testing.assert_array_equal(Generator(str(path), "cpu").restore(*arrays), arrays[0])


# Devices


def test_an_absent_cuda_is_an_error_and_auto_uses_the_cpu(monkeypatch):
    monkeypatch.setattr(
        "receiver.inference.devices.cuda_problem", lambda: "no NVIDIA driver was found"
    )
    with pytest.raises(DeviceError, match="CUDA was asked for and is not available: no NVIDIA"):
        Generator("lite", "cuda")
    assert Generator("lite", "auto").device == "cpu"


def test_an_absent_tensorrt_is_an_error(monkeypatch):
    monkeypatch.setattr("receiver.inference.devices.cuda_problem", lambda: None)
    monkeypatch.setattr("receiver.inference.devices.NVINFER_LIBRARY", "libnosuch.so.10")
    with pytest.raises(DeviceError, match=r"TensorRT was asked for and is not available: "):
        Generator("lite", "tensorrt")


def test_a_gpu_session_that_does_not_open_is_an_error_and_auto_uses_the_cpu(monkeypatch, caplog):
    new_session = receiver.inference.sessions.new_session

    def opening(model, device, providers, threads):
        if device != "cpu":
            raise DeviceError("CUDA failure 999")
        return new_session(model, device, providers, threads)

    monkeypatch.setattr("receiver.inference.sessions.new_session", opening)
    monkeypatch.setattr("receiver.inference.devices.device_problem", lambda _: None)
    with pytest.raises(DeviceError, match="999"):
        Generator("lite", "cuda")
    generator = Generator("lite", "auto")
    assert (generator.device, generator.model.path.name) == ("cpu", "lite-int8.onnx")
    (record,) = caplog.records
    assert record.getMessage() == "the CPU is used instead of CUDA: CUDA failure 999"


def test_cuda_restores_as_the_cpu_does(caplog):
    problem = cuda_problem()
    if problem:
        pytest.skip(f"needs CUDA: {problem}")
    restores_as_the_cpu_does("cuda")
    assert "without CUDA graphs" not in caplog.text


def test_tensorrt_restores_as_the_cpu_does(monkeypatch, tmp_path):
    problem = tensorrt_problem()
    if problem:
        pytest.skip(f"needs CUDA and TensorRT: {problem}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    restores_as_the_cpu_does("tensorrt")
    assert list(tmp_path.rglob("*.engine"))


def restores_as_the_cpu_does(device: Device) -> None:
    """Compares a device with the CPU: same weights, floating point, several batches in turn."""
    on_gpu = Generator("lite", device)
    on_cpu = Generator(str(WEIGHTS / "lite.onnx"), "cpu")
    assert on_gpu.device == device
    for count in (1, 4, 2, 9, 1):
        arrays = inputs(count)
        np.testing.assert_allclose(on_gpu.restore(*arrays), on_cpu.restore(*arrays), atol=3e-2)


# Shared by several calls


def test_calls_that_share_it_get_the_frames_that_each_gets_alone(decoded):
    """To the bit, batched or not: results in 8-bit integers do not depend on the batch."""
    generator = Generator("lite", "cpu")
    streams = [decoded[:12], decoded[12:24]]
    alone = [in_step(generator, [frames])[0] for frames in streams]
    for batch in (1, 8):
        generator.batch = batch
        together = in_step(generator, streams)
        for one, other in zip(alone, together, strict=True):
            assert all(map(same_pixels, one, other))


def in_step(generator: Generator, streams: list[list[DecodedFrame]]) -> list[list]:
    """Enhances every stream in a separate thread; all threads start each frame together."""
    start = threading.Barrier(len(streams))

    def enhance(frames: list[DecodedFrame]) -> list:
        enhancer, outputs = Enhancer(generator), []
        for frame in frames:
            start.wait(10)
            outputs.append(enhancer.enhance(frame))
        return outputs

    with ThreadPoolExecutor(len(streams)) as pool:
        return list(pool.map(enhance, streams, timeout=60))


def test_calls_that_recover_together_open_one_session(monkeypatch):
    generator, opened = Generator("lite", "cpu"), []
    before, open_networks = generator._networks, receiver.enhance.faces.generator._Networks.open
    asking = [threading.Thread(target=generator.rebuild) for _ in range(4)]

    def opening(*of):
        opened.append(of)
        for thread in asking[1:] if len(opened) == 1 else ():
            thread.start()
            time.sleep(0.05)  # it blocks in `rebuild`, which nothing shows
        return open_networks(*of)

    monkeypatch.setattr(receiver.enhance.faces.generator._Networks, "open", opening)
    asking[0].start()
    for thread in asking:
        thread.join(30)
    assert len(opened) == 1
    assert generator._networks is not before
    generator.rebuild()  # a later call is for another failure
    assert len(opened) == 2


class Hanging:
    """A session whose runs hang until `goes_on` is set, and then fail."""

    def __init__(self) -> None:
        self.began, self.goes_on = threading.Event(), threading.Event()

    def get_providers(self):
        return ["CPUExecutionProvider"]

    def run(self, *_):
        self.began.set()
        self.goes_on.wait(60)
        raise RuntimeError("too late")


def hanging_networks(generator: Generator, session: Hanging):
    restorer = generator._networks.restorer
    hanging = Network(restorer.model, restorer.signature, session)
    return replace(generator._networks, restorer=hanging, aligner=None)


def test_requests_behind_a_hanging_run_go_to_the_new_network():
    generator = Generator("lite", "cpu")
    arrays, expected = inputs(1), generator.restore(*inputs(1))
    session, queue = Hanging(), generator._queue
    generator._networks = hanging_networks(generator, session)
    with ThreadPoolExecutor(2) as pool:
        stuck = pool.submit(generator.restore, *arrays)
        assert session.began.wait(10)
        waiting = pool.submit(generator.restore, *arrays)
        until(lambda: len(queue._waiting) == 1)
        generator.rebuild()
        try:
            np.testing.assert_array_equal(waiting.result(20), expected)
        finally:
            session.goes_on.set()
        with pytest.raises(RuntimeError, match="too late"):
            stuck.result(10)


def test_a_rebuild_that_hangs_does_not_block_another(monkeypatch):
    generator = Generator("lite", "cpu")
    monkeypatch.setattr(receiver.enhance.faces.generator, "REBUILD_PATIENCE", 0.05)
    before = generator._networks
    with generator._changing:  # as the rebuild that hangs holds it
        generator.rebuild()
        assert generator._changing.locked()
    assert generator._networks is not before
    generator.rebuild()
    assert not generator._changing.locked()


def test_it_switches_to_another_file_and_keeps_the_old_one_if_that_fails(tmp_path):
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
