"""What the code stream says: QPs, motion and changes, also over dropped frames."""

import io
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest

from receiver.media.encoding import Encoding, through_codec
from receiver.media.frame import DecodedFrame, export_side_data
from receiver.media.planes import copy_frame, planes
from receiver.media.priors import CodecPriors

SIZE = 320, 240


def moving(frames: int, dx: int, dy: int) -> list[av.VideoFrame]:
    """A textured scene that moves by (dx, dy) pixels a frame."""
    rng = np.random.default_rng(1)
    scene = np.kron(rng.integers(40, 215, (80, 90)), np.ones((6, 6))).astype(np.uint8)
    made = []
    for index in range(frames):
        frame = av.VideoFrame(*SIZE, "yuv420p")
        y, x = 60 - dy * index, 60 - dx * index
        luma, *chroma = planes(frame)
        luma[:] = scene[y : y + SIZE[1], x : x + SIZE[0]]
        for plane in chroma:
            plane[:] = 128
        made.append(frame)
    return made


def decoded(frames: list[av.VideoFrame], **more) -> list[DecodedFrame]:
    encoding = Encoding(crf=20, keyframe_every=1000, **more)
    return [frame for _, frame, _ in through_codec(frames, encoding, Fraction(30))]


def test_qps_have_a_place_and_the_mean_of_the_frame():
    (frame,) = decoded(moving(1, 0, 0))
    qp = CodecPriors([frame]).qp
    assert qp.shape == (15, 20)
    assert np.isfinite(qp).all()
    assert float(qp.mean()) == pytest.approx(frame.qp, abs=1e-3)
    left = frame.qp_within(np.array([0.0, 0.0, 16.0, 16.0]))
    assert qp[0, 0] == pytest.approx(left)


def test_without_a_known_codec_there_are_no_qps():
    frame = DecodedFrame(moving(1, 0, 0)[0], True, None)
    assert CodecPriors([frame]).qp is None


@pytest.mark.parametrize(("dx", "dy"), [(3, 0), (0, 4), (-5, 2)])
def test_motion_is_chained_over_dropped_frames(dx, dy):
    """What moved by (dx, dy) a frame was at -(dx, dy) in the previous frame."""
    seen = decoded(moving(5, dx, dy))
    for dropped in (0, 3):
        priors = CodecPriors(seen[1 : 2 + dropped], seen[0].video)
        inner = priors.motion[3:-3, 3:-3].reshape(-1, 2)
        known = inner[np.isfinite(inner).all(axis=1)]
        assert len(known) > 0.7 * len(inner)
        assert np.median(known, axis=0) == pytest.approx(
            [-dx * (1 + dropped), -dy * (1 + dropped)], abs=0.5
        )


def test_an_intra_frame_breaks_the_chain():
    frames = moving(3, 3, 0)
    seen = [
        frame
        for _, frame, _ in through_codec(frames, Encoding(crf=20, keyframe_every=2), Fraction(30))
    ]
    priors = CodecPriors(seen[1:3], seen[0].video)  # the third is an I-frame
    assert np.isnan(priors.motion).all()


def test_changes_are_those_of_any_frame_missed():
    frames = moving(3, 0, 0)
    planes(frames[1])[0][32:48, 64:80] ^= 128
    frames[2] = moving(1, 0, 0)[0]
    seen = [DecodedFrame(frame, False, None) for frame in frames]
    assert not CodecPriors(seen[2:], seen[0].video).changed.any()
    changed = CodecPriors(seen[1:], seen[0].video).changed
    assert changed[2, 4]
    assert changed.sum() == 1


def test_nothing_is_known_of_the_first_frame_and_of_another_size():
    first = DecodedFrame(moving(1, 0, 0)[0], True, None)
    small = av.VideoFrame(160, 120, "yuv420p")
    for before in (None, small):
        priors = CodecPriors([first], before)
        assert priors.motion is None
        assert priors.changed.all()
        assert priors.shape == (15, 20)


