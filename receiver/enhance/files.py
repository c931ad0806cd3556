"""Any video file in, the same file out with its faces restored, by the `Enhancer` of a call."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
from av.video.frame import PictureType

from receiver.enhance.enhancer import Enhancer
from receiver.enhance.stage import EnhancedFrame
from receiver.errors import InputError
from receiver.media.display import Display
from receiver.media.files.copying import Copy, VideoPlan, first_of_each
from receiver.media.files.reading import STILL, VideoReader
from receiver.media.files.rehearsal import rehearse
from receiver.media.files.side_data import kinds
from receiver.media.files.writing import VideoWriter, format_of, is_pipe, unwritable
from receiver.media.fitting import fitted
from receiver.media.frame import Box, DecodedFrame
from receiver.media.pixels import Storage, bits_of
from receiver.media.planes import copy_frame, planes

AHEAD = 400
"""Packets that are read before the output is opened, at most: one of each stream is looked for."""
AHEAD_BYTES = 32 << 20
"""Size of those packets, at most."""
MOST_BYTES = 256 << 20
"""Bytes within which a frame has to come."""
MICROSECONDS = 1_000_000
"""Parts of a second to which a part's start and length are taken: 0.2 is no binary fraction."""
WHITE = 235
"""Luma of the line between the halves of a split picture, with 8 bits a sample."""
TRAILING = 10.0
"""Seconds after the end of a part for which sound that belongs to it may still come."""


@dataclass(frozen=True)
class FileResult:
    """What became of a file.

    Attributes:
        frames: how many were received, enhanced and passed.
        high_quality_inputs: passed frames whose faces were too good to be restored.
        keyframes: references in the end.
        device: where the network ran.
        model: the network.
        notes: what the output lacks of the input, in one sentence each.
    """

    frames: dict[str, int]
    high_quality_inputs: int
    keyframes: int
    device: str
    model: str
    notes: tuple[str, ...] = ()


def frame_total(path: Path | None, start: float = 0.0, duration: float | None = None) -> int | None:
    """How many frames a video file, or a part of it, has, as far as it tells.

    Raises InputError as `VideoReader`. None for standard input, which can be read only once.
    """
    if path is None:
        return None
    with VideoReader(path) as reader:
        total = reader.total
        if total is None or (not start and duration is None):
            return total
        rest = max(0, total - round(start * reader.rate))
        return rest if duration is None else min(rest, round(duration * reader.rate))


def enhance_file(
    source: Path | None,
    target: Path | None,
    enhancer: Enhancer,
    *,
    split: bool = False,
    crf: float = 12.0,
    start: float = 0.0,
    duration: float | None = None,
    progress: Callable[[int], None] = lambda frames: None,
    say: Callable[[str], None] = lambda sentence: None,
) -> FileResult:
    """Writes `source` to `target` with its faces restored.

    The video is encoded anew, in H.264, with the same frames at the same times, sizes, colours and
    depth; everything else is copied. The file's own key frames are the references. The target
    appears when it is complete, with the rights that the umask leaves; a symbolic link at it is
    replaced.

    Args:
        source: the input; None for standard input.
        target: the output; None for standard output, in Matroska.
        split: leave the left half of the picture as it was.
        crf: x264's, 0 to 51; 0 keeps every untouched sample exactly.
        start: where a part of the file begins, in seconds after its first time.
        duration: how long the part is, in seconds; None: to the end.
        progress: called with the number of frames done.
        say: called with a sentence, before the first frame is restored, about what is not kept.

    Raises:
        InputError: for a file that cannot be read, or a target that cannot be written.
    """
    begins = Fraction(start).limit_denominator(MICROSECONDS)
    length = None if duration is None else Fraction(duration).limit_denominator(MICROSECONDS)
    format_of(target)
    _check_apart(source, target)
    with VideoReader(source) as reader:
        part = _Part(reader, begins, length)
        first = part.read_ahead()
        plan = VideoPlan(
            Storage.of(first), Display.of(first, reader.video.sample_aspect_ratio), first, crf
        )
        packets = first_of_each(part.ahead)
        options, losses = rehearse(reader, target, plan, packets)
        notes = _notes(target, losses, plan.storage)
        for note in notes:
            say(note)
        enhancer.search_finely()
        with VideoWriter(target, options=options) as writer:
            try:
                pipe = is_pipe(target)
                copy = Copy(writer.container, reader, plan, packets, begins, length, pipe=pipe)
                work = _Restoring(enhancer, plan, copy, split, progress)
                for packet, frames in part.items(copy.indexes):
                    work.take(packet, frames)
                work.finish()
            except (av.FFmpegError, OSError) as error:  # those of reading are handled inside
                raise unwritable(target, error) from error
        if reader.broke_off:
            notes.append(f"{reader.name} breaks off: what came before is kept")
        if damaged := copy.damaged + reader.damaged:
            notes.append(f"{damaged} damaged packets of {reader.name} are left out")
        notes += work.notes
    counts = enhancer.stats.frames
    return FileResult(
        {name: asdict(counts)[name] for name in ("received", "enhanced", "passed")},
        enhancer.stats.high_quality_inputs,
        enhancer.stats.keyframes,
        enhancer.generator.device,
        enhancer.generator.model.name,
        tuple(notes),
    )


