"""Clips for the tests of benches."""

from fractions import Fraction

import av

from receiver.media.files.writing import VideoWriter, add_h264


def write_clip_at(path, frames, fps):
    """Writes frames as H.264 at any rate."""
    with VideoWriter(path) as writer:
        size, base = (frames[0].width, frames[0].height), Fraction(1, fps)
        video = add_h264(writer.container, size, Fraction(fps), base, 6, "veryfast")
        for index, frame in enumerate(frames):
            frame.pts, frame.time_base, frame.duration = index, base, 1
            frame.pict_type = av.video.frame.PictureType.NONE
            writer.container.mux(video.encode(frame))
        writer.container.mux(video.encode(None))
