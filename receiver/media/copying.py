"""Carries everything of a video file to another one but its video's frames."""

import contextlib
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.stream import Disposition
from av.video.frame import PictureType

from receiver.errors import InputError
from receiver.media.display import Display
from receiver.media.pixels import Storage
from receiver.media.reading import STILL, VideoReader
from receiver.media.side_data import kinds, x264_params
from receiver.media.writing import FORMATS, add_h264, format_of, unwritable
from receiver.text import printable

PRESET = "veryfast"
"""x264's preset of files."""
MUXER = {"fflags": "+bitexact", "movie_timescale": "90000"}
"""libav's options for every file: no random numbers and no date, so that runs are alike; and in
.mp4 a clock by which streams begin when they should, rather than at the next millisecond."""
TRIALS: tuple[dict[str, str], ...] = (MUXER, {**MUXER, "movflags": "+use_metadata_tags"})
"""Muxer options to try: .mp4 holds either iTunes' tags and cover art, or any tags without it."""
TECHNICAL = frozenset(
    (
        *("major_brand", "minor_version", "compatible_brands", "encoder", "vendor_id"),
        *("handler_name", "duration", "bps", "number_of_frames", "number_of_bytes"),
        *("_statistics_writing_app", "_statistics_writing_date_utc", "_statistics_tags"),
        *("language", "name", "filename", "mimetype"),
    )
)
"""Metadata (in lower case) that tell how a file was made: the writer of the new one sets them."""
PICTURES = {
    "mjpeg": ("jpg", "image/jpeg"),
    "png": ("png", "image/png"),
    "bmp": ("bmp", "image/bmp"),
}
"""Ending and media type of cover art, by its codec."""
LAYOUTS = {"1 channels": "mono", "2 channels": "stereo", "6 channels": "5.1", "8 channels": "7.1"}
"""Usual layouts of sound whose file only counts its channels; .mp4 needs one."""
SOUND, SOUND_BITS = "aac", 192_000
"""Codec, and bits a second, of sound that no container here can hold as it is."""
TOP_FIRST, BOTTOM_FIRST = 2, 3
INTERLACED = {TOP_FIRST: "tff=1", BOTTOM_FIRST: "bff=1", 4: "bff=1", 5: "tff=1"}
"""x264's parameter by AVFieldOrder: which field is shown first."""


@dataclass(frozen=True)
class Encoding:
    """How a source's video is encoded in the new file.

    Attributes:
        storage: pixel format.
        display: how it is shown.
        first: its first frame, which tells size, colours and HDR.
        crf: x264's, 0 to 51; 0 is lossless.
    """

    storage: Storage
    display: Display
    first: av.VideoFrame
    crf: float

    def add_to(
        self, container: av.container.OutputContainer, source: VideoReader
    ) -> av.VideoStream:
        """Adds the stream to a container."""
        stored = self.storage.stored(self.first)
        stream = add_h264(
            container,
            (stored.width, stored.height),
            source.rate,
            source.time_base,
            self.crf,
            PRESET,
            stored.format.name,
        )
        codec, params = stream.codec_context, x264_params(self.first)
        codec.color_range, codec.colorspace = stored.color_range, stored.colorspace
        codec.color_primaries, codec.color_trc = stored.color_primaries, stored.color_trc
        if source.video.sample_aspect_ratio:
            codec.sample_aspect_ratio = source.video.sample_aspect_ratio
        order = source.video.codec_context.field_order
        if not order and self.first.interlaced_frame:  # not every codec's header says it
            order = BOTTOM_FIRST if codec_name(source.video) == "dvvideo" else TOP_FIRST
        if order in INTERLACED:
            codec.field_order = order
            params.append(INTERLACED[order])
        if params:
            stream.options = {**stream.options, "x264-params": ":".join(params)}
        if self.display.matrix is not None:
            stream.set_display_matrix(self.display.matrix)
        _describe(stream, source.video)
        return stream