def _check_apart(source: Path | None, target: Path | None) -> None:
    """Raises InputError if the target is the input."""
    if source is None or target is None:
        return
    try:
        is_input = target.exists() and target.resolve() == source.resolve()
    except OSError as error:
        raise unwritable(target, error) from error
    if is_input:
        raise InputError(f"{target} is the input itself: give another name for the output")


def _notes(target: Path | None, losses: list[str], storage: Storage) -> list[str]:
    name = "standard output" if target is None else target
    notes = [f"{name} cannot keep: {', '.join(losses)}"] if losses else []
    if storage.change:
        notes.append(f"{name} has another pixel format: {storage.change}")
    return notes


class _Part:
    """The packets of a file, or of a part of it, with the frames that they complete.

    Attributes:
        ahead: packets that were read before the work began.
    """

    def __init__(self, reader: VideoReader, start: Fraction, length: Fraction | None) -> None:
        self.ahead: list[Any] = []
        self._reader = reader
        self._starts_late = start > 0
        self._is_part = self._starts_late or length is not None
        self._end = length
        if self._is_part:
            reader.seek(start)
        self._packets = reader.packets(list(reader.container.streams))
        self._decoded: list[list[av.VideoFrame]] = []  # of the first ones of `ahead`, and no more
        self._is_over = False

    def read_ahead(self) -> av.VideoFrame:
        """Reads until there is a frame, and a packet of each stream whose first one comes soon.

        Returns the first frame. Raises InputError if there is none.
        """
        first: av.VideoFrame | None = None
        streams = self._reader.container.streams
        wanted = {one.index for one in streams if one.type in ("video", "audio")}
        size = 0
        for packet in self._packets:
            self.ahead.append(packet)
            size += packet.size
            wanted.discard(packet.stream.index)
            if packet.stream is self._reader.video and first is None:
                self._decoded.append(self._kept(self._reader.decode(packet)))
                first = next(iter(self._decoded[-1]), None)
            if first and (not wanted or len(self.ahead) >= AHEAD or size >= AHEAD_BYTES):
                return first
            if size >= MOST_BYTES:
                break
        if first is None:
            raise InputError(f"{self._reader.name} holds no frame {self._why_none()}")
        return first

    def _why_none(self) -> str:
        if self._starts_late:
            return "at that start or after it: give an earlier one"
        if not self._reader.can_seek:
            return (
                "that can be decoded without going back: give another video, or write an .mp4 with "
                "its index at its beginning (ffmpeg: -movflags +faststart)"
            )
        return "that can be decoded: give another file"

    def items(self, copied: set[int]) -> Iterator[tuple[Any, list[av.VideoFrame]]]:
        """Yields packets of copied streams, and of the video with the frames that they complete."""
        for packet in self._in_order():
            if packet.stream is self._reader.video:
                yield packet, self._frames(packet)
            elif packet.stream.index in copied and packet.size and self._is_within(packet):
                yield packet, []
            if self._is_over and self._is_late(packet):
                return

    def _in_order(self) -> Iterator[Any]:
        self.ahead.reverse()
        while self.ahead:
            yield self.ahead.pop()
        yield from self._packets

    def _frames(self, packet: Any) -> list[av.VideoFrame]:
        return self._decoded.pop(0) if self._decoded else self._kept(self._reader.decode(packet))

    def _kept(self, frames: list[av.VideoFrame]) -> list[av.VideoFrame]:
        """Those of the frames that belong to the part."""
        if not self._is_part:
            return frames
        kept = []
        for frame in frames:
            time = (frame.pts or 0) * self._reader.time_base
            if self._end is not None and time >= self._end:
                self._is_over = True
            elif time >= 0:
                kept.append(frame)
        return kept

    def _is_within(self, packet: Any) -> bool:
        """Whether a copied packet belongs to the part; subtitles are cut at its ends."""
        time = packet.dts if packet.pts is None else packet.pts
        if not self._is_part or time is None:
            return True
        base = Fraction(packet.time_base)
        begins, ends = time * base, (time + (packet.duration or 0)) * base
        if self._end is not None and begins >= self._end:
            return False
        if packet.stream.type == "subtitle" and ends > 0:
            begins = max(begins, Fraction(0))
            ends = ends if self._end is None else min(ends, self._end)
            packet.pts = packet.dts = round(begins / base)
            packet.duration = round((ends - begins) / base)
        return begins >= 0 or bool(packet.stream.disposition & STILL)

    def _is_late(self, packet: Any) -> bool:
        """Whether nothing of the part can be expected after this packet."""
        if self._end is None or packet.dts is None:
            return False
        return bool(packet.dts * Fraction(packet.time_base) > self._end + Fraction(TRAILING))


