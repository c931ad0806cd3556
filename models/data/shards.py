"""Reads the shards that `models.prepare` writes."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.data.report_set import refuse_report_set
from receiver.enhance.faces.alignment import CROP

PICTURE = (CROP, CROP, 3)
"""Shape of a stored crop."""
BROKEN = (OSError, ValueError, EOFError, KeyError, TypeError)
"""Exceptions that reading a broken shard raises."""


class Shard:
    """One shard; `models.prepare` describes its arrays.

    Each picture is read on request, so that neither memory nor open files grow with the number of
    shards.
    """

    def __init__(self, folder: Path) -> None:
        """Raises one of BROKEN if an array is missing, truncated or of another shape."""
        about = json.loads((folder / "shard.json").read_text())
        self.folder, self.clip, self.qp = folder, str(about["clip"]), list(about["qp"])
        self.landmarks: NDArray[np.float32] = np.load(folder / "landmarks.npy")
        self.raw_landmarks: NDArray[np.float32] = np.load(folder / "raw_landmarks.npy")
        self._check("landmarks", self.landmarks, (68, 2), np.float32)
        self._check("raw_landmarks", self.raw_landmarks, (68, 2), np.float32)
        self._offsets: dict[str, int] = {}
        for name in ("degraded", "target", "raw"):
            pictures = np.load(folder / f"{name}.npy", mmap_mode="r")
            self._check(name, pictures, PICTURE, np.uint8)
            self._offsets[name] = pictures.offset

    def __len__(self) -> int:
        return len(self.landmarks)

    def picture(self, name: str, i: int) -> NDArray[np.uint8]:
        """Returns picture i of `degraded`, `target` or `raw`, 256x256x3 RGB."""
        size = math.prod(PICTURE)
        offset = self._offsets[name] + i * size
        pixels = np.fromfile(self.folder / f"{name}.npy", np.uint8, size, offset=offset)
        return pixels.reshape(PICTURE)

    def _check(self, name: str, array: NDArray[Any], size: tuple[int, ...], kind: type) -> None:
        wanted = (len(self.qp), *size)
        if not self.qp or array.shape != wanted or array.dtype != kind:
            raise ValueError(f"{name}.npy is {array.dtype} {array.shape} instead of {wanted}")


def load_shards(folder: Path) -> list[Shard]:
    """Returns the shards of a folder; prints the name of each broken one and skips it.

    Raises FileNotFoundError if the folder holds no shards, and InputError if it holds clips of the
    report set.
    """
    refuse_report_set([folder])
    shards = []
    for path in sorted(path.parent for path in folder.glob("*/shard.json")):
        try:
            shards.append(Shard(path))
        except BROKEN as error:
            print(f"skipped {path}: {type(error).__name__}: {error}")
    if not shards:
        raise FileNotFoundError(f"there are no shards in {folder}: run python -m models.prepare")
    return shards
