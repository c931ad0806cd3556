"""Enhances files and compares their contents; differences must be allowed and reported."""

import itertools
from pathlib import Path
from typing import Any

import av
import numpy as np

from receiver.enhance.enhancer import Enhancer
from receiver.enhance.files import FileResult, enhance_file
from tests.media.differences import differences
from tests.media.probing import planes_of, probe, shown, video_of
from tests.media.sources import FRAMES, face_in

EIGHT = ("yuv420p", "yuv422p", "yuv444p", "gray")
TEN = ("yuv420p10le", "yuv422p10le", "yuv444p10le", "gray10le")
X264 = EIGHT + TEN
"""Pixel formats of outputs."""
ISO_SOUND = {"aac", "ac3", "eac3", "mp3", "mp2", "alac", "flac", "opus", "dts", "truehd", "vorbis"}
"""Codecs of sound that FFmpeg's muxer accepts for .mp4; a .mov holds any PCM as well."""


ENCODED_ANEW = {"wmav2", "amr_nb", "adpcm_ima_wav", "nellymoser", "wmapro"}
"""Codecs of sound that no container here supports."""


def enhanced(
    source: Path, target: Path, generator: Any, **options: Any
) -> tuple[FileResult, list[str]]:
    """Enhances a file; returns the result, and the notes from before the first frame."""
    events: list[Any] = []
    result = enhance_file(
        source, target, Enhancer(generator), crf=0, progress=events.append, say=events.append,
        **options,
    )  # fmt: skip
    said = list(itertools.takewhile(lambda event: isinstance(event, str), events))
    assert not [event for event in events[len(said) :] if isinstance(event, str)], "said too late"
    return result, said


def check(
    source: Path,
    target: Path,
    generator: Any,
    *,
    orientation: int = 0,
    frames: int = FRAMES,
) -> dict[str, Any]:
    """Enhances a file and compares its whole content; returns the probed output.

    Args:
        orientation: which of `tests.media.sources.ORIENTATIONS` the file has.
        frames: how many it has; all show the face, and all are to be restored.
    """
    result, said = enhanced(source, target, generator)
    before, after = probe(source), probe(target)
    video = video_of(before)
    assert result.frames == {"received": frames, "enhanced": frames, "passed": 0}
    assert len(video["frames"]) == frames
    unexplained = differences(before, after)
    for name, (had, has) in dict(unexplained).items():
        if _is_reduction(name, had, has, target.suffix, before, result.notes):
            del unexplained[name]
    assert not unexplained, (unexplained, result.notes)
    assert bool(said) == bool(result.notes), (said, result.notes)
    if any(frame["interlaced"] for frame in video["frames"]):
        fields = [[frame["i"] for frame in shown(path)] for path in (source, target)]
        assert fields[0] == fields[1]
    for one, other in zip(video["frames"], video_of(after)["frames"], strict=True):
        compare_pictures(one["picture"], other["picture"], orientation)
    return after


def _is_reduction(
    name: str, had: Any, has: Any, ending: str, before: dict[str, Any], notes: tuple[str, ...]
) -> bool:
    """Returns whether the output's codec or container forces a difference, and a note names it."""
    told = " ".join(notes).lower()
    odd = any(side % 2 for side in video_of(before)["frames"][0]["size"])
    match name.split():
        case ["video", _, "format"]:
            if (had, has) == ("gray10le", "yuv420p10le"):  # how H.264's decoder gives it
                return True
            loss = _is_least_loss(had, has, odd)
            return loss and (had in told or (not odd and _holds_all(had, has)))
        case ["video", _, "colours"]:
            if {had[0], has[0]} == {0, 1} and had[1:] == has[1:]:  # limited range is not said
                return True
            # RGB has another matrix and range than what it becomes.
            first = video_of(before)["frames"][0]["picture"]
            rgb = first.format.is_rgb or first.format.has_palette
            return rgb and had[2:] == has[2:] and "rgb" in told
        case ["audio", "streams"] if ending != ".mkv":
            lost = _lost(had, has)
            return all(not _iso_holds(c, ending) and c in told for c in lost) and bool(lost)
        case ["subtitle", "streams"]:
            held = {"mov_text"} if ending != ".mkv" else {"subrip", "ass", "webvtt"}
            lost = _lost(had, has)
            return all(c not in held and c in told for c in lost) and bool(lost)
        case ["cover", "streams"] if ending == ".mov":
            return not has and "cover" in told
        case ["attachment", "streams"]:
            return ending != ".mkv" and not has and ("attach" in told or "ttf" in told)
        case ["video" | "audio" | "subtitle", _, "disposition"]:
            # An .mp4 always has a track of a kind enabled; an .avi does not say.
            silent = before["format"] in ("avi", "mpeg", "mpegts")
            return not had and has == {"default"} and (silent or ending != ".mkv")
        case ["subtitle", _, "codec" | "packets" | "durations" | "header" | "times"]:
            # Text may be put into the container's own kind of text.
            return any(s["codec"] in told for s in before["streams"] if s["type"] == "subtitle")
        case ["order"]:
            # Whatever is lost is compared by itself.
            return [t for t in had[0:] if t in has] != has or len(had) != len(has)
        case ["audio" | "subtitle", _, "language"] if ending == ".mov":
            return has == "und" and f"language {had}" in told  # QuickTime knows few
        case ["audio", _, "codec" | "profile" | "packets" | "times" | "layout"]:
            # Encoded anew, because no container here has a name for it.
            anew = [s["codec"] for s in before["streams"] if s["type"] == "audio"]
            return any(codec in ENCODED_ANEW and codec in told for codec in anew)
        case ["metadata", _]:
            return ending != ".mkv" and "metadata" in told
    return False


