"""Saves people's references to a file and loads them in the next call.

The file is an .npz: a zip archive with one .npy array for each of `FIELDS`, one row per reference.
"""

import hashlib
import logging
import math
import os
import stat
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit, urlunsplit

import numpy as np

from keyframes import Keyframe, KeyframeSet, People, Person
from receiver.enhance.faces.alignment import CROP, can_be_cropped, crop_from_frame
from receiver.enhance.faces.recognition import FaceRecogniser, RecognitionError
from receiver.errors import InputError
from receiver.safe_files import NewFile

logger = logging.getLogger(__name__)

PEER_BYTES = hashlib.sha256().digest_size
FIELDS: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
    "crop": (np.uint8, (CROP, CROP, 3)),
    "landmarks": (np.float32, (68, 2)),
    "qp": (np.float32, ()),
    "sharpness": (np.float32, ()),
    "person": (np.int32, ()),
    "source": (np.uint8, ()),
    "peer": (np.uint8, (PEER_BYTES,)),
}
"""Name of each array, and dtype and shape of its row for one reference."""
SOURCES = ("stream", "still")
"""Meaning of the numbers in `source`."""
MAX_REFERENCES = 200
"""Maximum number of references in a file."""
MAX_FILE = 64 * 1024 * 1024
"""Maximum size in bytes of a file: `MAX_REFERENCES` incompressible crops take 40 MB."""
DIRECTORY_END = struct.Struct("<4s4H2LH")
"""A zip archive's end of central directory record (APPNOTE.TXT, section 4.3.16)."""
ENCRYPTED = 1
"""Bit of a member's flags."""
LONGEST_NAME = 255
"""Maximum size in bytes of a file's name on most systems."""
MAX_DIRECTORY = 4096
"""Maximum size in bytes of an archive's central directory; numpy writes 500 for these arrays."""
MAX_HEADER = 256
"""Maximum size in bytes of an array's .npy header; numpy writes 128 for these arrays."""
LANDMARK_RANGE = (-CROP, 2.0 * CROP)
"""Smallest and largest coordinate of a landmark in crop pixels."""
QPS, SHARPNESSES = (0.0, 100.0), (0.0, 2048.0)
"""Smallest and largest QP (that of an enlarged face may exceed 51) and sharpness."""


@dataclass(frozen=True)
class Album:
    """The people of a file.

    Attributes:
        people: those with references from calls with this peer.
        others: those with references from other peers, which stay in the file but are not used.
    """

    people: list[Person]
    others: list[Person]


def peer_of(url: str) -> bytes:
    """Returns the SHA-256 of a call's address, which links references to a peer.

    Ignores the user, the password, the fragment, the case of the host, and slashes at the end of
    the path.
    """
    parts = urlsplit(url)
    host = parts.netloc.rsplit("@", 1)[-1].lower()
    address = urlunsplit((parts.scheme.lower(), host, parts.path.rstrip("/"), parts.query, ""))
    return hashlib.sha256(address.encode(errors="surrogatepass")).digest()


def check_album_path(path: Path) -> None:
    """Raises InputError if a file of this name cannot be written after the call."""
    try:
        if not path.parent.is_dir():
            raise InputError(f"there is no folder {path.parent} for {path.name}: make it first")
        writable = os.access(path.parent, os.W_OK) and len(os.fsencode(path.name)) <= LONGEST_NAME
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error
    if not writable:
        raise InputError(f"{path} cannot be written: give another --keyframes FILE")


def save_album(people: People, others: list[Person], path: Path, peer: bytes) -> None:
    """Writes the references of this call's people and of `others`; replaces the file atomically.

    Args:
        people: people of this call.
        others: people of other peers, as `load_album` returned them.
        path: the file.
        peer: peer of this call, see `peer_of`.

    Raises:
        InputError: if the file cannot be written.
    """
    rows = list(_rows([*people, *people.left_out, *others]))
    if len(rows) > MAX_REFERENCES:
        logger.warning(
            "%s holds %d references: %d are left out",
            path,
            MAX_REFERENCES,
            len(rows) - MAX_REFERENCES,
        )
        del rows[MAX_REFERENCES:]
    arrays: dict[str, list[Any]] = {
        "crop": [one.crop for _, one in rows],
        "landmarks": [one.landmarks for _, one in rows],
        "qp": [np.nan if one.qp is None else one.qp for _, one in rows],
        "sharpness": [one.sharpness for _, one in rows],
        "person": [number for number, _ in rows],
        "source": [SOURCES.index(one.source) for _, one in rows],
        "peer": [np.frombuffer(one.peer or peer, np.uint8) for _, one in rows],
    }
    with NewFile(path, private=True) as new:
        try:
            np.savez_compressed(
                new.file,
                allow_pickle=False,
                **{
                    name: np.array(arrays[name], kind).reshape(-1, *shape)
                    for name, (kind, shape) in FIELDS.items()
                },
            )
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}") from error


def _rows(people: list[Person]) -> Iterator[tuple[int, Keyframe]]:
    """Yields each reference with the number of its person."""
    known = [person for person in people if len(person.keyframes)]
    for number, person in enumerate(known):
        for keyframe in person.keyframes:
            yield number, keyframe


