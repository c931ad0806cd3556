"""Rivals without a network: swscale's filters, and FFmpeg's deblocking before one of them."""

from fractions import Fraction

import av
import av.filter
from av.video.reformatter import ColorRange, Interpolation

from receiver.media.pixels import PLANAR_420, keep_tags
from receiver.media.planes import planes

BICUBIC, LANCZOS, AREA = Interpolation.BICUBIC, Interpolation.LANCZOS, Interpolation.AREA
DEBLOCK = "filter=weak:block=8"
"""Options of the filter `deblock`. An H.264 decoder smooths the edges already: the strong filter
and blocks of 4x4 lose more."""


class Resized:
    """Enlarges by one of swscale's filters."""

    runtime = "swscale"

    def __init__(self, name: str, interpolation: Interpolation) -> None:
        self.name, self._interpolation = name, interpolation

    def show(self, frame: av.VideoFrame, width: int, height: int) -> av.VideoFrame:
        """See `Rival.show`."""
        return resized(frame, width, height, self._interpolation)


class Deblocked:
    """Smooths the edges of blocks by FFmpeg's filter `deblock`, then enlarges by bicubic."""

    name, runtime = "deblock", "libavfilter and swscale"

    def __init__(self) -> None:
        self._graph: av.filter.Graph | None = None
        self._size = (0, 0)

    def show(self, frame: av.VideoFrame, width: int, height: int) -> av.VideoFrame:
        """See `Rival.show`."""
        frame = as_yuv420p(frame)
        smooth = self._smoothed(frame)
        keep_tags(smooth, frame)
        return resized(smooth, width, height, BICUBIC)

    def _smoothed(self, frame: av.VideoFrame) -> av.VideoFrame:
        if self._graph is None or self._size != (frame.width, frame.height):
            self._size = frame.width, frame.height
            self._graph = _deblocking(*self._size)
        self._graph.push(frame)
        smooth = self._graph.pull()
        assert isinstance(smooth, av.VideoFrame)
        return smooth


def _deblocking(width: int, height: int) -> av.filter.Graph:
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=width, height=height, format=av.VideoFormat("yuv420p"), time_base=Fraction(1, 90000)
    )
    graph.link_nodes(source, graph.add("deblock", DEBLOCK), graph.add("buffersink")).configure()
    return graph


def resized(
    frame: av.VideoFrame, width: int, height: int, interpolation: Interpolation
) -> av.VideoFrame:
    """Returns an 8-bit 4:2:0 frame at width x height pixels, as yuv420p with the same tags."""
    frame = as_yuv420p(frame)
    shown = frame.reformat(width, height, interpolation=interpolation)
    if shown is not frame:
        keep_tags(shown, frame)
    return shown


def as_yuv420p(frame: av.VideoFrame) -> av.VideoFrame:
    """Returns an 8-bit 4:2:0 frame under the name yuv420p; frames of other formats are converted.

    Frames of the name yuvj420p are full range. They keep their samples and get a tag that says so;
    libav would convert the samples.
    """
    if frame.format.name not in PLANAR_420:
        return frame.reformat(format="yuv420p")
    if frame.format.name == "yuv420p":
        return frame
    renamed = av.VideoFrame(frame.width, frame.height, "yuv420p")
    for to, of in zip(planes(renamed), planes(frame), strict=True):
        to[:] = of
    keep_tags(renamed, frame)
    renamed.color_range = ColorRange.JPEG
    return renamed
