"""Scales frames to the size of the file or view that they go into."""

import av

from receiver.media.pixels import bits_of, keep_tags, samples


def fitted(frame: av.VideoFrame, width: int, height: int) -> av.VideoFrame:
    """Returns a frame scaled to fit into width and height, centred, with black around it.

    It keeps its time, duration, colours and pixel format (planar YUV); sides of a 4:2:0 or 4:2:2
    frame are rounded to even numbers. A frame that has this size already is returned as it is.
    """
    if (frame.width, frame.height) == (width, height):
        return frame
    scale = min(width / frame.width, height / frame.height)
    inner = frame.reformat(
        _even(frame.width * scale, width), _even(frame.height * scale, height), threads=1
    )
    outer = av.VideoFrame(width, height, frame.format.name)
    left, top = (width - inner.width) // 4 * 2, (height - inner.height) // 4 * 2
    grey = 128 << (bits_of(frame) - 8)
    for number, (to, of) in enumerate(zip(samples(outer), samples(inner), strict=True)):
        to[:] = grey if number else grey // 8  # black: 16 of 8 bits
        x, y = left * to.shape[1] // width, top * to.shape[0] // height
        to[y : y + of.shape[0], x : x + of.shape[1]] = of
    keep_tags(outer, frame)
    outer.duration = frame.duration
    return outer


def _even(side: float, most: int) -> int:
    """Returns `side` rounded to an even number from 2 to `most`."""
    return min(most, max(2, round(side / 2) * 2))