def load_album(
    people: People, path: Path, recogniser: FaceRecogniser, peer: bytes, *, any_peer: bool = False
) -> Album:
    """Reads a file and adds the people with references from `peer` to `people`.

    Computes the embeddings from the stored crops, because the file itself is not trusted; this
    takes about 25 ms per reference. A missing file counts as empty.

    Args:
        people: people of this call.
        path: the file.
        recogniser: computes the embeddings.
        peer: peer of this call, see `peer_of`.
        any_peer: also use references from other peers.

    Raises:
        InputError: if the file is not a valid album, or a face cannot be recognised.
    """
    try:
        fields = _read(path)
    except FileNotFoundError:
        return Album([], [])
    except Exception as error:  # numpy, zipfile and zlib raise many kinds of errors
        raise InputError(
            f"{path} holds no references that can be read: give another --keyframes FILE"
        ) from error
    album = Album([], [])
    for number in np.unique(fields["person"]):
        rows = [int(row) for row in np.flatnonzero(fields["person"] == number)]
        keyframes = [_keyframe(fields, row) for row in rows]
        ours = [one for one in keyframes if any_peer or one.peer == peer]
        others = [one for one in keyframes if one not in ours]
        if others:
            album.others.append(Person(KeyframeSet(MAX_REFERENCES)))
            for keyframe in others:
                album.others[-1].keyframes.add(keyframe)
        if ours:
            try:
                album.people.append(_recognised(people, ours, recogniser))
            except RecognitionError as error:
                raise InputError(
                    f"the faces in {path} cannot be recognised ({error}): leave out --keyframes"
                ) from error
            people.add(album.people[-1])
    return album


def _recognised(people: People, keyframes: list[Keyframe], recogniser: FaceRecogniser) -> Person:
    """Returns a person with these references; computes their embeddings."""
    person = Person(people.empty_set())
    for keyframe in keyframes:
        keyframe.embedding = recogniser.submit(keyframe.crop, keyframe.landmarks).result()
        person.keyframes.add(keyframe)
    return person


def _read(path: Path) -> dict[str, Any]:
    """Returns the arrays of `FIELDS`: of equal length, with values in range.

    Raises ValueError, among others, for anything that `save_album` would not have written. Checks
    the sizes in the archive before it allocates memory for them.
    """
    # Without O_NONBLOCK, opening a FIFO would wait for a writer.
    with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as whole:
        _check_archive(whole)
        with zipfile.ZipFile(whole) as archive:
            members = {one.filename: one for one in archive.infolist()}
            if set(members) != {f"{name}.npy" for name in FIELDS}:
                raise ValueError("members")
            arrays = {
                name: _member(archive, members[f"{name}.npy"], np.dtype(kind), shape)
                for name, (kind, shape) in FIELDS.items()
            }
    if len({len(array) for array in arrays.values()}) != 1:
        raise ValueError("lengths")
    _check_values(arrays)
    return arrays


def _check_archive(file: BinaryIO) -> None:
    """Raises ValueError unless it is a regular file that ends as those of `save_album` do.

    Needed because zipfile reads a directory of any length before it reports the members.
    """
    about = os.fstat(file.fileno())
    if not stat.S_ISREG(about.st_mode) or not DIRECTORY_END.size < about.st_size <= MAX_FILE:
        raise ValueError("file type or size")
    file.seek(-DIRECTORY_END.size, os.SEEK_END)
    mark, _, _, _, members, directory, _, comment = DIRECTORY_END.unpack(
        file.read(DIRECTORY_END.size)
    )
    if mark != b"PK\5\6" or comment or members != len(FIELDS) or directory > MAX_DIRECTORY:
        raise ValueError("end of the archive")


def _member(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, kind: "np.dtype[Any]", shape: tuple[int, ...]
) -> Any:
    """Returns a member's array. Allows only methods for which zipfile bounds its output."""
    is_known = member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    if not is_known or member.flag_bits & ENCRYPTED:
        raise ValueError("compression")
    if member.file_size > MAX_HEADER + MAX_REFERENCES * kind.itemsize * math.prod(shape):
        raise ValueError("decompressed size")
    with archive.open(member) as file:
        return _array(file, kind, shape)


def _array(file: Any, kind: "np.dtype[Any]", shape: tuple[int, ...]) -> Any:
    """Reads a .npy array of at most `MAX_REFERENCES` rows; raises ValueError for other contents."""
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError("version")
    found, fortran, dtype = np.lib.format.read_array_header_1_0(file, max_header_size=MAX_HEADER)
    if (
        dtype != kind
        or fortran
        or not found
        or found[1:] != shape
        or not 0 <= found[0] <= MAX_REFERENCES
    ):
        raise ValueError("type or shape")
    size = kind.itemsize * math.prod(found)
    data = file.read(size)
    if len(data) != size or file.read(1):
        raise ValueError("length")
    return np.frombuffer(data, kind).reshape(found)


def _check_values(arrays: dict[str, Any]) -> None:
    """Raises ValueError if a value is out of range."""
    for name, (low, high) in (
        ("landmarks", LANDMARK_RANGE),
        ("sharpness", SHARPNESSES),
        ("person", (0, MAX_REFERENCES - 1)),
        ("source", (0, len(SOURCES) - 1)),
    ):
        if not ((arrays[name] >= low) & (arrays[name] <= high)).all():  # false for NaN
            raise ValueError(name)
    known = arrays["qp"][~np.isnan(arrays["qp"])]
    if not ((known >= QPS[0]) & (known <= QPS[1])).all():
        raise ValueError("qp")
    for landmarks in arrays["landmarks"]:
        box = np.concatenate([landmarks.min(axis=0), landmarks.max(axis=0)]).astype(np.float64)
        if not can_be_cropped(landmarks, box, crop_from_frame(landmarks), CROP, CROP):
            raise ValueError("landmarks")


def _keyframe(fields: dict[str, Any], row: int) -> Keyframe:
    qp = float(fields["qp"][row])
    return Keyframe(
        fields["crop"][row],
        fields["landmarks"][row],
        qp if np.isfinite(qp) else None,
        "still" if fields["source"][row] else "stream",
        float(fields["sharpness"][row]),
        peer=fields["peer"][row].tobytes(),
    )