class _Restoring:
    """Restores, encodes and writes one frame after another, and copies what lies between."""

    def __init__(
        self,
        enhancer: Enhancer,
        plan: VideoPlan,
        copy: Copy,
        split: bool,
        progress: Callable[[int], None],
    ) -> None:
        self.notes: list[str] = []
        self._enhancer, self._plan, self._copy = enhancer, plan, copy
        self._split, self._progress = split, progress
        self._held: av.VideoFrame | None = None
        self._step = 0

    def take(self, packet: Any, frames: list[av.VideoFrame]) -> None:
        """Restores the frames of a packet of the video, or copies one of another stream."""
        for frame in frames:
            self._hold(self._restored(frame))
        if packet.stream.index in self._copy.indexes:
            self._copy.mux(packet)

    def finish(self) -> None:
        """Writes what is still held back."""
        if self._held is not None and self._step and self._held.duration != self._step:
            # An .mp4 has the length of the frame that is coded last, which is then this one.
            self._encode(self._held, PictureType.I)
        elif self._held is not None:
            self._encode(self._held)
        self._copy.container.mux(self._copy.video.encode(None))
        self._copy.finish()

    def _hold(self, frame: av.VideoFrame) -> None:
        """Encodes the frame before: the last one is encoded in another way (`finish`)."""
        if self._held is not None:
            self._step = (frame.pts or 0) - (self._held.pts or 0)
            self._encode(self._held)
        self._held = frame

    def _encode(self, frame: av.VideoFrame, kind: PictureType = PictureType.NONE) -> None:
        frame.pict_type = kind
        self._copy.container.mux(self._copy.video.encode(frame))

    def _fitted(self, frame: av.VideoFrame) -> av.VideoFrame:
        """The frame in the size of the file, which changes in the middle of some."""
        first = self._plan.first
        if _colours(frame) != _colours(first):
            self._note("the frames change their colours' format: all are stored as the first one")
        if (frame.width, frame.height) == (first.width, first.height):
            return frame
        self._note(
            f"the frames change their size from {first.width}x{first.height}: "
            "all are fitted into the first one"
        )
        return fitted(frame, first.width, first.height)

    def _note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)

    def _restored(self, frame: av.VideoFrame) -> av.VideoFrame:
        """The frame as it is stored, with its faces restored."""
        display = self._plan.display
        seen = DecodedFrame.from_video(frame)
        stored = self._plan.storage.stored(self._fitted(frame))
        view = display.shown(stored)
        if view is not frame:
            seen = replace(seen, video=view, stored=(frame, partial(_box, display, frame)))
        enhanced = self._enhancer.process(seen)
        counts = self._enhancer.stats.frames
        counts.received += 1
        counts.enhanced += enhanced.is_restored
        counts.passed += not enhanced.is_restored
        if enhanced.is_restored:
            output = self._at_size_of(view, enhanced)
            if self._split:
                output = left_half_of(view, output)
            if view is frame and not (frame.interlaced_frame or kinds(frame)):
                # There are only samples to keep.
                output.duration = frame.duration
                stored = output
            else:
                display.put_back(stored, view, output)
        self._progress(counts.received)
        return stored

    def _at_size_of(self, view: av.VideoFrame, enhanced: EnhancedFrame) -> av.VideoFrame:
        """Returns the enhanced frame in the input's size, which the file has."""
        if enhanced.scale == 1.0:
            return enhanced.video
        self._note("enlarged frames are written in the input's size")
        return fitted(enhanced.video, view.width, view.height)


def _colours(frame: av.VideoFrame) -> tuple[Any, ...]:
    return frame.format.name, frame.color_range, frame.colorspace, frame.color_trc


def _box(display: Display, frame: av.VideoFrame, box: Box) -> Box:
    return display.stored_box(box, frame.width, frame.height)


def left_half_of(received: av.VideoFrame, restored: av.VideoFrame) -> av.VideoFrame:
    """Received on the left, restored on the right, a white line between; `restored`'s pts."""
    both = copy_frame(restored)
    for to, of in zip(planes(both), planes(received), strict=True):
        half = to.shape[1] // 2
        to[:, :half] = of[:, :half]
    luma = planes(both)[0]
    middle = luma.shape[1] // 2
    luma[:, middle - 1 : middle + 1] = WHITE << (bits_of(both) - 8)
    return both
