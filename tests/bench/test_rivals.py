"""Rivals show frames at full size, as their inventors meant it."""

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.video.reformatter import ColorRange

from bench.command_line import MissingPackageError
from bench.rivals.luma import BLOCK_SIZE, SHUFFLE, with_block_size
from bench.rivals.naming import CHOICE, is_rival, rival_of, rivals_of
from bench.rivals.paper_networks import network_of
from receiver.errors import InputError
from receiver.inference.sessions import default_threads
from receiver.media.planes import copy_frame, planes
from tests.conftest import plain_frame, same_pixels

PEERS = Path(__file__).parents[3] / "shared" / "peers"
"""Other people's weights: not part of the repository."""
needs_peers = pytest.mark.skipif(
    not PEERS.is_dir(), reason="needs other people's weights in ../shared/peers"
)
DOUBLING = ("FSRCNN_x2.pb", "FSRCNN-small_x2.pb", "ESPCN_x2.pb")
FILES = (*DOUBLING, "light_safmnpp_x4.pth")
NAMES = ("bicubic", "lanczos", "deblock")
ALL = [*NAMES, *(pytest.param(name, marks=needs_peers) for name in FILES)]
BT709 = 1


@pytest.fixture(scope="module")
def shown():
    """Returns what a rival makes of a frame; each rival is loaded once."""
    loaded = {}

    def show(name, frame, width, height):
        if name not in loaded:
            loaded[name] = rival_of(name if name in NAMES else str(PEERS / name), threads=1)
        return loaded[name].show(frame, width, height)

    return show


@pytest.fixture(scope="module")
def photograph() -> av.VideoFrame:
    """The photograph that the demo's portrait shows: sharp, other than the enlarged portrait."""
    data = pytest.importorskip("skimage.data")
    return av.VideoFrame.from_ndarray(data.astronaut(), format="rgb24").reformat(format="yuv420p")


@pytest.fixture(scope="module")
def small(photograph) -> av.VideoFrame:
    """It at 160x120, with a time and tags."""
    frame = photograph.reformat(160, 120, interpolation="BICUBIC")
    frame.pts, frame.time_base = 3003, Fraction(1, 90000)
    frame.colorspace, frame.color_range = BT709, ColorRange.MPEG
    return frame


def psnr(original, frame, margin=16):
    ours, theirs = (
        np.ascontiguousarray(planes(one)[0][margin:-margin, margin:-margin])
        for one in (original, frame)
    )
    return cv2.PSNR(ours, theirs)


