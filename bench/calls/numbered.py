"""Frames that carry their number, so that received frames can be compared with the sent ones."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import av
import numpy as np

from bench.metrics.pictures import psnr, ssim
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.alignment import Affine, extract_crop, picture_of
from receiver.enhance.stage import EnhancedFrame
from receiver.media.planes import planes

BITS = 10
"""Bits of a number."""
FIELDS = BITS + 3
"""White and black for comparison, the bits, their parity."""
SIDE = 20
"""Fields that would fit between the left and the right border: a field is 32 of 640 pixels wide
and high. They lie along the upper border. The number is a Gray code: from frame to frame one bit
and the parity change, because more changes would cost the encoder more bits."""
DARK, BRIGHT = 40, 200
EVERY = 15
"""Restored frames from one that is measured to the next."""
MOST = 300
"""Largest number of frames kept for measuring: each takes a megabyte at 640x480."""


def write_number(frame: av.VideoFrame, number: int) -> av.VideoFrame:
    """Returns a copy of a yuv420p frame with `number`, below 2^`BITS`, in its upper left corner."""
    marked = av.VideoFrame.from_ndarray(frame.to_ndarray(format="yuv420p"), format="yuv420p")
    side, gray = frame.width // SIDE, number ^ (number >> 1)
    bits = [(gray >> bit) & 1 for bit in range(BITS)]
    fields = [1, 0, *bits, sum(bits) % 2]
    luma, *chroma = planes(marked)
    for place, bit in enumerate(fields):
        luma[:side, place * side : (place + 1) * side] = BRIGHT if bit else DARK
    for plane in chroma:
        plane[: side // 2, : FIELDS * side // 2] = 128
    return marked


def read_number(frame: av.VideoFrame) -> int | None:
    """Returns the number in a frame of any size; None if it cannot be read."""
    luma, side = planes(frame)[0], frame.width / SIDE
    quarter = max(1, int(side / 4))  # the middle of a field: its borders are blurred
    centres = [round((place + 0.5) * side) for place in range(FIELDS)]
    row = slice(round(side / 2) - quarter, round(side / 2) + quarter)
    levels = [float(luma[row, x - quarter : x + quarter].mean()) for x in centres]
    white, black, *rest = levels
    if white - black < (BRIGHT - DARK) / 2:
        return None
    *bits, parity = (int(level > (white + black) / 2) for level in rest)
    if sum(bits) % 2 != parity:
        return None
    number = sum(bit << place for place, bit in enumerate(bits))
    for shift in (8, 4, 2, 1):
        number ^= number >> shift
    return number


@dataclass(frozen=True)
class KeptFrame:
    """A frame before and after restoration, and the transform of its nearest face's crop."""

    received: av.VideoFrame
    restored: av.VideoFrame
    crop_from_frame: Affine


class WatchedEnhancer(Enhancer):
    """Keeps every `EVERY`th restored frame, to be measured after the call.

    Attributes:
        kept: those frames, at most `MOST`.
    """

    def __init__(self, *of: Any, **more: Any) -> None:
        super().__init__(*of, **more)
        self.kept: list[KeptFrame] = []
        self._restored_so_far = 0

    def process(self, *frames: Any, **more: Any) -> EnhancedFrame:
        """See `Pipeline.process`."""
        enhanced = super().process(*frames, **more)
        if enhanced.is_restored:
            if self._restored_so_far % EVERY == 0 and len(self.kept) < MOST:
                affine = enhanced.faces[0].crop_from_frame
                self.kept.append(KeptFrame(enhanced.received.video, enhanced.video, affine))
            self._restored_so_far += 1
        return enhanced


def face_quality(kept: Iterable[KeptFrame], sent: list[av.VideoFrame]) -> list[dict[str, float]]:
    """Returns PSNR in dB and SSIM of each face's crop, received and restored, against the sent one.

    Args:
        sent: the clip in order; its frames are reduced to the received size.

    A frame whose number cannot be read is left out.
    """
    found = []
    for one in kept:
        number = read_number(one.received)
        if number is not None and number < len(sent):
            found.append(_quality(one, sent[number]))
    return found


def _quality(one: KeptFrame, sent: av.VideoFrame) -> dict[str, float]:
    """Compares the crops of three frames, all with the received one's colour space."""
    original = sent.reformat(
        one.received.width, one.received.height, "yuv420p", interpolation="AREA"
    )
    original.colorspace, original.color_range = one.received.colorspace, one.received.color_range
    crop = partial(extract_crop, affine=one.crop_from_frame)
    truth, received, restored = (
        picture_of(crop(frame)) for frame in (original, one.received, one.restored)
    )
    return {
        "psnr_received": psnr(truth, received),
        "psnr_restored": psnr(truth, restored),
        "ssim_received": ssim(truth, received),
        "ssim_restored": ssim(truth, restored),
    }


def mean_quality(found: list[dict[str, float]]) -> dict[str, float]:
    """Returns the mean of each figure and the number of `pictures`; an empty dict without any."""
    if not found:
        return {}
    means = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
    return {"pictures": len(found), **means}
