"""Reads the shards that `models.prepare` writes."""

import json
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from receiver.enhance.faces.alignment import CROP

PICTURE = (CROP, CROP, 3)


BROKEN = (OSError, ValueError, EOFError, KeyError, TypeError)
"""What reading a broken shard raises."""


class Shard:
    """One shard (see `models.prepare` for its arrays).

    Each picture is read when it is asked for: neither memory nor open files grow with the shards.
    """

    def __init__(self, folder: Path) -> None:
        """Raises one of BROKEN if an array is missing, cut off or of another shape."""
        about = json.loads((folder / "shard.json").read_text())
        self.folder, self.clip, self.qp = folder, str(about["clip"]), list(about["qp"])
        self.landmarks = np.load(folder / "landmarks.npy")
        self.raw_landmarks = np.load(folder / "raw_landmarks.npy")
        for name in ("landmarks", "raw_landmarks"):
            self._check(name, getattr(self, name), (68, 2), np.float32)
        self._begins = {}
        for name in ("degraded", "target", "raw"):
            pictures = np.load(folder / f"{name}.npy", mmap_mode="r")
            self._check(name, pictures, PICTURE, np.uint8)
            self._begins[name] = pictures.offset

    def __len__(self) -> int:
        return len(self.landmarks)

    def picture(self, name: str, i: int) -> NDArray[np.uint8]:
        """Picture i of `degraded`, `target` or `raw`, 256x256x3 RGB."""
        size = math.prod(PICTURE)
        begin = self._begins[name] + i * size
        return np.fromfile(self.folder / f"{name}.npy", np.uint8, size, offset=begin).reshape(
            PICTURE
        )

    def _check(self, name: str, array: NDArray, size: tuple[int, ...], kind: type) -> None:
        wanted = (len(self.qp), *size)
        if not self.qp or array.shape != wanted or array.dtype != kind:
            raise ValueError(f"{name}.npy is {array.dtype} {array.shape} instead of {wanted}")


def load_shards(folder: Path) -> list[Shard]:
    """The shards of a folder; broken ones are named and passed over.

    Raises FileNotFoundError if there are none.
    """
    shards = []
    for path in sorted(path.parent for path in folder.glob("*/shard.json")):
        try:
            shards.append(Shard(path))
        except BROKEN as error:
            print(f"passed over {path}: {type(error).__name__}: {error}")
    if not shards:
        raise FileNotFoundError(f"no shards in {folder}: run python -m models.prepare first")
    return shards
