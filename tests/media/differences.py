"""What differs between two probed media files."""

import contextlib
from fractions import Fraction
from typing import Any

from tests.media.probing import PROGRAMS, of_type, sound_bytes


def differences(before: dict[str, Any], after: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Every property that two probed files do not share, but for the pictures' pixels.

    Times may differ by half a tick of the coarser of two clocks, and, as Matroska has no times
    below nought, all by the same amount in it. Keys are `metadata title`, `audio 1 language`...
    """
    shift = _shift(before, after)
    found = _file_differences(before, after)
    for kind in ("video", "cover", "audio", "subtitle", "data", "attachment"):
        pairs = of_type(before, kind), of_type(after, kind)
        if len(pairs[0]) != len(pairs[1]):
            found[f"{kind} streams"] = tuple([s["codec"] for s in side] for side in pairs)
            continue
        for index, (one, other) in enumerate(zip(*pairs, strict=True)):
            # Of others libav only estimates the end.
            exact = before["format"].startswith(("mov,", "matroska,"))
            of_stream = _stream_differences(one, other, after["format"], shift, exact)
            found |= {f"{kind} {index} {name}": values for name, values in of_stream.items()}
    return found


def _shift(before: dict[str, Any], after: dict[str, Any]) -> Fraction:
    """By how much all times were moved, where they may be; else 0.

    A Matroska file has none below nought. The clock of MPEG's streams begins anywhere, so that
    theirs may begin at nought.
    """
    firsts = [[s["frames"][0]["time"] for s in of_type(p, "video")[:1]] for p in (before, after)]
    if not all(firsts) or None in (firsts[0][0], firsts[1][0]):
        return Fraction(0)
    moved: Fraction = firsts[1][0] - firsts[0][0]
    times = [t for s in before["streams"] for t, _, _ in s["packets"] if t is not None]
    earliest, rounding = min(times, default=Fraction(0)), Fraction(1, 1000)
    if before["format"] in ("mpegts", "mpeg") and abs(earliest + moved) <= rounding:
        return moved
    needed = -min(earliest, Fraction(0)) if "matroska" in after["format"] else Fraction(0)
    return moved if -rounding <= moved <= needed + rounding and needed else Fraction(0)


def _file_differences(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    found = _metadata_differences(before["metadata"], after["metadata"])
    if len(before["chapters"]) != len(after["chapters"]):
        found["chapters"] = before["chapters"], after["chapters"]
    else:
        for number, (one, other) in enumerate(
            zip(before["chapters"], after["chapters"], strict=True)
        ):
            if any(abs(a - b) > Fraction(1, 1000) for a, b in zip(one[:2], other[:2], strict=True)):
                found[f"chapter {number} times"] = one[:2], other[:2]
            if one[2] != other[2]:
                found[f"chapter {number} metadata"] = one[2], other[2]
    order = [
        [s["type"] for s in side["streams"] if s["type"] in ("video", "audio", "subtitle")]
        for side in (before, after)
    ]
    if order[0] != order[1]:
        found["order"] = tuple(order)
    return found


def _metadata_differences(before: dict[str, str], after: dict[str, str]) -> dict[str, Any]:
    return {
        f"metadata {key}": (before.get(key), after.get(key))
        for key in sorted((before.keys() | after.keys()) - PROGRAMS - {"language"})
        if before.get(key) != after.get(key)
    }


def _stream_differences(
    one: dict[str, Any], other: dict[str, Any], container: str, shift: Fraction, exact: bool
) -> dict[str, Any]:
    found = _metadata_differences(one["metadata"], other["metadata"])
    found.pop("metadata creation_time", None)  # the file's own counts: Matroska has no other
    if one["type"] == "cover":  # Matroska needs both, others have none
        found.pop("metadata filename", None)
        found.pop("metadata mimetype", None)
    languages = [s["metadata"].get("language", "und") for s in (one, other)]
    if languages[0] != languages[1]:
        found["language"] = tuple(languages)
    if one["disposition"] != other["disposition"]:
        found["disposition"] = one["disposition"], other["disposition"]
    names = ("codec", "sound", "header", "data", "mimetype", "sar", "profile")
    if one["type"] == "video":
        names = ("sar",)
    named = not any("channels" in s.get("layout", "") for s in (one, other))
    if one["type"] == "audio" and named and one["codec"] != "flac":
        names += ("layout",)  # named, not only counted
    for name in names:
        if one.get(name) != other.get(name):
            found[name] = one.get(name), other.get(name)
    if one["type"] == "video":
        return found | _video_differences(one, other, container, shift, exact)
    if one["type"] == "audio":
        if sound_bytes(one) != sound_bytes(other):
            found["packets"] = len(one["packets"]), len(other["packets"])
    elif one["type"] == "cover":
        if [p[2] for p in one["packets"]] != [p[2] for p in other["packets"]]:
            found["picture"] = len(one["packets"]), len(other["packets"])
        return found
    elif [data for _, _, data in one["packets"]] != [data for _, _, data in other["packets"]]:
        found["packets"] = len(one["packets"]), len(other["packets"])
    tolerance = _tolerance(one, other)
    times = [[time for time, _, _ in s["packets"]] for s in (one, other)]
    if str(one["codec"]).startswith("pcm_"):
        times = [side[:1] for side in times]
    _compare_times(found, "times", times, tolerance, shift)
    if one["type"] == "subtitle":
        lengths = [[length for _, length, _ in s["packets"]] for s in (one, other)]
        _compare_times(found, "durations", lengths, tolerance, Fraction(0))
    return found


def _tolerance(one: dict[str, Any], other: dict[str, Any]) -> Fraction:
    """A tick of the coarser clock, as a shift is rounded as well; nothing for one and the same."""
    clocks = one["time_base"], other["time_base"]
    return Fraction(0) if clocks[0] == clocks[1] else max(clocks)


def _compare_times(
    found: dict[str, Any], name: str, times: list[list[Any]], tolerance: Fraction, shift: Fraction
) -> None:
    one, other = times
    if shift:
        tolerance = max(tolerance, Fraction(1, 1000))
    same = len(one) == len(other) and all(
        a is not None and b is not None and abs(a + shift - b) <= tolerance
        for a, b in zip(one, other, strict=True)
    )
    if not same:
        found[name] = [t and float(t) for t in one], [t and float(t) for t in other]


def _video_differences(
    one: dict[str, Any], other: dict[str, Any], container: str, shift: Fraction, exact: bool
) -> dict[str, Any]:
    """Of frames that are shown: times, sizes, colours and all."""
    found: dict[str, Any] = {}
    tolerance = _tolerance(one, other)
    times = [[frame["time"] for frame in s["frames"]] for s in (one, other)]
    _compare_times(found, "times", times, tolerance, shift)
    if len(times[0]) != len(times[1]):
        return found
    for name in ("size", "format", "colours", "interlaced", "matrix", "side_data"):
        values = [[frame[name] for frame in s["frames"]] for s in (one, other)]
        if values[0] != values[1]:
            pairs = zip(*values, strict=True)
            found[name] = next((a, b) for a, b in pairs if a != b)
    ends = one["end"], other["end"]
    if (
        exact
        and None not in ends
        and abs(ends[0] + shift - ends[1]) > max(tolerance, Fraction(1, 1000))
    ):
        found["end"] = tuple(map(float, ends))
    with contextlib.suppress(TypeError):
        if other["time_base"] > one["time_base"] and "matroska" not in container:
            found["time base"] = one["time_base"], other["time_base"]
    return found
