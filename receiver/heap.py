"""How the C library keeps memory."""

import ctypes
import sys

MMAP_THRESHOLD = -3
"""M_MMAP_THRESHOLD of glibc's mallopt(3)."""
LARGE = 1 << 20
"""Bytes of a block that gets pages of its own: less than the luma of a 1080p frame."""


def return_large_blocks() -> None:
    """Lets glibc give freed frames back to the system at once; does nothing with other libraries.

    It would take them out of its heap once it has seen some freed, where small blocks that live
    longer come to lie between them: enhancing 1080p took 1.2 GB instead of 0.4.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(MMAP_THRESHOLD, LARGE)
