"""Copies everything of a video file to another one, except the frames of its video."""

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
from av.stream import Discard

from receiver.media.display import Display
from receiver.media.files.reading import STILL, VideoReader
from receiver.media.files.side_data import x264_params
from receiver.media.files.tags import chapters_of, codec_name, copy_tags, describe, in_words
from receiver.media.files.writing import WRITTEN_FORMATS, Memory, add_h264
from receiver.media.pixels import Storage

PRESET = "veryfast"
"""x264's preset for files."""
PICTURES = {
    "mjpeg": ("jpg", "image/jpeg"),
    "png": ("png", "image/png"),
    "bmp": ("bmp", "image/bmp"),
}
"""File ending and media type of cover art, by its codec."""
LAYOUTS = {"1 channels": "mono", "2 channels": "stereo", "6 channels": "5.1", "8 channels": "7.1"}
"""Usual layouts of sound whose file states only the number of channels; .mp4 requires a layout."""
DAMAGED = (av.error.ArgumentError, av.error.InvalidDataError, av.error.PatchWelcomeError)
"""Errors of a muxer for a packet that it cannot interpret."""
FINEST = Fraction(1, 2_000_000)
"""Finest time base of a video, in seconds: x264 and .mp4 count ticks with 32 bits."""
SOUND, SOUND_BITS = "aac", 192_000
"""Codec and bits a second for sound that no container here can hold unchanged."""
TOP_FIRST, BOTTOM_FIRST = 2, 3
INTERLACED = {TOP_FIRST: "tff=1", BOTTOM_FIRST: "bff=1", 4: "bff=1", 5: "tff=1"}
"""x264's parameter for the field that is shown first, by AVFieldOrder."""