def reduced(frame, times):
    """The frame as those networks were trained to take it."""
    return frame.reformat(frame.width // times, frame.height // times, interpolation="BICUBIC")


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("size", [(320, 240), (480, 360), (200, 150), (640, 480), (160, 120)])
def test_the_size_is_the_one_asked_for_and_tags_stay(shown, small, name, size):
    before = copy_frame(small)
    frame = shown(name, small, *size)
    assert (frame.width, frame.height, frame.format.name) == (*size, "yuv420p")
    assert (frame.pts, frame.time_base) == (3003, Fraction(1, 90000))
    assert (frame.colorspace, frame.color_range) == (BT709, ColorRange.MPEG)
    assert same_pixels(before, small)


@pytest.mark.parametrize("name", ALL)
def test_every_rival_shows_the_same_picture_at_the_same_place(shown, small, name):
    bicubic = shown("bicubic", small, 320, 240)
    frame = shown(name, small, 320, 240)
    for one, other in zip(planes(bicubic), planes(frame), strict=True):
        step = np.abs(one.astype(int) - other.astype(int))
        assert step.mean() < 4, name
        assert abs(one.mean() - other.mean()) < 1.5
    assert same_pixels(bicubic, frame) == (name == "bicubic")


@pytest.mark.parametrize("name", ALL)
def test_full_range_stays_full_range(shown, name):
    frame = av.VideoFrame(64, 48, "yuvj420p")
    for plane, level in zip(planes(frame), (250, 120, 135), strict=True):
        plane[:] = level  # brighter than limited range has
    large = shown(name, frame, 128, 96)
    assert (large.format.name, large.color_range) == ("yuv420p", ColorRange.JPEG)
    middles = [plane[plane.shape[0] // 2, plane.shape[1] // 2] for plane in planes(large)]
    assert np.abs(np.array(middles, int) - (250, 120, 135)).max() <= 6


@pytest.mark.parametrize("name", ALL)
def test_a_rival_takes_frames_of_changing_sizes(shown, small, name):
    for frame in (small, plain_frame(176, 144), plain_frame(90, 70), small):
        large = shown(name, frame, 2 * frame.width, 2 * frame.height)
        assert (large.width, large.height) == (2 * frame.width, 2 * frame.height)
        assert abs(planes(large)[0].mean() - planes(frame)[0].mean()) < 2


@needs_peers
def test_networks_for_twice_the_size_beat_bicubic_on_a_clean_picture(shown, photograph):
    half = reduced(photograph, 2)
    gains = {
        name: psnr(photograph, shown(name, half, photograph.width, photograph.height))
        for name in ("bicubic", *DOUBLING)
    }
    bicubic = gains.pop("bicubic")
    assert min(gains.values()) > bicubic + 0.5, gains


@needs_peers
def test_safmn_beats_bicubic_on_a_clean_picture_at_four_times_the_size(shown, photograph):
    quarter, size = reduced(photograph, 4), (photograph.width, photograph.height)
    bicubic = psnr(photograph, shown("bicubic", quarter, *size))
    assert psnr(photograph, shown("light_safmnpp_x4.pth", quarter, *size)) > bicubic + 0.6


def test_lanczos_beats_bicubic_on_a_clean_picture(shown, photograph):
    half, size = reduced(photograph, 2), (photograph.width, photograph.height)
    bicubic, lanczos = (
        psnr(photograph, shown(name, half, *size)) for name in ("bicubic", "lanczos")
    )
    assert bicubic + 0.1 < lanczos < bicubic + 1


def test_deblock_smooths_the_edges_of_blocks_and_nothing_else(shown):
    frame = av.VideoFrame(64, 48, "yuv420p")
    luma, blue, red = planes(frame)
    luma[:, :24], luma[:, 24:44], luma[:, 44:] = 100, 104, 108  # only the first is on a grid of 8
    blue[:], red[:] = 128, 128
    row = planes(shown("deblock", frame, 64, 48))[0][20].astype(int)
    steps = np.abs(np.diff(row))
    assert 1 <= steps[20:28].max() < 4
    assert (row[:20] == 100).all()
    assert row[28:60].tolist() == [104] * 16 + [108] * 16


@needs_peers
def test_the_result_of_a_larger_size_is_averaged(shown, small):
    doubled = planes(shown("FSRCNN_x2.pb", small, 320, 240))[0].astype(float)
    average = doubled.reshape(120, 2, 160, 2).mean(axis=(1, 3))
    same = planes(shown("FSRCNN_x2.pb", small, 160, 120))[0]
    assert np.abs(same - average).max() <= 1


@needs_peers
def test_a_network_leaves_the_number_of_opencv_s_threads_alone(small):
    rival = rival_of(str(PEERS / "ESPCN_x2.pb"), threads=1)
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        rival.show(small, 320, 240)
        assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(before)
    assert rival.runtime == "OpenCV, 1 thread"


@needs_peers
def test_networks_run_with_the_threads_that_are_asked_for(small, monkeypatch):
    rival = rival_of(str(PEERS / "ESPCN_x2.pb"), threads=3)
    asked, before = [], cv2.getNumThreads()
    monkeypatch.setattr(cv2, "setNumThreads", asked.append)
    rival.show(small, 320, 240)
    assert asked == [3, before]
    safmn = rival_of(str(PEERS / "light_safmnpp_x4.pth"), threads=3)
    assert safmn._session.get_session_options().intra_op_num_threads == 3
    assert safmn.runtime == "ONNX Runtime, 3 threads"


@needs_peers
def test_the_averaged_weights_are_used(tmp_path):
    torch = pytest.importorskip("torch")
    state = torch.load(PEERS / "light_safmnpp_x4.pth", weights_only=True)["params"]
    flat = {name: torch.zeros_like(value) for name, value in state.items()}
    paths = {"both": {"params": state, "params_ema": flat}, "one": {"params": state}, "bare": state}
    levels = {}
    for name, content in paths.items():
        torch.save(content, tmp_path / f"{name}.pth")
        rival = rival_of(str(tmp_path / f"{name}.pth"))
        levels[name] = rival.enlarge(np.full((16, 16, 3), 200, np.uint8))
    assert levels["both"].max() == 0
    assert levels["one"].mean() > 150
    assert np.array_equal(levels["one"], levels["bare"])


@pytest.mark.slow
@pytest.mark.timeout(900)  # an export takes minutes on a busy machine
@pytest.mark.parametrize("form", ["paper", "paper-mobilenet-small"])
def test_an_untrained_network_of_the_paper_returns_the_crop(form):
    pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    degraded, reference = (rng.integers(0, 256, (256, 256, 3), dtype=np.uint8) for _ in range(2))
    landmarks = np.zeros((256, 256), np.uint8)
    network = network_of(form, "cpu", 2)
    restored = network.restore(degraded, reference, landmarks)
    assert restored.dtype == np.float32
    assert np.abs(restored - degraded / np.float32(255)).max() < 1e-5  # its last layer is zero
    assert network.device == "cpu"
    assert network.runtime.startswith("eager PyTorch, " if form == "paper" else "ONNX Runtime, 2 t")


@needs_peers
def test_a_name_is_the_file_s_without_its_ending():
    (one, other) = rivals_of(["bicubic", str(PEERS / "ESPCN_x2.pb")])
    assert (one.name, one.runtime) == ("bicubic", "swscale")
    assert other.name == "ESPCN_x2"
    assert other.runtime.startswith(f"OpenCV, {default_threads()} thread")


@pytest.mark.parametrize("text", ["magic", "", "bicubic.onnx", "Bicubic", "/"])
def test_an_unknown_name_is_one_sentence_with_all_names(text):
    assert not is_rival(text)
    with pytest.raises(InputError) as refused:
        rival_of(text)
    assert str(refused.value) == (
        f"{text!r} is not a rival: give bicubic, lanczos, deblock, or the file of a network: "
        "FSRCNN x2 or ESPCN x2 (.pb), light SAFMN++ x4 (.pth)"
    )


def test_a_file_that_is_not_there_is_one_sentence(tmp_path):
    for name in ("none.pb", "none.pth"):
        with pytest.raises(InputError) as refused:
            rival_of(str(tmp_path / name))
        assert str(refused.value) == f"there is no file {tmp_path / name}; give {CHOICE}"


def assert_refused(path: Path, lacks: str) -> None:
    """Expects one sentence that says what the file does not hold, and what can be given."""
    with pytest.raises(InputError) as refused:
        rival_of(str(path))
    sentence = str(refused.value)
    assert sentence.startswith(f"{path} does not hold {lacks}")
    assert sentence.endswith(f"; give {CHOICE}")
    assert "\n" not in sentence


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"\x0a\x7fshort", b"\xff" * 40, b"\x0a\x06\x0a\x01x\x12\x01y"],
)
def test_a_broken_graph_is_one_sentence(tmp_path, content, capfd):
    path = tmp_path / "net.pb"
    path.write_bytes(content)
    assert_refused(path, "FSRCNN or ESPCN x2 that this OpenCV can run: ")
    assert capfd.readouterr() == ("", "")


def test_broken_weights_are_one_sentence(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "net.pth"
    for content in (b"hello", {"params": {"to_feat.weight": torch.zeros(32, 3, 3, 3)}}, [1]):
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        assert_refused(path, "the weights of light SAFMN++ x4: ")


@needs_peers
def test_additional_weights_are_refused(tmp_path):
    torch = pytest.importorskip("torch")
    state = torch.load(PEERS / "light_safmnpp_x4.pth", weights_only=True)["params_ema"]
    path = tmp_path / "net.pth"
    torch.save({"params_ema": state | {"feats.2.conv1.proj.weight": torch.zeros(1)}}, path)
    with pytest.raises(InputError, match="Unexpected key"):
        rival_of(str(path))


@needs_peers
def test_two_files_of_one_name_are_refused(tmp_path):
    path = tmp_path / "ESPCN_x2.pb"
    path.write_bytes((PEERS / "FSRCNN_x2.pb").read_bytes())
    with pytest.raises(InputError) as refused:
        rivals_of([str(PEERS / "ESPCN_x2.pb"), str(path)])
    assert str(refused.value) == (
        f"{PEERS / 'ESPCN_x2.pb'} has the name of another rival, ESPCN_x2: rename the file"
    )


def test_only_the_node_that_needs_it_gets_a_block_size():
    other, shuffle = b"\x0a\x01x\x12\x04Relu", b"\x0a\x01d" + SHUFFLE + b"x" * 150
    end = bytes([0x12, len(SHUFFLE)]) + SHUFFLE  # no node
    graph = bytes([0x0A, len(other)]) + other + b"\x0a\xa7\x01" + shuffle + end
    assert len(shuffle) == 0xA7
    changed = shuffle + BLOCK_SIZE
    assert len(changed) == 0xB8
    assert with_block_size(graph) == (
        bytes([0x0A, len(other)]) + other + b"\x0a\xb8\x01" + changed + end
    )


def test_weights_need_torch_and_the_others_do_not(tmp_path):
    path = tmp_path / "net.pth"
    path.touch()
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from bench.rivals.naming import rival_of\n"
        "print(rival_of('deblock').name)\n"
        f"try: rival_of({str(path)!r})\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines() == [
        "deblock",
        f"{MissingPackageError.__name__} {path} needs torch: "
        "pip install 'keyframe-receiver[train]'",
    ]