class Copy:
    """A container that gets everything of a source: its streams in their order, and its tags.

    Attributes:
        video: the stream that frames are encoded for.
        left_out: streams that the container cannot hold, in a few words each.
    """

    def __init__(
        self,
        container: av.container.OutputContainer,
        source: VideoReader,
        encoding: Encoding,
        packets: Mapping[int, Any],
        shift: Fraction = Fraction(0),
        length: Fraction | None = None,
    ) -> None:
        """Adds the streams and writes the header.

        Args:
            packets: a copy of the first packet of streams, by their index.
            shift: seconds by which chapters begin earlier.
            length: seconds after which chapters are cut off.
        """
        self.container = container
        self.left_out: list[str] = []
        self._copies: dict[int, Any] = {}
        self._encoded: dict[int, Any] = {}  # sound that is encoded anew: its encoders
        self._last: dict[int, int] = {}
        for stream in source.container.streams:
            if stream.index == source.video.index:
                self.video = encoding.add_to(container, source)
            else:
                self._add(stream, source, packets.get(stream.index))
        _copy_tags(container.metadata, source.container.metadata)
        container.set_chapters(_chapters(source, shift, length))
        container.start_encoding()  # the time bases of the streams are known from here on
        self._least_step = 0 if container.format.name == "matroska" else 1

    @property
    def indexes(self) -> set[int]:
        """Indexes of the source's streams whose packets `mux` takes."""
        return {*self._copies, *self._encoded}

    def finish(self) -> None:
        """Writes what the encoders of sound still hold."""
        for encoder in self._encoded.values():
            self.container.mux(encoder.encode(None))

    def mux(self, packet: Any) -> None:
        """Writes a packet of the source, at a time later than that of its stream's last one."""
        index = packet.stream.index
        if index in self._encoded:
            self._encode(packet, self._encoded[index])
            return
        packet.stream = copy = self._copies[index]
        if copy.disposition & STILL:
            packet.pts = packet.dts = 0
        if packet.dts is None:
            packet.dts = packet.pts
        if packet.dts is None:
            return
        ratio = Fraction(packet.time_base) / Fraction(copy.time_base)
        for name in ("pts", "dts", "duration"):
            if (time := getattr(packet, name)) is not None:
                setattr(packet, name, round(time * ratio))
        packet.time_base = copy.time_base
        last = self._last.get(index)
        if last is not None and copy.type in ("audio", "video"):
            packet.dts = max(packet.dts, last + self._least_step)
        self._last[index] = packet.dts
        if packet.pts is None or packet.pts < packet.dts:
            packet.pts = packet.dts
        self.container.mux(packet)

    def _encode(self, packet: Any, encoder: Any) -> None:
        with contextlib.suppress(av.FFmpegError):  # a damaged packet costs itself
            for piece in packet.decode():
                if piece.time_base is None:
                    piece.time_base = packet.time_base
                self.container.mux(encoder.encode(piece))

    def _add(self, stream: Any, source: VideoReader, packet: Any) -> None:
        name = self.container.format.name
        if stream.type == "data" and _is_made_anew(stream, source, packet):
            return
        if name == "matroska" and stream.disposition & STILL and packet is not None:
            ending, kind = PICTURES.get(codec_name(stream) or "", ("", ""))
            if kind:
                title = stream.metadata.get("filename", f"cover.{ending}")
                self.container.add_attachment(title, kind, bytes(packet))
                return
        if not can_hold(name, stream, packet):
            if stream.type == "audio" and stream.codec_context is not None:
                self._encode_anew(stream)
            else:
                self.left_out.append(_in_words(stream))
            return
        copy = _add_like(self.container, stream)
        if stream.type != "attachment":
            _describe(copy, stream)
            self._copies[stream.index] = copy

    def _encode_anew(self, stream: Any) -> None:
        """Adds sound of a kind that no container here can hold, or PyAV cannot put into it."""
        layout = LAYOUTS.get(stream.layout.name, stream.layout.name)
        encoder: Any = self.container.add_stream(SOUND, rate=stream.rate, layout=layout)
        encoder.bit_rate = SOUND_BITS
        _describe(encoder, stream)
        self._encoded[stream.index] = encoder
        self.left_out.append(f"{_in_words(stream)} as it is (it becomes {SOUND.upper()})")


def can_hold(format_name: str, stream: Any, packet: Any = None) -> bool:
    """Whether a container of this format can hold a stream, and a packet of it, as they are."""
    with io.BytesIO() as nowhere:
        container = av.open(nowhere, "w", format_name)
        try:
            copy = _add_like(container, stream)
            container.start_encoding()
            if packet is not None:
                again = copy_packet(packet)
                again.stream = copy
                container.mux(again)
            container.close()
        except (av.FFmpegError, ValueError):
            return False
        finally:
            _close(container)
    return True