@dataclass(frozen=True)
class VideoPlan:
    """How a source's video is encoded in the new file.

    Attributes:
        storage: pixel format.
        display: how it is shown.
        first: its first frame, which determines size, colours and HDR.
        crf: constant rate factor of x264, 0 to 51; 0 is lossless.
    """

    storage: Storage
    display: Display
    first: av.VideoFrame
    crf: float

    def add_to(
        self, container: av.container.OutputContainer, source: VideoReader
    ) -> av.VideoStream:
        """Adds the video stream to a container and returns it."""
        stored = self.storage.stored(self.first)
        stream = add_h264(
            container,
            (stored.width, stored.height),
            source.rate,
            max(source.time_base, FINEST),
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
        if not order and self.first.interlaced_frame:  # not every codec states it in its header
            order = BOTTOM_FIRST if codec_name(source.video) == "dvvideo" else TOP_FIRST
        if order in INTERLACED:
            codec.field_order = order
            params.append(INTERLACED[order])
        if params:
            stream.options = {**stream.options, "x264-params": ":".join(params)}
        if self.display.matrix is not None:
            stream.set_display_matrix(self.display.matrix)
        describe(stream, source.video)
        return stream


class Copy:
    """Copies everything of a source to a container: its streams in their order, and its tags.

    Attributes:
        video: the stream for the encoded frames.
        left_out: streams that the container cannot hold, in a few words each.
        damaged: number of packets that the container refused.
    """

    def __init__(
        self,
        container: av.container.OutputContainer,
        source: VideoReader,
        plan: VideoPlan,
        packets: Mapping[int, Any],
        shift: Fraction = Fraction(0),
        length: Fraction | None = None,
        *,
        pipe: bool = False,
    ) -> None:
        """Adds the streams and writes the header.

        Args:
            packets: a copy of the first packet of streams, by their index.
            plan: how the video is encoded.
            shift: seconds by which chapters start earlier.
            length: seconds after which chapters are cut off; None for no cut.
            pipe: whether the container cannot seek in its file.
        """
        self.container, self._pipe = container, pipe
        self.left_out: list[str] = []
        self.damaged = 0
        self._copies: dict[int, Any] = {}
        self._encoded: dict[int, Any] = {}  # encoders of sound that cannot be copied
        self._last: dict[int, int] = {}
        self._hidden: dict[int, Any] = {}  # the newest packet that an edit list hides, by stream
        self._begun: set[int] = set()
        for stream in source.container.streams:
            if stream.index == source.video.index:
                self.video = plan.add_to(container, source)
            else:
                self._add(stream, source, packets.get(stream.index))
        copy_tags(container.metadata, source.container.metadata)
        container.set_chapters(chapters_of(source, shift, length))
        container.start_encoding()  # the time bases of the streams are known from here on
        self._least_step = 0 if container.format.name == "matroska" else 1

    @property
    def indexes(self) -> set[int]:
        """Indexes of the source's streams whose packets `mux` takes."""
        return {*self._copies, *self._encoded}

    def finish(self) -> None:
        """Writes what the encoders of sound still hold."""
        for encoder in self._encoded.values():
            self._mux(encoder.encode(None))

    def mux(self, packet: Any) -> None:
        """Writes a packet of the source, at a later time than its stream's previous one.

        Packets that the source's edit list hides are written only if they precede the first packet
        that is played, because the decoder starts with them. Matroska cannot hide packets: there,
        only the last of these is written.
        """
        index = packet.stream.index
        if packet.is_discard:
            if index not in self._begun and (packet.pts or 0) <= 0:
                self._hide(packet, index)
            return
        before = self._hidden.pop(index, None)
        if before is not None:
            self._write(before, index)
        self._begun.add(index)
        self._write(packet, index)

    def _hide(self, packet: Any, index: int) -> None:
        if self.container.format.name == "matroska":
            self._hidden[index] = packet
        else:
            self._write(packet, index)

    def _write(self, packet: Any, index: int) -> None:
        if index in self._encoded:
            self._encode(packet, self._encoded[index])
            return
        packet.stream = copy = self._copies[index]
        if copy.disposition & STILL:
            packet.pts = packet.dts = 0
        if packet.dts is None and copy.type != "video":  # libav computes that of a video
            packet.dts = packet.pts
        ratio = Fraction(packet.time_base) / Fraction(copy.time_base)
        for name in ("pts", "dts", "duration"):
            if (time := getattr(packet, name)) is not None:
                setattr(packet, name, round(time * ratio))
        packet.time_base = copy.time_base
        if packet.dts is not None:
            last = self._last.get(index)
            if last is not None and copy.type in ("audio", "video"):
                packet.dts = max(packet.dts, last + self._least_step)
            self._last[index] = packet.dts
            if packet.pts is None or packet.pts < packet.dts:
                packet.pts = packet.dts
        if packet.pts is not None:
            self._mux([packet])

    def _encode(self, packet: Any, encoder: Any) -> None:
        pieces: list[Any] = []
        with contextlib.suppress(av.FFmpegError):  # a damaged packet costs itself
            pieces = packet.decode()
        for piece in pieces:
            self._mux(encoder.encode(piece))

    def _mux(self, packets: list[Any]) -> None:
        try:
            self.container.mux(packets)
        except DAMAGED:
            self.damaged += 1

    def _add(self, stream: Any, source: VideoReader, packet: Any) -> None:
        name = self.container.format.name
        if stream.type == "data" and _is_made_anew(stream, source):
            return
        if name == "matroska" and stream.disposition & STILL and packet is not None:
            ending, kind = PICTURES.get(codec_name(stream) or "", ("", ""))
            if kind:
                title = stream.metadata.get("filename", f"cover.{ending}")
                self.container.add_attachment(title, kind, bytes(packet))
                return
        if not can_hold(name, stream, packet, pipe=self._pipe):
            if stream.type == "audio" and stream.codec_context is not None and stream.channels:
                self._encode_anew(stream)
            else:
                keeps = [
                    end for end, name in WRITTEN_FORMATS.items() if can_hold(name, stream, packet)
                ]
                way_out = f" ({keeps[0]} keeps them)" if keeps else ""
                self.left_out.append(f"{in_words(stream)}{way_out}")
            return
        copy = add_like(self.container, stream)
        if stream.type != "attachment":
            describe(copy, stream)
            self._copies[stream.index] = copy

    def _encode_anew(self, stream: Any) -> None:
        """Adds sound that no container here can hold, or PyAV cannot copy, by encoding it again."""
        layout = LAYOUTS.get(stream.layout.name, stream.layout.name)
        encoder: Any = self.container.add_stream(SOUND, rate=stream.rate, layout=layout)
        encoder.bit_rate = SOUND_BITS
        describe(encoder, stream)
        self._encoded[stream.index] = encoder
        self.left_out.append(f"{in_words(stream)} as it is (it becomes {SOUND.upper()})")


def can_hold(format_name: str, stream: Any, packet: Any = None, *, pipe: bool = False) -> bool:
    """Returns whether a container of this format can hold a stream, and a packet of it, unchanged.

    Args:
        pipe: whether the container cannot seek in its file; some write the codec's parameters
            there after the first packet.
    """
    with Memory(pipe=pipe) as nowhere:
        container = av.open(nowhere, "w", format_name)
        try:
            copy = add_like(container, stream)
            container.start_encoding()
            if packet is not None:
                again = copy_packet(packet)
                again.stream = copy
                container.mux(again)
            container.close()
        except (av.FFmpegError, ValueError):
            return False
        finally:
            close_trial(container)
    return True


def copy_packet(packet: Any) -> Any:
    """Returns a copy of a packet without its side data: `Copy.mux` changes its packets."""
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
    """Returns a copy of the first packet of each stream, by the stream's index."""
    first: dict[int, Any] = {}
    for packet in packets:
        if packet.size and packet.stream.index not in first:
            first[packet.stream.index] = copy_packet(packet)
    return first


def _is_made_anew(stream: Any, source: VideoReader) -> bool:
    """Returns whether a data stream is one that muxers create: a timecode, or a chapter list.

    libav reads the chapter list itself, and then discards the stream.
    """
    if "timecode" in stream.metadata:
        return "timecode" in source.video.metadata
    return bool(stream.discard == Discard.all)


def add_like(container: av.container.OutputContainer, stream: Any) -> Any:
    """Adds a stream for copied packets. Raises ValueError if the format lacks its codec."""
    if stream.codec_context is None and stream.type not in ("data", "attachment"):
        raise ValueError("the codec is unknown")
    copy: Any = container.add_stream_from_template(stream, opaque=True)
    if stream.type == "audio" and stream.layout.name in LAYOUTS:
        copy.codec_context.layout = LAYOUTS[stream.layout.name]
    return copy


def close_trial(container: av.container.OutputContainer) -> None:
    """Closes the container of a trial, whatever its state."""
    try:
        container.close()
    except (av.FFmpegError, ValueError, OSError):
        return
