"""Still pictures: encoded within limits, decoded without trust."""

import contextlib
import subprocess
import sys
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace
from hypothesis import given
from hypothesis import strategies as st

from receiver.enhance.faces.alignment import extract_crop, psnr_db
from receiver.media.planes import planes
from receiver.stills.picture import MAX_STILL_PIXELS, StillError, decode_still, encode_still
from tests.conftest import plain_frame
from tests.stills.channel import MIDDLE, RED, plain


@pytest.mark.parametrize(("max_bytes", "db"), [(60_000, 38), (12_000, 33), (3_000, 0)])
def test_a_still_fits_and_looks_like_the_frame(portrait, max_bytes, db):
    data, mime = encode_still(portrait[0], max_bytes)
    assert mime == "image/webp"
    assert len(data) <= max_bytes
    still = decode_still(data, mime)
    assert (still.format.name, still.color_range) == ("yuv420p", ColorRange.MPEG)
    if db:
        assert (still.width, still.height) == (640, 480)
        assert psnr_db(extract_crop(still, MIDDLE), extract_crop(portrait[0], MIDDLE)) > db
    else:
        assert still.width < 640
        assert still.width / still.height == pytest.approx(4 / 3, rel=0.01)


def test_encoding_does_not_change_the_frame(portrait):
    frame = portrait[3]
    frame.pts = 77
    before = frame.to_ndarray()
    encode_still(frame, 20_000)
    assert frame.pts == 77
    assert np.array_equal(frame.to_ndarray(), before)


def test_encoding_into_too_few_bytes_is_an_error(portrait):
    with pytest.raises(StillError, match="fits into 20 bytes"):
        encode_still(portrait[0], 20)


def rgb_of(frame: av.VideoFrame) -> np.ndarray:
    """Returns the middle of a frame in RGB, 0 to 255, as the enhancer sees it."""
    return extract_crop(frame, np.array([[1.0, 0, 80], [0, 1.0, 96]]))[:, 128, 128] * 255


@pytest.mark.parametrize(
    ("kind", "space", "levels"),
    [
        ("yuv420p", Colorspace.ITU709, ColorRange.MPEG),
        ("yuv420p", Colorspace.ITU601, ColorRange.MPEG),
        ("yuv420p", Colorspace.ITU601, ColorRange.JPEG),
        ("yuvj420p", Colorspace.ITU601, ColorRange.JPEG),
        ("yuv444p", Colorspace.ITU709, ColorRange.JPEG),
    ],
)
def test_colours_are_kept_in_every_format_of_a_camera(kind, space, levels):
    frame = plain(kind, dst_colorspace=space, dst_color_range=levels)
    frame.colorspace, frame.color_range = space, levels
    still = decode_still(*encode_still(frame, 50_000))
    assert np.abs(rgb_of(still) - RED).max() < 5


@pytest.mark.parametrize("sampling", [0x111111, 0x211111, 0x221111])
@pytest.mark.parametrize("progressive", [0, 1])
def test_jpeg_decodes_to_full_range(sampling, progressive):
    bgr = np.full((64, 96, 3), RED[::-1], np.uint8)
    options = [
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        sampling,
        cv2.IMWRITE_JPEG_PROGRESSIVE,
        progressive,
    ]
    data = cv2.imencode(".jpg", bgr, options)[1].tobytes()
    still = decode_still(data, "image/jpeg")
    assert (still.format.name, still.color_range) == ("yuvj420p", ColorRange.JPEG)
    assert np.abs(rgb_of(still) - RED).max() < 4


def test_grey_lossless_and_transparent_pictures_decode():
    grey = cv2.imencode(".jpg", np.full((64, 96), 200, np.uint8))[1].tobytes()
    assert np.abs(rgb_of(decode_still(grey, "image/jpeg")) - 200).max() < 3
    bgr = np.full((64, 96, 3), RED[::-1], np.uint8)
    lossless = cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes()
    assert np.abs(rgb_of(decode_still(lossless, "image/webp")) - RED).max() < 5
    with_alpha = np.dstack([bgr, np.full((64, 96), 128, np.uint8)])
    data = cv2.imencode(".webp", with_alpha, [cv2.IMWRITE_WEBP_QUALITY, 90])[1].tobytes()
    assert decode_still(data, "image/webp").format.name == "yuv420p"


def animation() -> bytes:
    codec = av.CodecContext.create("libwebp_anim", "w")
    codec.width, codec.height, codec.pix_fmt = 64, 64, "yuv420p"
    codec.time_base = Fraction(1, 30)
    packets = []
    for index in range(3):
        frame = plain_frame(64, 64, level=90 + 20 * index)
        frame.pts, frame.time_base = index, codec.time_base
        packets += codec.encode(frame)
    return b"".join(map(bytes, packets + codec.encode(None)))


DECODE = """
import resource, sys
from pathlib import Path
from receiver.stills.picture import StillError, decode_still

def most():  # bytes; the system says kilobytes, except macOS
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak

data, before = Path(sys.argv[1]).read_bytes(), most()
try:
    decode_still(data, sys.argv[2])
except StillError as error:
    print(error)
print(most() - before)
"""


@pytest.mark.parametrize("kind", [".webp", ".jpg"])
def test_a_huge_picture_is_refused_before_memory_is_allocated(kind, tmp_path):
    lossless = [cv2.IMWRITE_WEBP_QUALITY, 101] if kind == ".webp" else []
    data = cv2.imencode(kind, np.zeros((9000, 9000, 3), np.uint8), lossless)[1].tobytes()
    file, mime = tmp_path / "huge", {".webp": "image/webp", ".jpg": "image/jpeg"}[kind]
    file.write_bytes(data)
    result = subprocess.run(
        [sys.executable, "-c", DECODE, str(file), mime], capture_output=True, text=True, check=False
    )
    refused, grown = result.stdout.splitlines()
    assert f"is not a valid {mime}" in refused
    assert int(grown) < 40_000_000  # the picture takes 121 MB


@pytest.mark.parametrize(
    ("make", "mime"),
    [
        (lambda webp: b"", "image/webp"),
        (lambda webp: b"no picture", "image/webp"),
        (lambda webp: webp[: len(webp) // 2], "image/webp"),
        (lambda webp: webp, "image/jpeg"),
        (lambda webp: webp, "image/png"),
        (lambda webp: animation(), "image/webp"),
        (lambda webp: cv2.imencode(".webp", np.zeros((8, 99, 3), np.uint8))[1].tobytes(),
         "image/webp"),
    ],
)  # fmt: skip
def test_an_invalid_still_is_an_error_of_one_sentence(webp, make, mime):
    with pytest.raises(StillError) as caught:
        decode_still(make(webp), mime)
    assert "\n" not in str(caught.value)


@given(st.data())
def test_mutated_pictures_raise_no_other_error(portrait, data):
    kind, mime = data.draw(
        st.sampled_from([(".webp", "image/webp"), (".jpg", "image/jpeg")]), label="kind"
    )
    small = portrait[0].reformat(96, 64).to_ndarray(format="bgr24")
    picture = bytearray(cv2.imencode(kind, small)[1].tobytes())
    places = st.tuples(st.integers(0, len(picture) - 1), st.integers(0, 255))
    for place, value in data.draw(st.lists(places, max_size=20), label="changes"):
        picture[place] = value
    with contextlib.suppress(StillError):
        still = decode_still(bytes(picture[: data.draw(st.integers(0, len(picture)))]), mime)
        assert still.width * still.height <= MAX_STILL_PIXELS
        assert len(planes(still)) == 3
