"""Writes video files, under a temporary name until they are complete, with H.264 by x264."""

import contextlib
import io
import os
import sys
from collections.abc import Mapping
from fractions import Fraction
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

import av
from av.codec.context import Flags

from receiver.cores import codec_threads
from receiver.errors import InputError
from receiver.safe_files import NewFile

WRITTEN_FORMATS = {".mp4": "mp4", ".mkv": "matroska", ".mov": "mov", ".m4v": "mp4"}
"""libav's names of the formats that can be written, by the file's ending."""
LIVE = {"movflags": "hybrid_fragmented", "frag_duration": "1000000"}
"""Muxer options that let an unfinished .mp4 play up to its last second; .mkv ignores them."""
PIPE_FORMAT = "matroska"
"""libav's name of the format of standard output: it is written and read without seeking."""


class Memory(io.BytesIO):
    """A file in memory. One that stands for a pipe is not seekable until it is read."""

    def __init__(self, *, pipe: bool) -> None:
        """Creates an empty file.

        Args:
            pipe: whether it stands for a pipe.
        """
        super().__init__()
        self.pipe = pipe

    def seekable(self) -> bool:
        """Returns whether libav may seek."""
        return not self.pipe


def format_of(path: Path | None) -> str:
    """Returns libav's name of the format for a file's ending, or `PIPE_FORMAT` for None.

    Raises InputError for other endings.
    """
    if path is None:
        return PIPE_FORMAT
    try:
        return WRITTEN_FORMATS[path.suffix.lower()]
    except KeyError:
        raise InputError(
            f"{path} has no ending of a video format that can be written: use .mp4 or .mkv "
            "(.m4v and .mov work too)"
        ) from None


def is_pipe(path: Path | None) -> bool:
    """Returns whether a target is standard output and libav cannot seek in it."""
    return path is None and not sys.stdout.seekable()


class VideoWriter:
    """Writes a video under a temporary name, and renames it when it is complete (`NewFile`).

    A `live` writer records a call: only this user may read the file, and if writing fails, the
    part that plays is kept. Other files get the usual permissions (umask), and are removed if
    writing fails.

    Attributes:
        path: of the file, None for standard output.
        container: libav's container.
    """

    def __init__(
        self, path: Path | None, *, live: bool = False, options: Mapping[str, str] | None = None
    ) -> None:
        """Creates the file, and its folder if necessary.

        Args:
            path: of the file, whose ending selects the format; None for standard output.
            live: whether the file records a call.
            options: of libav's muxer.

        Raises:
            InputError: if the folder cannot be written, or for an ending of another format.
        """
        self.path = path
        self._live = live
        self._new: NewFile | None = None
        name = format_of(path)
        options = {**(LIVE if live else {}), **(options or {})}
        if path is None:
            self.container = av.open(sys.stdout.buffer, "w", name, container_options=options)
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}") from error
        self._new = NewFile(path, private=live)
        # The open file, not its name: libav would open the name again, truncate whatever is there
        # by then, and follow a link. This costs no time (measured at 60 MB/s).
        try:
            self.container = av.open(self._new.file, "w", name, container_options=options)
        except BaseException:
            self._new.discard()
            raise

    @property
    def kept(self) -> bool:
        """Whether the file is in place under its own name, complete or not."""
        return self._new is not None and self._new.finished

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        new = self._new
        try:
            with contextlib.suppress(*((Exception,) if kind else ())):  # the first error counts
                self.container.close()
                if new is None:
                    sys.stdout.buffer.flush()
            if kind is None and new and new.file.seek(0, os.SEEK_END):  # empty without a stream
                new.finish()
        except (av.FFmpegError, OSError) as failure:
            raise unwritable(self.path, failure) from failure
        finally:
            if new is not None:
                if self._live and not new.file.closed and _plays(new.file):
                    new.finish()
                new.discard()


def unwritable(path: Path | None, error: Exception) -> InputError:
    """Returns the error for a file that cannot be written, or not to its end."""
    name = "standard output" if path is None else path
    return InputError(f"{name} cannot be written: {getattr(error, 'strerror', None) or error}")


def _plays(file: FileIO) -> bool:
    """Returns whether a file contains a frame that can be decoded."""
    file.seek(0)
    with contextlib.suppress(av.FFmpegError, OSError), av.open(file, "r") as container:
        return any(True for _ in container.decode(container.streams.video))
    return False


def add_h264(
    container: av.container.OutputContainer,
    size: tuple[int, int],
    rate: Fraction,
    time_base: Fraction,
    crf: float,
    preset: str,
    pixel_format: str = "yuv420p",
) -> av.VideoStream:
    """Adds an x264 stream to a container and returns it.

    Args:
        size: width and height in pixels.
        rate: frames a second.
        time_base: unit of the frames' pts, in seconds.
        crf: constant rate factor, 0 to 51; 0 is lossless at any depth.
        preset: x264's preset.
    """
    stream = container.add_stream("libx264", rate=rate)
    stream.width, stream.height = size
    stream.pix_fmt = pixel_format
    codec: Any = stream.codec_context
    codec.time_base = time_base
    codec.thread_count = codec_threads()
    codec.flags |= Flags.frame_duration
    stream.options = {"preset": preset, **({"crf": f"{crf:g}"} if crf else {"qp": "0"})}
    return stream
