"""What Chromium sent, of samples and frames that are known; the ladder check and its tables."""

import json
import sys
from fractions import Fraction

import av
import numpy as np
import pytest

from bench.browser import command
from bench.browser.ladder import disagreement, ladder_table, version_of
from bench.calls.conducting import from_beginning
from bench.calls.figures import figures, sizes
from bench.calls.link import Conditions, Phase
from bench.calls.report import table
from bench.calls.scenarios import Scenario, scenarios
from bench.chromium.camera import covering, write_camera
from bench.chromium.sent import (
    FrameNotes,
    NotedFrame,
    ladder_check,
    limits_text,
    sent_figures,
    sizes_text,
)
from bench.common.ladder import rung_at
from receiver.enhance.pipeline import Pipeline
from receiver.errors import InputError
from receiver.media.frame import DecodedFrame
from receiver.media.planes import planes
from receiver.stats import Stats
from tests.bench.clips import write_clip_at
from tests.conftest import plain_frame, write_clip

SMALL, LARGE = {"width": 320, "height": 240}, {"width": 480, "height": 360}


def sample(at: float, frames: int, qp_sum: int, size: dict[str, int], **limited_s: float) -> dict:
    """Returns a sample whose encoder has sent all of its frames, 500 bytes each.

    The encoder's target is 140 plus its time.
    """
    counts = {
        "target_kbps": 140 + at,
        "frames": frames,
        "encoded": frames,
        "qp_sum": qp_sum,
        "bytes": 500 * frames,
    }
    return {"at": at, **counts, **size, "limited_s": limited_s}


SAMPLES = [
    {"at": 9.5, "rtt_ms": 1.0},  # before the first report: no counts
    sample(10.0, 100, 4000, LARGE, none=3.0, bandwidth=1.0),
    sample(11.0, 130, 5200, LARGE, none=3.0, bandwidth=2.0),  # 30 frames of QP 40
    sample(12.0, 160, 6300, SMALL, none=3.0, bandwidth=3.0),  # the size has changed
    sample(13.0, 170, 6650, SMALL, none=3.0, bandwidth=4.0),  # 10 frames of QP 35
    sample(14.0, 190, 7250, SMALL, none=3.5, bandwidth=4.5),  # 20 frames of QP 30
]
FRAMES = [
    NotedFrame(9.9, 640, 480, 20.0),  # before the first sample with counts
    *(NotedFrame(10.0 + 0.5 * n, 480, 360, qp) for n, qp in enumerate([41.0, 39.0, 43.0, None])),
    *(NotedFrame(12.0 + 0.2 * n, 320, 240, qp) for n, qp in enumerate([30, 31, 32, 33, 34, 50])),
    NotedFrame(14.1, 640, 480, 20.0),  # after the last one
]
SENT = {
    "fps": 22.5,
    "kbps": 90.0,
    "target_kbps": 152.0,
    "encoder_qp": 3250 / 90,
    "limited_s": {"none": 0.5, "bandwidth": 3.5},
    "sizes": [
        {**SMALL, "share": 0.6, "qp": 32.5, "encoder_qp": 950 / 30},
        {**LARGE, "share": 0.4, "qp": 41.0, "encoder_qp": 40.0},
    ],
}


def test_sizes_qps_and_rates_from_the_first_sample_to_the_last():
    assert sent_figures(SAMPLES, FRAMES) == SENT


def test_what_is_unknown_is_none_or_empty():
    assert sent_figures([], FRAMES) == sent_figures(SAMPLES[:2], FRAMES) == {}
    assert sent_figures([SAMPLES[1], SAMPLES[1]], FRAMES) == {}
    bare = [{"at": at, "target_kbps": None, "frames": 30 * at, "bytes": 1000 * at} for at in (1, 2)]
    sent = sent_figures(bare, [NotedFrame(1.5, 320, 240, None)])
    assert sent == {
        "fps": 30.0,
        "kbps": 8.0,
        "target_kbps": None,
        "encoder_qp": None,
        "limited_s": {},
        "sizes": [{**SMALL, "share": 1.0, "qp": None, "encoder_qp": None}],
    }
    assert sizes_text(sent) == "320x240 100 % QP –"
    assert limits_text(sent) == sizes_text({}) == limits_text({}) == "–"
    assert sent_figures(bare, [])["sizes"] == []