def copy_packet(packet: Any) -> Any:
    """A copy of a packet, without its side data: `Copy.mux` changes what it is given."""
    copy: Any = av.Packet(bytes(packet))
    copy.stream, copy.time_base = packet.stream, packet.time_base
    copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration
    if packet.stream.disposition & STILL:
        copy.pts = copy.dts = 0
    if copy.dts is None:
        copy.dts = copy.pts
    copy.is_keyframe = packet.is_keyframe
    return copy


def first_of_each(packets: Iterable[Any]) -> dict[int, Any]:
    """A copy of the first packet of each stream among these, by the stream's index."""
    first: dict[int, Any] = {}
    for packet in packets:
        if packet.size and packet.stream.index not in first:
            first[packet.stream.index] = copy_packet(packet)
    return first


def check_sound(source: VideoReader, target: Path | None, packets: Mapping[int, Any]) -> None:
    """Raises InputError if `target` cannot hold sound that another ending can."""
    sounds = source.container.streams.audio

    def held(name: str) -> set[int]:
        return {one.index for one in sounds if can_hold(name, one, packets.get(one.index))}

    here = held(format_of(target))
    if len(here) == len(sounds):
        return
    for ending, name in FORMATS.items():
        if len(more := held(name)) > len(here):
            lost = next(one for one in sounds if one.index in more - here)
            raise InputError(
                f"{target or 'standard output'} cannot hold {codec_name(lost)} audio: "
                f"end it in {ending}"
            )


def rehearse(
    source: VideoReader, target: Path | None, encoding: Encoding, packets: Mapping[int, Any]
) -> tuple[dict[str, str], list[str]]:
    """Writes a trial of the target in memory and reads it again.

    Args:
        packets: a copy of the first packet of streams, by their index.

    Returns:
        The muxer options by which least is lost, and what is lost, in a few words each.

    Raises:
        InputError: if the target cannot be written at all.
    """
    check_sound(source, target, packets)
    name = format_of(target)
    trials = TRIALS if name in ("mp4", "mov") else TRIALS[:1]
    try:
        outcomes = [_trial(source, name, options, encoding, packets) for options in trials]
    except (av.FFmpegError, ValueError, OSError) as error:
        raise unwritable(target, error) from error
    losses = min(outcomes, key=len)
    return trials[outcomes.index(losses)], losses


def _trial(
    source: VideoReader,
    format_name: str,
    options: Mapping[str, str],
    encoding: Encoding,
    packets: Mapping[int, Any],
) -> list[str]:
    with io.BytesIO() as trial:
        container = av.open(trial, "w", format_name, container_options=dict(options))
        try:
            copy = Copy(container, source, encoding, packets)
            frame = encoding.storage.stored(encoding.first)
            frame.pict_type = PictureType.NONE
            container.mux(copy.video.encode(frame))
            container.mux(copy.video.encode(None))
            for index in copy.indexes & set(packets):
                copy.mux(copy_packet(packets[index]))
            container.close()
        finally:
            _close(container)
        trial.seek(0)
        with av.open(trial, "r", metadata_errors="replace") as written:
            lost = [*copy.left_out, *_lost_tags(source, copy.indexes, written)]
            place = sum(one in copy.indexes for one in range(source.video.index))
            again: Any = next(written.decode(written.streams[place]), None)
            return lost + sorted(kinds(encoding.first) - (kinds(again) if again else set()))


def _lost_tags(
    source: VideoReader, copied: set[int], written: av.container.InputContainer
) -> list[str]:
    """The tags of the source that a file written from it lacks."""
    lost = [f"the metadata {key}" for key in _missing(source.container.metadata, written.metadata)]
    before, after = _chapters(source, Fraction(0), None), written.chapters()
    if [_title(one) for one in before] != [_title(one) for one in after]:
        lost.append("chapters" if len(before) != len(after) else "titles of chapters")
    kept = {source.video.index, *copied}
    if len(_covers(source.container)) > len(_covers(written)):
        lost.append("cover art")
    for kind in ("video", "audio", "subtitle", "data"):
        old = [one for one in source.container.streams if one.type == kind and one.index in kept]
        new = [one for one in written.streams if one.type == kind]
        if len(old) == len(new):  # streams without a packet in a trial are not in every format
            for one, other in zip(old, new, strict=True):
                lost += [f"{what} of {_in_words(one)}" for what in _lost_of_stream(one, other)]
    return lost


