"""Threads of a training or an export."""

import torch

from receiver.cores import limit_opencv, usable_cores


def limit_threads() -> None:
    """Makes PyTorch and OpenCV use no more threads than this process may use cores.

    By itself PyTorch counts the machine's cores, or takes OMP_NUM_THREADS, which may be fewer.
    """
    torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
    limit_opencv()