def test_texts():
    assert sizes_text(SENT, "; ") == "320x240 60 % QP 32.5; 480x360 40 % QP 41.0"
    assert limits_text(SENT) == "none 0 s, bandwidth 4 s"


def sent_as(width: int, height: int, **limited_s: float) -> dict:
    """Returns figures of a call in which all frames had one size."""
    one = {"width": width, "height": height, "share": 1.0, "qp": 35.04, "encoder_qp": 35.0}
    rates = {"fps": 29.96, "kbps": 148.6, "target_kbps": 600.0}
    return {**rates, "limited_s": limited_s, "sizes": [one]}


@pytest.mark.parametrize(
    ("sent", "verdict"),
    [
        (SENT, "agrees"),  # the most frequent size is 320x240
        (sent_as(320, 240, bandwidth=8.0), "agrees"),
        (sent_as(480, 360, bandwidth=8.0), "disagrees"),
        (sent_as(320, 180), "disagrees"),
        (sent_as(480, 360, cpu=0.0), "disagrees"),
        (sent_as(480, 360, none=7.9, cpu=0.1), "not measurable"),
        (sent_as(320, 240, cpu=8.0), "not measurable"),
        ({**SENT, "sizes": []}, "not measurable"),
        ({**SENT, "target_kbps": 135.0}, "agrees"),
        ({**SENT, "target_kbps": 134.9}, "not measurable"),
        ({**SENT, "target_kbps": None}, "agrees"),
        ({}, "not measurable"),
    ],
)
def test_the_verdict_on_150_kbps(sent, verdict):
    assert ladder_check(sent, rung_at(150)) == {"kbps": 150, **SMALL, "verdict": verdict}


RESULTS = [
    {"sent": sent, "ladder": ladder_check(sent, rung_at(kbps))}
    for kbps, sent in [
        (60, sent_as(480, 360, bandwidth=8.0)),
        (150, {}),
        (250, sent_as(320, 240, cpu=8.0)),
        (400, sent_as(640, 480, none=8.0)),
        (600, sent_as(640, 480, none=8.0)),
    ]
]


def test_the_table_and_the_sentence_of_the_ladder():
    small, middle, full = (f"{size} 100 % QP 35.0" for size in ("320x240", "480x360", "640x480"))
    assert ladder_table(RESULTS) == [
        ["cap kbit/s", "sent as", "fps", "kbit/s", "target", "limited by", "ladder", "verdict"],
        ["60", middle, "30.0", "149", "600", "bandwidth 8 s", "320x240", "disagrees"],
        ["150", "–", "–", "–", "–", "–", "320x240", "not measurable"],
        ["250", small, "30.0", "149", "600", "cpu 8 s", "480x360", "not measurable"],
        ["400", full, "30.0", "149", "600", "none 8 s", "480x360", "disagrees"],
        ["600", full, "30.0", "149", "600", "none 8 s", "640x480", "agrees"],
    ]
    assert disagreement(RESULTS) == (
        "the ladder says 320x240 at 60 kbit/s, but Chromium sends 480x360; "
        "480x360 at 400 kbit/s, but Chromium sends 640x480"
    )
    assert disagreement([RESULTS[1], RESULTS[2], RESULTS[4]]) is None


def test_the_version_in_a_user_agent():
    assert version_of("X11; Linux) HeadlessChrome/156.0.0.0 Safari/537.36") == "156"
    assert version_of("Firefox/140.0") == "unknown"


