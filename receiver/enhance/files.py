"""Restores the faces of a video file and copies everything else."""

from collections.abc import Callable
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
from receiver.media.files.part import Part
from receiver.media.files.reading import VideoReader
from receiver.media.files.rehearsal import rehearse
from receiver.media.files.side_data import kinds
from receiver.media.files.writing import VideoWriter, format_of, is_pipe, unwritable
from receiver.media.fitting import fitted
from receiver.media.frame import Box, DecodedFrame
from receiver.media.pixels import Storage, bits_of
from receiver.media.planes import copy_frame, planes

MICROSECONDS = 1_000_000
"""Precision of a part's start and length, in parts of a second: 0.2 is not a binary fraction."""
WHITE = 235
"""Luma of the line between the halves of a split frame, in 8-bit levels."""


@dataclass(frozen=True)
class FileResult:
    """The result of `enhance_file`.

    Attributes:
        frames: numbers of frames `received`, `enhanced` and `passed`.
        high_quality_inputs: passed frames whose faces needed no restoration.
        keyframes: references at the end.
        device: execution device of the network.
        model: name of the network.
        notes: differences of the output from the input, one sentence each.
    """

    frames: dict[str, int]
    high_quality_inputs: int
    keyframes: int
    device: str
    model: str
    notes: tuple[str, ...] = ()


def frame_total(path: Path | None, start: float = 0.0, duration: float | None = None) -> int | None:
    """Returns how many frames a video file, or a part of it, has; None if unknown.

    It is unknown if the file does not state it, and for standard input, which can be read only
    once.

    Args:
        path: the file; None for standard input.
        start: start of the part in seconds.
        duration: length of the part in seconds; None: to the end.

    Raises:
        InputError: as `VideoReader`.
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

    Encodes the video again, as H.264, with the same frames, times, sizes, colours and depth, and
    copies everything else. The best faces of the file become the references. The target appears
    when it is complete, with the permissions that the umask allows, and replaces a symbolic link of
    its name.

    Args:
        source: the input; None for standard input.
        target: the output; None for standard output, in Matroska.
        enhancer: restores the frames.
        split: keep the left half of each frame as it was.
        crf: constant rate factor of x264, 0 to 51; 0 keeps every unchanged sample exactly.
        start: start of the part, in seconds after the file's first time.
        duration: length of the part in seconds; None: to the end.
        progress: called with the number of frames done so far.
        say: called, before the first frame is restored, with a sentence about each thing that the
            output cannot keep.

    Raises:
        InputError: if the source cannot be read, the target cannot be written, or both are the
            same file.
    """
    begins = Fraction(start).limit_denominator(MICROSECONDS)
    length = None if duration is None else Fraction(duration).limit_denominator(MICROSECONDS)
    format_of(target)
    _check_apart(source, target)
    with VideoReader(source) as reader:
        part = Part(reader, begins, length)
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
            except (av.FFmpegError, OSError) as error:  # VideoReader handles errors of reading
                raise unwritable(target, error) from error
        if reader.broke_off:
            notes.append(f"{reader.name} is cut off: everything before that is kept")
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


class _Restoring:
    """Restores, encodes and writes the frames one by one, and copies the packets between them."""

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
        """Restores the frames of a video packet, or copies a packet of another stream."""
        for frame in frames:
            self._hold(self._restored(frame))
        if packet.stream.index in self._copy.indexes:
            self._copy.mux(packet)

    def finish(self) -> None:
        """Writes the last frame and the end of the file."""
        if self._held is not None and self._step and self._held.duration != self._step:
            # The last coded frame determines the length of an .mp4; an I-frame is coded last.
            self._encode(self._held, PictureType.I)
        elif self._held is not None:
            self._encode(self._held)
        self._copy.container.mux(self._copy.video.encode(None))
        self._copy.finish()

    def _hold(self, frame: av.VideoFrame) -> None:
        """Encodes the previous frame and holds this one: `finish` handles the last differently."""
        if self._held is not None:
            self._step = (frame.pts or 0) - (self._held.pts or 0)
            self._encode(self._held)
        self._held = frame

    def _encode(self, frame: av.VideoFrame, kind: PictureType = PictureType.NONE) -> None:
        frame.pict_type = kind
        self._copy.container.mux(self._copy.video.encode(frame))

    def _fitted(self, frame: av.VideoFrame) -> av.VideoFrame:
        """Returns the frame in the size of the first one; the size may change within a file."""
        first = self._plan.first
        if _colours(frame) != _colours(first):
            self._note(
                "the frames change their colour format: all are stored in that of the first one"
            )
        if (frame.width, frame.height) == (first.width, first.height):
            return frame
        self._note(
            f"the frames change their size from {first.width}x{first.height}: "
            "all are fitted into the size of the first one"
        )
        return fitted(frame, first.width, first.height)

    def _note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)

    def _restored(self, frame: av.VideoFrame) -> av.VideoFrame:
        """Returns the frame as the file stores it, with its faces restored."""
        display = self._plan.display
        decoded = DecodedFrame.from_video(frame)
        stored = self._plan.storage.stored(self._fitted(frame))
        view = display.shown(stored)
        if view is not frame:
            decoded = replace(decoded, video=view, stored=(frame, partial(_box, display, frame)))
        enhanced = self._enhancer.process(decoded)
        counts = self._enhancer.stats.frames
        counts.received += 1
        counts.enhanced += enhanced.is_restored
        counts.passed += not enhanced.is_restored
        if enhanced.is_restored:
            output = self._at_size_of(view, enhanced)
            if self._split:
                output = left_half_of(view, output)
            if view is frame and not (frame.interlaced_frame or kinds(frame)):
                # The frame has nothing but samples that have to be kept.
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
    """Returns a copy of `restored` whose left half is `received`, with a white line between."""
    both = copy_frame(restored)
    for to, of in zip(planes(both), planes(received), strict=True):
        half = to.shape[1] // 2
        to[:, :half] = of[:, :half]
    luma = planes(both)[0]
    middle = luma.shape[1] // 2
    luma[:, middle - 1 : middle + 1] = WHITE << (bits_of(both) - 8)
    return both
