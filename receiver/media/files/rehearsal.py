"""Writes a trial of a file in memory before the work, to see what would be lost."""

from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.stream import Disposition
from av.video.frame import PictureType

from receiver.errors import InputError
from receiver.media.files.copying import Copy, VideoPlan, can_hold, close_trial, copy_packet
from receiver.media.files.reading import STILL, VideoReader
from receiver.media.files.side_data import kinds
from receiver.media.files.tags import (
    chapters_of,
    codec_name,
    in_words,
    language,
    missing,
    tags_of,
    title_of,
)
from receiver.media.files.writing import WRITTEN_FORMATS, Memory, format_of, is_pipe, unwritable

MUXER = {"fflags": "+bitexact", "movie_timescale": "90000"}
"""libav's options for every file: no random numbers and no date, so that runs give equal files, and
for .mp4 a clock that is fine enough for the exact start of each stream."""
TRIALS: tuple[dict[str, str], ...] = (MUXER, {**MUXER, "movflags": "+use_metadata_tags"})
"""Muxer options to try: .mp4 can hold iTunes' tags with cover art, or any tags without it."""


def check_sound(source: VideoReader, target: Path, packets: Mapping[int, Any]) -> None:
    """Raises InputError if `target` cannot hold sound that a file with another ending can."""
    sounds = source.container.streams.audio

    def held(name: str) -> set[int]:
        return {one.index for one in sounds if can_hold(name, one, packets.get(one.index))}

    here = held(format_of(target))
    if len(here) == len(sounds):
        return
    for ending, name in WRITTEN_FORMATS.items():
        if len(more := held(name)) > len(here):
            lost = next(one for one in sounds if one.index in more - here)
            raise InputError(f"{target} cannot hold {codec_name(lost)} audio: end it in {ending}")


def rehearse(
    source: VideoReader, target: Path | None, plan: VideoPlan, packets: Mapping[int, Any]
) -> tuple[dict[str, str], list[str]]:
    """Writes a trial of the target in memory and reads it again.

    Args:
        packets: a copy of the first packet of streams, by their index.

    Returns:
        The muxer options with the fewest losses, and these losses in a few words each.

    Raises:
        InputError: if the target cannot be written at all.
    """
    if target is not None:
        check_sound(source, target, packets)
    trials = TRIALS if format_of(target) in ("mp4", "mov") else TRIALS[:1]
    try:
        outcomes = [_trial(source, target, options, plan, packets) for options in trials]
    except (av.FFmpegError, ValueError, OSError) as error:
        raise unwritable(target, error) from error
    losses = min(outcomes, key=len)
    return trials[outcomes.index(losses)], losses


def _trial(
    source: VideoReader,
    target: Path | None,
    options: Mapping[str, str],
    plan: VideoPlan,
    packets: Mapping[int, Any],
) -> list[str]:
    """Writes a file in memory and returns what it lacks, in a few words each."""
    with Memory(pipe=is_pipe(target)) as trial:
        container = av.open(trial, "w", format_of(target), container_options=dict(options))
        try:
            copy = Copy(container, source, plan, packets, pipe=trial.pipe)
            frame = plan.storage.stored(plan.first)
            frame.pict_type = PictureType.NONE
            container.mux(copy.video.encode(frame))
            container.mux(copy.video.encode(None))
            for index in copy.indexes & set(packets):
                copy.mux(copy_packet(packets[index]))
            container.close()
        finally:
            close_trial(container)
        trial.seek(0)
        with av.open(trial, "r", metadata_errors="replace") as written:
            lost = [*copy.left_out, *_lost_tags(source, copy.indexes, written)]
            place = sum(one in copy.indexes for one in range(source.video.index))
            again: Any = next(written.decode(written.streams[place]), None)
            return lost + sorted(kinds(plan.first) - (kinds(again) if again else set()))


def _lost_tags(
    source: VideoReader, copied: set[int], written: av.container.InputContainer
) -> list[str]:
    """Returns the tags of the source that the written file lacks."""
    lost = [f"the metadata {key}" for key in missing(source.container.metadata, written.metadata)]
    before, after = chapters_of(source, Fraction(0), None), written.chapters()
    if [title_of(one) for one in before] != [title_of(one) for one in after]:
        lost.append("chapters" if len(before) != len(after) else "titles of chapters")
    if source.video.metadata.get("alpha_mode", source.video.metadata.get("ALPHA_MODE")) == "1":
        lost.append("transparency")  # WebM stores it beside the frames: the decoder does not see it
    kept = {source.video.index, *copied}
    if len(_covers(source.container)) > len(_covers(written)):
        lost.append("cover art")
    for kind in ("video", "audio", "subtitle", "data"):
        old = [one for one in source.container.streams if one.type == kind and one.index in kept]
        new = [one for one in written.streams if one.type == kind]
        if len(old) == len(new):  # some formats omit streams without a packet
            for one, other in zip(old, new, strict=True):
                lost += [f"{what} of {in_words(one)}" for what in _lost_of_stream(one, other)]
    return lost


def _covers(container: av.container.InputContainer) -> list[Any]:
    return [one for one in container.streams.video if one.disposition & STILL]


def _lost_of_stream(stream: Any, written: Any) -> Iterable[str]:
    """Yields the tags and marks of a stream that the written one lacks."""
    spoken = language(stream)
    if spoken and spoken != language(written):
        yield f"the language {spoken}"
    known = {name.lower(): value for name, value in written.metadata.items()}
    if "name" in known:  # what libav calls the title of an .mp4's track
        known.setdefault("title", known["name"])
    for key in missing(tags_of(stream), known):
        if key == "creation_time":  # the file has one as well
            continue
        yield f"the metadata {key}"
    gone = Disposition(stream.disposition & ~written.disposition)
    if stream.type != "data" and gone:
        yield "the mark " + " and ".join(one.name or "" for one in Disposition if one & gone)