@pytest.mark.parametrize(("results", "code"), [(RESULTS, 1), (RESULTS[1:3], None)])
def test_the_ladder_exits_with_1_if_a_rung_disagrees(monkeypatch, tmp_path, capsys, results, code):
    async def measured(*arguments):
        return {"chromium": "156", "seconds": arguments[-1], "rungs": results}

    monkeypatch.setattr(command, "measure_ladder", measured)
    monkeypatch.setattr(command, "BINARY", sys.executable)
    monkeypatch.setattr(command, "write_camera", lambda path, clip: None)
    exit_code = None
    try:
        command.main(["--ladder", "--json", str(tmp_path / "ladder.json")])
    except SystemExit as end:
        exit_code = end.code
    assert exit_code == code
    written = json.loads((tmp_path / "ladder.json").read_text())
    assert written == {
        "chromium": "156", "seconds": 8, "rungs": results, "clip": "the demo's",
    }  # fmt: skip
    printed = capsys.readouterr()
    assert "not measurable" in printed.out
    assert printed.err.count("\n") == printed.err.count("the ladder says") == (code or 0)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--ladder", "--janus"], "--ladder takes no --janus and no --kbps"),
        (["--ladder", "--kbps", "100"], "--ladder takes no --janus and no --kbps"),
        (["--seconds", "0"], "a call of 0 s is too short"),
    ],
)
def test_options_of_the_browser_bench(arguments, sentence, capsys):
    with pytest.raises(SystemExit, match="2"):
        command.parse(arguments)
    assert sentence in capsys.readouterr().err


def test_the_browser_bench_shows_sizes_and_ladder():
    assert command.figure_text("sent", SENT) == (
        "320x240 60 % QP 32.5\n480x360 40 % QP 41.0\n90 kbit/s, limited by: none 0 s, bandwidth 4 s"
    )
    assert command.figure_text("sent", {}) == "–\n–, limited by: –"
    check = ladder_check(sent_as(320, 240), rung_at(250))
    assert command.figure_text("ladder", check) == "480x360 at 250 kbit/s: disagrees"
    assert command.figure_text("added_latency_ms", {"median": 15.16}) == "median 15.2"
    assert command.figure_text("sent_fps", 29.958) == "29.96"
    assert command.figure_text("stills", 3) == "3"


def test_every_frame_is_noted_and_none_is_changed():
    notes = FrameNotes()
    pipeline = Pipeline([notes], Stats("cpu"))
    first, missed, last = (plain_frame(*size) for size in ((320, 240), (480, 360), (640, 480)))
    assert pipeline.enhance(DecodedFrame(first, False, qp=30.0)) is first
    enhanced = pipeline.process(DecodedFrame(last, False, None), [DecodedFrame(missed, False, 40)])
    assert enhanced.video is last
    assert [frame[1:] for frame in notes.frames] == [
        (320, 240, 30.0),
        (480, 360, 40),
        (640, 480, None),
    ]
    times = [frame.at for frame in notes.frames]
    assert times == sorted(times)


# Camera