def _covers(container: av.container.InputContainer) -> list[Any]:
    return [one for one in container.streams.video if one.disposition & STILL]


def _lost_of_stream(stream: Any, written: Any) -> Iterable[str]:
    spoken = _language(stream)
    if spoken and spoken != _language(written):
        yield f"the language {spoken}"
    known = {name.lower(): value for name, value in written.metadata.items()}
    if "name" in known:  # what libav calls the title of an .mp4's track
        known.setdefault("title", known["name"])
    for key in _missing(_tags_of(stream), known):
        if key == "creation_time":  # the file has one, too
            continue
        yield f"the metadata {key}"
    gone = Disposition(stream.disposition & ~written.disposition)
    if stream.type != "data" and gone:
        yield "the mark " + " and ".join(one.name or "" for one in Disposition if one & gone)


def _same(value: str, other: str | None) -> bool:
    """Whether two values of a tag are the same; times may have zeros behind their seconds."""
    if other is None:
        return False
    return value == other or value.removesuffix("Z") == other.removesuffix("Z").removesuffix(
        ".000000"
    )


def _missing(wanted: Mapping[str, str], written: Mapping[str, str]) -> list[str]:
    known = {key.lower(): value for key, value in written.items()}
    return sorted(
        printable(key)
        for key, value in wanted.items()
        if key.lower() not in TECHNICAL and not _same(value, known.get(key.lower()))
    )


def _describe(copy: Any, stream: Any) -> None:
    """Gives a new stream the language, title and other tags of the source's, and its marks."""
    tags = _tags_of(stream)
    spoken = _language(stream)
    if spoken:
        tags["language"] = spoken
    if "handler_name" in stream.metadata:
        tags["handler_name"] = stream.metadata["handler_name"]
    copy.metadata.clear()
    copy.metadata.update(tags)
    copy.disposition = stream.disposition


def _tags_of(stream: Any) -> dict[str, str]:
    tags: dict[str, str] = {}
    _copy_tags(tags, stream.metadata)
    if "name" in stream.metadata:  # what libav calls the title of an .mp4's track
        tags.setdefault("title", stream.metadata["name"])
    return tags


def _copy_tags(to: dict[str, str], of: Mapping[str, str]) -> None:
    to.update({key: value for key, value in of.items() if key.lower() not in TECHNICAL})


def _language(stream: Any) -> str | None:
    """The stream's language, None if it is undetermined."""
    spoken: str | None = stream.metadata.get("language")
    return None if spoken == "und" else spoken


def _chapters(source: VideoReader, shift: Fraction, length: Fraction | None) -> list[Any]:
    """The source's chapters as they are in a part of it."""
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


def _title(chapter: Mapping[str, Any]) -> str:
    return str(chapter["metadata"].get("title", ""))


def _is_made_anew(stream: Any, source: VideoReader, packet: Any) -> bool:
    """Whether a data stream is what a muxer writes by itself: a timecode, or a list of chapters.

    libav reads the list itself and gives no packets of it.
    """
    if "timecode" in stream.metadata:
        return "timecode" in source.video.metadata
    return packet is None and bool(source.container.chapters())


def _in_words(stream: Any) -> str:
    kind = {"subtitle": "subtitles", "audio": "sound"}.get(stream.type, stream.type)
    details = [one for one in (codec_name(stream), _language(stream)) if one]
    about = f" ({', '.join(printable(one) for one in details)})" if details else ""
    return f"{kind} #{stream.index}{about}"


def codec_name(stream: Any) -> str | None:
    """A stream's codec, or the name of an attachment; None if neither is known."""
    if stream.codec_context is None:
        name: str | None = getattr(stream, "name", None)
        return name
    return str(stream.codec_context.codec.canonical_name)


def _add_like(container: av.container.OutputContainer, stream: Any) -> Any:
    """Adds a stream whose packets are copied. Raises ValueError if the format has no such codec."""
    if stream.codec_context is None and stream.type not in ("data", "attachment"):
        raise ValueError("a codec that is unknown")
    copy: Any = container.add_stream_from_template(stream, opaque=True)
    if stream.type == "audio" and stream.layout.name in LAYOUTS:
        copy.codec_context.layout = LAYOUTS[stream.layout.name]
    return copy


def _close(container: av.container.OutputContainer) -> None:
    """Closes a trial, whatever state it is in."""
    try:
        container.close()
    except (av.FFmpegError, ValueError, OSError):
        return
