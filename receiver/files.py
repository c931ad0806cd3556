"""Any video file in, the enhanced file out, by the same `Enhancer` as in a call."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from receiver.alignment import PLANAR_420, copy_frame, planes
from receiver.decoding import DecodedFrame, export_side_data
from receiver.enhancer import Enhancer
from receiver.errors import InputError
from receiver.outputs import VideoFile, add_h264
from receiver.sender import open_video


@dataclass(frozen=True)
class FileResult:
    """What became of a file; `well_received` of the passed frames were too good to be restored."""

    frames: dict[str, int]
    well_received: int
    keyframes: int
    device: str
    model: str
    notes: tuple[str, ...] = ()


def frame_total(path: Path, start: float = 0.0, duration: float | None = None) -> int | None:
    """Returns how many frames a video file has, or its part, as far as it tells.

    Args:
        start: where the part begins, in seconds.
        duration: how many seconds it lasts; None to the end.

    Raises:
        InputError: as `open_video`.
    """
    with open_video(path) as container:
        video = container.streams.video[0]
        if video.frames and not start and duration is None:
            return int(video.frames)
        if container.duration is None or not video.average_rate:
            return None
        rest = max(0.0, container.duration / av.time_base - start)
        return round(min(rest, duration or rest) * video.average_rate)


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
    """Stands in for what is being written elsewhere: pipes by way of files, no parts."""
    import shutil
    import tempfile

    notes = () if start == 0 and duration is None else (f"part from {start} for {duration}",)
    for note in notes:
        say(note)
    with tempfile.TemporaryDirectory() as folder:
        read, written = source or Path(folder) / "in.mkv", target or Path(folder) / "out.mkv"
        if source is None:
            with open(0, "rb", closefd=False) as pipe, read.open("wb") as file:
                shutil.copyfileobj(pipe, file)
        result = _enhance_file(read, written, enhancer, split=split, crf=crf, progress=progress)
        if target is None:
            try:
                with open(1, "wb", closefd=False) as pipe, written.open("rb") as file:
                    shutil.copyfileobj(file, pipe)
            except OSError as error:
                raise InputError("standard output cannot be written") from error
    return replace(result, notes=notes)


def _enhance_file(
    source: Path,
    target: Path,
    enhancer: Enhancer,
    *,
    split: bool = False,
    crf: float = 12.0,
    progress: Callable[[int], None] = lambda frames: None,
) -> FileResult:
    """Writes `source` to `target` with its faces restored.

    Frame count, timestamps, size and audio stay as they are; the file's own key frames are the
    references. Pictures that are not 8-bit 4:2:0 are converted to it. The target appears when it is
    complete, with the rights that the umask leaves; a symbolic link at it is replaced.

    Args:
        split: leave the left half of the picture as it was.
        crf: x264's, 0 to 51; 0 keeps every untouched pixel exactly.
        progress: is given the number of frames done.

    Raises:
        InputError: for a file that cannot be read, or a target that cannot be written.
    """
    try:
        is_input = target.exists() and target.resolve() == source.resolve()
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror}") from error
    if is_input:
        raise InputError(f"{target} is the input itself: give another name for the output")
    with open_video(source) as reader, VideoFile(target) as writer:
        try:
            _Transcoder(reader, writer.container, enhancer, split, crf, progress).run(target)
        except (av.FFmpegError, OSError) as error:  # those of reading are handled inside
            raise InputError(f"{target} cannot be written: {error.strerror}") from error
        counts = enhancer.stats.frames
        if not counts.received:
            raise InputError(f"{source} holds no frame that can be decoded: give another file")
    return FileResult(
        {name: asdict(counts)[name] for name in ("received", "enhanced", "passed")},
        enhancer.stats.well_received,
        enhancer.stats.keyframes,
        enhancer.generator.device,
        enhancer.generator.model.name,
    )


class _Transcoder:
    """One pass over a file."""

    def __init__(
        self,
        reader: av.container.InputContainer,
        writer: av.container.OutputContainer,
        enhancer: Enhancer,
        split: bool,
        crf: float,
        progress: Callable[[int], None],
    ) -> None:
        self._reader, self._writer, self._enhancer = reader, writer, enhancer
        self._split, self._crf, self._progress = split, crf, progress
        self._video_in = reader.streams.video[0]
        self._video_in.thread_type = "AUTO"
        export_side_data(self._video_in.codec_context)
        self._video_out: av.VideoStream | None = None
        self._copies: dict[int, Any] = {}
        self._rotate: Any = None

    def run(self, target: Path) -> None:
        copied = [self._video_in, *self._reader.streams.audio]
        for stream in self._reader.streams.audio:
            if stream.codec_context is None:
                raise InputError(
                    f"{target} cannot hold sound of a kind that is unknown: remove it from the "
                    "input first"
                )
            try:
                self._copies[stream.index] = self._writer.add_stream_from_template(stream)
            except (av.FFmpegError, ValueError) as error:
                raise InputError(
                    f"{target} cannot hold {stream.codec_context.name} audio: end it in .mkv"
                ) from error
        waiting: list[Any] = []  # sound before the first picture, when no header is written
        for packet in self._packets(copied):
            if packet.stream is self._video_in:
                self._show(packet)
            elif packet.dts is not None:
                packet.stream = self._copies[packet.stream.index]
                waiting.append(packet)
            if self._video_out is not None:
                for sound in waiting:
                    self._writer.mux(sound)
                waiting.clear()
        if self._video_out is not None:
            self._writer.mux(self._video_out.encode(None))

    def _packets(self, streams: list[Any]) -> Iterator[Any]:
        try:
            yield from self._reader.demux(streams)
        except av.FFmpegError:
            return  # the file breaks off here; what came before is kept

    def _show(self, packet: Any) -> None:
        try:
            frames = packet.decode()
        except av.FFmpegError:
            return  # a damaged packet costs its own picture, not the file
        for frame in frames:
            self._write(self._upright(frame))

    def _write(self, frame: Any) -> None:
        video = frame if frame.format.name in PLANAR_420 else frame.reformat(format="yuv420p")
        decoded = DecodedFrame(video, bool(frame.key_frame), DecodedFrame.from_video(frame).qp)
        output = self._enhancer.enhance(decoded)
        counts = self._enhancer.stats.frames
        counts.received += 1
        counts.enhanced += output is not video
        counts.passed += output is video
        if self._split and output is not video:
            output = left_half_of(video, output)
        if self._video_out is None:
            self._video_out = self._open_output(output)
        output.pict_type = av.video.frame.PictureType.NONE
        self._writer.mux(self._video_out.encode(output))
        self._progress(counts.received)

    def _open_output(self, first: av.VideoFrame) -> av.VideoStream:
        rate = self._video_in.average_rate or Fraction(30)
        time_base = self._video_in.time_base or Fraction(1, 90000)
        stream = add_h264(
            self._writer, (first.width, first.height), rate, time_base, self._crf, "veryfast"
        )
        codec = stream.codec_context
        codec.color_range, codec.colorspace = first.color_range, first.colorspace
        codec.color_primaries, codec.color_trc = first.color_primaries, first.color_trc
        return stream

    def _upright(self, frame: av.VideoFrame) -> av.VideoFrame:
        """Turns the pictures of a phone held upright, whose file only says how to turn them."""
        turns = round(frame.rotation / 90) % 4
        if not turns:
            return frame
        if self._rotate is None:
            steps = {1: ["cclock"], 2: ["clock", "clock"], 3: ["clock"]}[turns]
            graph = av.filter.Graph()
            nodes = [graph.add_buffer(template=self._video_in)]
            nodes += [graph.add("transpose", step) for step in steps]
            nodes.append(graph.add("buffersink"))
            graph.link_nodes(*nodes).configure()
            self._rotate = graph
        self._rotate.push(frame)
        upright: av.VideoFrame = self._rotate.pull()
        return upright


def left_half_of(received: av.VideoFrame, restored: av.VideoFrame) -> av.VideoFrame:
    """Received on the left, restored on the right, a white line between; `restored`'s pts."""
    both = copy_frame(restored)
    for to, of in zip(planes(both), planes(received), strict=True):
        half = to.shape[1] // 2
        to[:, :half] = of[:, :half]
    luma = planes(both)[0]
    middle = luma.shape[1] // 2
    luma[:, middle - 1 : middle + 1] = 235
    return both