def test_a_camera_frame_is_filled_and_cut_to_its_middle():
    for size in ((640, 480), (1080, 1920), (512, 512), (1280, 720), (400, 336), (641, 479)):
        frame = plain_frame(*(side // 2 * 2 for side in size))
        assert (covering(frame).width, covering(frame).height) == (640, 480)
    wide = av.VideoFrame.from_ndarray(
        np.repeat(np.arange(0, 240, dtype=np.uint8)[None, :], 90, 0)
        .repeat(6, 1)
        .repeat(8, 0)[:, :, None]
        .repeat(3, 2),
        format="rgb24",
    )  # 1440x720, brighter to the right by one level every 6 pixels
    luma = covering(wide).to_ndarray(format="gray")
    # 960x480 after scaling: columns 160 to 800 of it are left, so levels 40 to 200 of 240.
    shown = covering(wide).to_ndarray(format="rgb24").mean((0, 2))
    assert luma.shape == (480, 640)
    assert shown[0] == pytest.approx(40, abs=2)
    assert shown[-1] == pytest.approx(200, abs=2)


def y4m(path) -> tuple[Fraction, list[float]]:
    """Returns the rate of a y4m file and the mean luma of each frame."""
    with av.open(str(path)) as container:
        rate = container.streams.video[0].average_rate
        return rate, [planes(frame)[0].mean() for frame in container.decode(video=0)]


def test_a_clip_is_shown_forward_and_backward(tmp_path):
    levels = [40, 80, 120, 160, 200]
    frames = [plain_frame(level=level) for level in levels]
    write_clip(tmp_path / "clip.mp4", frames, with_audio=False, crf=10)
    write_camera(tmp_path / "camera.y4m", tmp_path / "clip.mp4")
    rate, shown = y4m(tmp_path / "camera.y4m")
    assert rate == 30
    assert shown == pytest.approx([*levels, 160, 120, 80], abs=2)


def test_a_fast_clip_is_shown_in_its_own_time(tmp_path):
    frames = [plain_frame(level=level) for level in (40, 80, 120, 160, 200)]
    write_clip_at(tmp_path / "clip.mp4", frames, 60)
    write_camera(tmp_path / "camera.y4m", tmp_path / "clip.mp4")
    rate, shown = y4m(tmp_path / "camera.y4m")
    assert rate == 30
    assert shown == pytest.approx([40, 120, 200, 120], abs=3)


def test_a_file_that_is_no_video_cannot_be_a_camera(tmp_path):
    (tmp_path / "clip.mp4").write_text("no video")
    with pytest.raises(InputError, match=r"clip\.mp4"):
        write_camera(tmp_path / "camera.y4m", tmp_path / "clip.mp4")


# Calls


def noted(samples: list[dict], decoded: list) -> dict:
    """Returns the notes of a call of 8 s."""
    left = [[0.1 * n, 0.1 * n, n, n] for n in range(80)]
    return {
        "seconds": 8.0, "left": left, "passages": [], "stats": [[0, {}, 0], [8, {}, 0]],
        "sent": samples, "decoded": decoded, "late": [], "faces": [], "hole_at": None,
    }  # fmt: skip


SETTLED = [
    sample(3.9, 10, 400, LARGE, none=1.0),  # before the browser has settled
    sample(4.0, 40, 1600, SMALL, none=1.0),
    sample(6.0, 100, 3700, SMALL, none=1.0, bandwidth=2.0),
]
DECODED = [[3.95, 480, 360, 40.0], [4.1, 320, 240, 35.0], [5.0, 320, 240, 36.0]]


def test_calls_report_what_was_sent_once_it_settled():
    steady = Scenario((Phase(0, Conditions(delay_ms=25)),), cap_kbps=150)
    found = sizes(noted(SETTLED, DECODED), steady)
    assert found["sent"]["sizes"] == [{**SMALL, "share": 1.0, "qp": 35.5, "encoder_qp": 35.0}]
    assert found["sent"]["fps"] == 30
    assert found["ladder"] == {"kbps": 150, **SMALL, "verdict": "agrees"}
    assert figures(noted(SETTLED, DECODED), steady).items() >= found.items()


def test_the_ladder_is_checked_if_only_the_cap_limits_the_call():
    checked = {
        name
        for name, scenario in scenarios(30).items()
        if "ladder" in sizes(noted(SETTLED, DECODED), scenario)
    }
    assert checked == {"free", "rtt-50", "rtt-100", "rtt-300", "hole"}


def test_notes_of_what_was_sent_are_of_the_call_by_its_clock():
    reports = {
        "left": [], "passages": [], "stats": [], "late": [], "faces": [], "hole_at": None,
        "sent": [{"at": 100.0, "frames": 1}, {"at": 104.0, "frames": 2}, {"at": 109.0}],
        "decoded": [[101.0, 320, 240, 35.0], [109.0, 320, 240, 35.0]],
    }  # fmt: skip
    found = from_beginning(reports, 100.0, 8.0)
    assert found["sent"] == [{"at": 0.0, "frames": 1}, {"at": 4.0, "frames": 2}]
    assert found["decoded"] == [[1.0, 320, 240, 35.0]]


def test_the_table_of_calls_shows_sizes_and_ladder():
    steady = Scenario((Phase(0, Conditions()),), cap_kbps=150)
    shown = table(
        [
            {"scenario": "hole", "transport": "ours", "figures": figures(found, steady)}
            for found in (noted(SETTLED, DECODED), noted([], []))
        ],
        8,
    )
    cells = {str(column.header): list(column.cells) for column in shown.columns}
    assert cells["sent as"] == ["320x240 100 % QP 35.5", "–"]
    assert cells["CPU-lim-\nited s"] == ["0", "–"]
    assert cells["ladder"] == ["agrees", "not measurable"]
