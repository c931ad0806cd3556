"""Reads and copies tags of files and streams (languages, titles, chapters)."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from receiver.media.files.reading import VideoReader
from receiver.text import printable

TECHNICAL = frozenset(
    (
        *("major_brand", "minor_version", "compatible_brands", "encoder", "vendor_id"),
        *("handler_name", "duration", "bps", "number_of_frames", "number_of_bytes"),
        *("_statistics_writing_app", "_statistics_writing_date_utc", "_statistics_tags"),
        *("language", "name", "filename", "mimetype", "alpha_mode"),
    )
)
"""Metadata keys (lower case) about how a file was made: the writer of a new file sets its own."""


def describe(copy: Any, stream: Any) -> None:
    """Copies language, title, other tags and disposition of a source's stream to a new stream."""
    tags = tags_of(stream)
    spoken = language(stream)
    if spoken:
        tags["language"] = spoken
    if "handler_name" in stream.metadata:
        tags["handler_name"] = stream.metadata["handler_name"]
    copy.metadata.clear()
    copy.metadata.update(tags)
    copy.disposition = stream.disposition


def tags_of(stream: Any) -> dict[str, str]:
    """Returns the stream's tags that are not `TECHNICAL`, including its title."""
    tags: dict[str, str] = {}
    copy_tags(tags, stream.metadata)
    if "name" in stream.metadata:  # what libav calls the title of an .mp4's track
        tags.setdefault("title", stream.metadata["name"])
    return tags


def copy_tags(to: dict[str, str], of: Mapping[str, str]) -> None:
    """Copies the tags that are not `TECHNICAL`."""
    to.update({key: value for key, value in of.items() if key.lower() not in TECHNICAL})


def language(stream: Any) -> str | None:
    """Returns the stream's language; None if it is undetermined."""
    spoken: str | None = stream.metadata.get("language")
    return None if spoken == "und" else spoken


def chapters_of(source: VideoReader, shift: Fraction, length: Fraction | None) -> list[Any]:
    """Returns the chapters of a part of the source, as PyAV's dicts.

    Args:
        shift: start of the part in seconds.
        length: of the part in seconds; None for the rest.
    """
    chapters = []
    for chapter in source.container.chapters():
        base = Fraction(chapter["time_base"] or 1)
        start, end = max(0, chapter["start"] - int(shift / base)), chapter["end"]
        end -= int(shift / base)
        if length is not None:
            end = min(end, int(length / base))
        if start < end or (start == end and not shift and length is None):
            chapters.append({**chapter, "start": start, "end": end})
    return chapters


def title_of(chapter: Mapping[str, Any]) -> str:
    """Returns a chapter's title; empty if it has none."""
    return str(chapter["metadata"].get("title", ""))


def _same(value: str, other: str | None) -> bool:
    """Returns whether two values of a tag are equal, apart from a time's fraction of zeros."""
    if other is None:
        return False
    return value == other or value.removesuffix("Z") == other.removesuffix("Z").removesuffix(
        ".000000"
    )


def missing(wanted: Mapping[str, str], written: Mapping[str, str]) -> list[str]:
    """Returns the keys of wanted tags that were not written, or with another value, sorted.

    Compares keys without regard to case, and ignores those that are `TECHNICAL`.
    """
    known = {key.lower(): value for key, value in written.items()}
    return sorted(
        printable(key)
        for key, value in wanted.items()
        if key.lower() not in TECHNICAL and not _same(value, known.get(key.lower()))
    )


def in_words(stream: Any) -> str:
    """Describes a stream for a sentence: its type, number, codec and language."""
    kind = {"subtitle": "subtitles", "audio": "sound"}.get(stream.type, stream.type)
    details = [one for one in (codec_name(stream), language(stream)) if one]
    about = f" ({', '.join(printable(one) for one in details)})" if details else ""
    return f"{kind} #{stream.index}{about}"


def codec_name(stream: Any) -> str | None:
    """Returns a stream's codec or an attachment's name; None if neither is known."""
    if stream.codec_context is None:
        name: str | None = getattr(stream, "name", None)
        return name
    return str(stream.codec_context.codec.canonical_name)