def test_sizes_that_are_no_multiple_of_a_macroblock():
    frame = av.VideoFrame(50, 34, "yuv420p")
    for plane in planes(frame):
        plane[:] = 100
    other = copy_frame(frame)
    planes(other)[0][33, 49] = 7
    priors = CodecPriors([DecodedFrame(other, False, None)], frame)
    assert priors.shape == (3, 4)
    assert priors.changed[2, 3]
    assert priors.changed.sum() == 1


def test_a_missed_frame_of_another_format_breaks_the_chain():
    first, last = moving(2, 3, 0)
    missed = av.VideoFrame(*SIZE, "rgb24")
    priors = CodecPriors([DecodedFrame(one, False, None) for one in (missed, last)], first)
    assert priors.motion is None
    assert priors.changed.all()


def test_a_rotated_or_enlarged_view_has_no_map_of_qps():
    """The decoded frame's macroblocks are not those of the view."""
    (frame,) = decoded(moving(1, 0, 0))
    for width, height in (SIZE[::-1], (2 * SIZE[0], 2 * SIZE[1])):
        view = av.VideoFrame(width, height, "yuv420p")
        priors = CodecPriors([replace(frame, video=view, stored=(frame.video, lambda box: box))])
        assert priors.qp is None


class WithVectors(DecodedFrame):
    """A frame with vectors of whole macroblocks: (column, row, x and y in pixels, source)."""

    def __init__(self, *vectors) -> None:
        super().__init__(av.VideoFrame(*SIZE, "yuv420p"), False, None)
        names = ("source", "w", "h", "dst_x", "dst_y", "motion_x", "motion_y", "motion_scale")
        records = [
            (source, 16, 16, 16 * column + 8, 16 * row + 8, 4 * x, 4 * y, 4)
            for column, row, x, y, source in vectors
        ]
        self.__dict__["motion_vectors"] = np.array(records, [(name, "<i4") for name in names])


def test_a_chain_follows_a_block_to_its_earlier_place():
    missed = WithVectors((5, 5, 3, 1, -1), (6, 5, 90, 90, -1))
    frame = WithVectors((6, 5, -16, 0, -1))  # it was at (5, 5) in the frame before
    motion = CodecPriors([missed, frame], av.VideoFrame(*SIZE, "yuv420p")).motion
    assert motion[5, 6].tolist() == [-13, 1]


def test_prediction_from_later_frames_is_left_out():
    frame = WithVectors((5, 5, 3, 1, -1), (5, 5, 90, 90, 1), (6, 5, 90, 90, 1))
    motion = CodecPriors([frame], av.VideoFrame(*SIZE, "yuv420p")).motion
    assert motion[5, 5].tolist() == [3, 1]
    assert np.isnan(motion[5, 6]).all()


def test_a_change_that_was_undone_is_a_change():
    frames = moving(3, 0, 0)
    planes(frames[1])[0][0, 0] ^= 128
    seen = [DecodedFrame(frame, False, None) for frame in frames]
    assert CodecPriors(seen[1:], frames[0]).changed[0, 0]


def test_macroblocks_outside_the_frame_are_left_out():
    """Interlaced H.264 has an even number of rows of macroblocks; 240 lines need 15."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=30, options={"flags": "+ildct", "bf": "0"})
        stream.width, stream.height = SIZE
        container.mux(stream.encode(moving(1, 0, 0)[0]))
        container.mux(stream.encode(None))
    file.seek(0)
    with av.open(file) as container:
        export_side_data(container.streams.video[0].codec_context)
        frame = DecodedFrame.from_video(next(container.decode(video=0)))
    assert frame.qp_blocks.y.max() // 16 == 15
    qp = CodecPriors([frame]).qp
    assert qp.shape == (15, 20)
    assert np.isfinite(qp).all()
