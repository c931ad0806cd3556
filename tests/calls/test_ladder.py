"""A real Chromium on one rung of the ladder of sizes."""

import asyncio
from pathlib import Path

import av
import numpy as np
import pytest

from bench.browser.ladder import measure_rung
from bench.chromium.driver import BINARY, write_y4m
from bench.chromium.sent import ladder_check
from bench.common.ladder import rung_at
from receiver.media.planes import planes

pytestmark = pytest.mark.skipif(BINARY is None, reason="needs apt install chromium")

NOISE, GRAIN = 10.0, 4
"""Standard deviation of the camera's noise in levels, and its size in pixels: it must not vanish if
the frames are scaled down. Without it, the demo's clip is so easy to encode that Chromium sends it
in full size at 150 kbit/s."""


def noisy(frames: list[av.VideoFrame]) -> list[av.VideoFrame]:
    """Returns copies of yuv420p frames with noise in the luma, other noise in each."""
    rng, copies = np.random.default_rng(1), []
    for frame in frames:
        copy = av.VideoFrame.from_ndarray(frame.to_ndarray(format="yuv420p"), format="yuv420p")
        luma = planes(copy)[0]
        rows, columns = (side // GRAIN for side in luma.shape)
        noise = rng.normal(0.0, NOISE, (rows, columns)).repeat(GRAIN, 0).repeat(GRAIN, 1)
        luma[:] = np.clip(luma + noise, 16, 235)
        copies.append(copy)
    return copies


async def test_a_noisy_camera_is_sent_at_150_kbps_as_the_ladder_says(
    generator, portrait, tmp_path: Path
):
    write_y4m(tmp_path / "camera.y4m", noisy(portrait))
    rung = rung_at(150)
    async with asyncio.timeout(60):
        sent, version = await measure_rung(
            tmp_path / "camera.y4m", tmp_path, generator, rung, seconds=2.0, settling=6.0
        )
    assert version.isdecimal()
    most = sent["sizes"][0]
    assert sum(one["share"] for one in sent["sizes"]) == pytest.approx(1)
    assert most["qp"] == pytest.approx(most["encoder_qp"], abs=3)  # the decoder's and the encoder's
    assert set(sent["limited_s"]) & {"bandwidth", "cpu"}, sent
    if "cpu" in sent["limited_s"]:
        assert ladder_check(sent, rung)["verdict"] == "not measurable"
    else:
        assert (most["width"], most["height"]) == (rung.width, rung.height), sent
