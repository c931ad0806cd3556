"""A file that keeps people's references from one call to the next."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from keyframes import Keyframe, People, Person
from receiver.alignment import CROP
from receiver.errors import InputError

FIELDS = {
    "crop": (np.uint8, (CROP, CROP, 3)),
    "landmarks": (np.float32, (68, 2)),
    "qp": (np.float32, ()),
    "sharpness": (np.float32, ()),
    "person": (np.int32, ()),
}
"""Type and shape of what each keyframe has in the file."""
LOOKS = (np.float32, (192,))
"""Type and shape of a person's signature."""
MOST = 200
"""Keyframes, and people, that a file may hold."""


def save_people(people: People, path: Path) -> None:
    """Writes everybody who has references; the file is whole at any moment.

    Raises InputError if it cannot be written.
    """
    known = [person for person in people if len(person.keyframes)]
    rows = [(number, one) for number, person in enumerate(known) for one in person.keyframes]
    arrays: dict[str, list[Any]] = {
        "crop": [one.crop for _, one in rows],
        "landmarks": [one.landmarks for _, one in rows],
        "qp": [np.nan if one.qp is None else one.qp for _, one in rows],
        "sharpness": [one.sharpness for _, one in rows],
        "person": [number for number, _ in rows],
    }
    looks = np.array([person.signature for person in known], LOOKS[0]).reshape(-1, *LOOKS[1])
    unfinished = path.with_name(path.name + ".part")
    try:
        with unfinished.open("wb") as file:
            np.savez_compressed(
                file,
                allow_pickle=False,
                looks=looks,
                **{
                    name: np.array(arrays[name], kind).reshape(-1, *shape)
                    for name, (kind, shape) in FIELDS.items()
                },
            )
        os.replace(unfinished, path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise InputError(f"{path} cannot be written: {error.strerror}") from error


def load_people(people: People, path: Path) -> int:
    """Adds those of a file to `people`; returns how many. A file that is not there holds nobody.

    Raises InputError if the file is no such file.
    """
    if not path.exists():
        return 0
    try:
        fields, looks = _read(path)
    except Exception as error:  # numpy, zipfile and zlib raise whatever they stumble over
        raise InputError(f"{path} holds no references: give another --keyframes FILE") from error
    for number, look in enumerate(looks):
        keyframes = people.empty_set()
        for place in np.flatnonzero(fields["person"] == number):
            keyframes.add(_keyframe(fields, int(place)))
        people.add(Person(keyframes, look, np.zeros((68, 2), np.float32)))
    return len(looks)


def _read(path: Path) -> tuple[dict[str, Any], Any]:
    """Raises ValueError, among others, for what `save_people` would not have written."""
    with np.load(path, allow_pickle=False) as file:
        fields = {name: file[name] for name in FIELDS}
        looks = file["looks"]
    expected = [(fields[name], *FIELDS[name]) for name in FIELDS]
    for array, kind, shape in [*expected, (looks, *LOOKS)]:
        if array.dtype != kind or array.ndim == 0 or array.shape[1:] != shape:
            raise ValueError("type or shape")
        if len(array) > MOST:
            raise ValueError("too many")
    if len({len(array) for array in fields.values()}) != 1:
        raise ValueError("lengths")
    if not (np.isfinite(fields["landmarks"]).all() and np.isfinite(looks).all()):
        raise ValueError("not finite")
    return fields, looks


def _keyframe(fields: dict[str, Any], place: int) -> Keyframe:
    qp = float(fields["qp"][place])
    return Keyframe(
        fields["crop"][place],
        fields["landmarks"][place],
        qp if np.isfinite(qp) else None,
        "still",
        float(fields["sharpness"][place]),
    )