def _lost(had: list[str], has: list[str]) -> list[str]:
    left = list(has)
    return [codec for codec in had if codec not in left or left.remove(codec)]


def _iso_holds(codec: str, ending: str) -> bool:
    return codec in ISO_SOUND or codec.startswith("pcm_")


def _is_least_loss(had: str, has: str, odd: bool) -> bool:
    """Returns whether a pixel format becomes the nearest one that x264 supports."""
    if has not in X264:
        return False
    if had in X264 and not odd:
        return False
    one, other = av.VideoFormat(had), av.VideoFormat(has)
    deep = max(component.bits for component in one.components)
    if max(component.bits for component in other.components) != (10 if deep > 8 else 8):
        return False
    if one.is_rgb:
        return "444" in has
    grey = len([c for c in one.components if not c.is_alpha]) == 1
    if grey:
        return "gray" in has
    fine = [format_.chroma_width(64) * format_.chroma_height(64) for format_ in (one, other)]
    return fine[1] >= fine[0]


def _holds_all(had: str, has: str) -> bool:
    """Returns whether a YUV pixel format preserves another one, so that no note is needed."""
    one, other = av.VideoFormat(had), av.VideoFormat(has)
    return (
        not one.is_rgb
        and not any(component.is_alpha for component in one.components)
        and one.components[0].bits <= other.components[0].bits
    )


def compare_pictures(before: av.VideoFrame, after: av.VideoFrame, orientation: int = 0) -> None:
    """Asserts that frames are alike outside the face (bit-equal or 45 dB), and differ within it."""
    name = before.format.name
    had, has = name.replace("yuvj", "yuv"), after.format.name.replace("yuvj", "yuv")
    face = face_in(orientation, before.width, before.height)
    if had == has:
        for one, other in zip(planes_of(before), planes_of(after), strict=True):
            outside = ~_at_size(face, one.shape)
            np.testing.assert_array_equal(one[outside], other[outside])
    else:
        again = after.reformat(format=name, threads=1)
        pairs = zip(_levels(before), _levels(again), strict=True)
        for one, other in pairs:
            outside = ~_at_size(face, one.shape[:2])
            error = np.square(one[outside].astype(float) - other[outside].astype(float)).mean()
            assert 10 * np.log10(255**2 / max(error, 1e-9)) >= 45.0
    one, other = (planes_of(after.reformat(format=has, threads=1))[0] for after in (before, after))
    changed = one[face] != other[face]
    assert changed.mean() > 0.1, "the face was not restored"
    if "10" in has and len(np.unique(one & 3)) == 4:
        low = np.unique(other[face][changed] & 3)
        assert len(low) == 4, "restored at less than its depth"


def _levels(frame: av.VideoFrame) -> list[np.ndarray]:
    """Returns a frame's samples, 0 to 255: planes Y, U and V, or one HxWx3 array of RGB."""
    layout = frame.format
    if layout.is_rgb or layout.has_palette or layout.name == "ya8":
        return [frame.reformat(format="rgb24", threads=1).to_ndarray()]
    bits = max(component.bits for component in layout.components)
    return [plane / 2 ** (bits - 8) for plane in planes_of(frame)[:3]]


def _at_size(face: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the face's region in a plane of this size, enlarged by one sample."""
    rows, columns = face.shape
    down, across = -(-rows // shape[0]), -(-columns // shape[1])
    ys, xs = np.nonzero(face)
    small = np.zeros(shape, bool)
    small[
        max(ys.min() // down - 1, 0) : ys.max() // down + 2,
        max(xs.min() // across - 1, 0) : xs.max() // across + 2,
    ] = True
    return small
