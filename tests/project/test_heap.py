"""Memory goes back to the system while a file is enhanced."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import ctypes, sys
from receiver.heap import return_large_blocks
if sys.argv[1] == "returned":
    return_large_blocks()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
SIZE = 2 << 20
libc.free(libc.malloc(SIZE))
blocks = []
for _ in range(100):
    block = libc.malloc(SIZE)
    ctypes.memset(block, 1, SIZE)
    blocks.append(block)
    libc.malloc(1000)  # lives on
for block in blocks:
    libc.free(block)
status = open("/proc/self/status").read()
print(int(status.split("VmRSS:")[1].split()[0]) // 1024)
"""


def megabytes_left(how: str) -> int:
    script = [sys.executable, "-c", SCRIPT, how]
    root = Path(__file__).parents[2]
    return int(subprocess.run(script, cwd=root, capture_output=True, check=True, text=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc")
def test_freed_frames_go_back_to_the_system():
    assert megabytes_left("kept") > 150  # what glibc does by itself
    assert megabytes_left("returned") < 80
