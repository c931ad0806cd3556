"""Tests the file that keeps references from one call to the next."""

import contextlib
import io
import os
import stat
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from bench.fuzz.mutations import Mutator
from keyframes import Keyframe, People, Person
from keyframes.people import KNOWN
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.album import (
    FIELDS,
    MAX_DIRECTORY,
    MAX_REFERENCES,
    check_album_path,
    load_album,
    peer_of,
    save_album,
)
from receiver.enhance.faces.recognition import FaceRecogniser, shared_recogniser
from receiver.errors import InputError
from tests.enhance.test_enhancer import IDENTIFIED

pytestmark = pytest.mark.slow

HERE, THERE = peer_of("https://sfu.example/whep/a"), peer_of("https://sfu.example/whep/b")


def load(people, path, peer=HERE, **more):
    return load_album(people, path, shared_recogniser(), peer, **more)


@pytest.fixture
def seen(generator, portrait, decoded) -> Enhancer:
    enhancer = Enhancer(generator)
    for frame in decoded[:IDENTIFIED]:
        enhancer.enhance(frame)
    enhancer.add_still(portrait[IDENTIFIED])
    enhancer.enhance(decoded[IDENTIFIED])
    assert enhancer.stats.admitted["still"] == 1
    return enhancer


@pytest.fixture
def path(seen, tmp_path):
    """An album of a call with the peer `HERE`."""
    save_album(seen.people, [], tmp_path / "anna.keyframes", HERE)
    return tmp_path / "anna.keyframes"


def keyframes_of(people) -> list[Keyframe]:
    return [one for person in people for one in person.keyframes]


def test_references_are_kept_with_their_source_and_peer(seen, path, tmp_path):
    assert [found.name for found in tmp_path.iterdir()] == ["anna.keyframes"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    people = People()
    album = load(people, path)
    assert (album.people, album.others) == (list(people), [])
    before, after = keyframes_of(seen.people), keyframes_of(people)
    assert {one.source for one in after} == {"stream", "still"}
    for one, other in zip(before, after, strict=True):
        assert np.array_equal(one.crop, other.crop)
        assert np.array_equal(one.landmarks, other.landmarks)
        assert (one.qp, one.sharpness) == pytest.approx((other.qp, other.sharpness), rel=1e-6)
        assert (one.source, other.peer) == (other.source, HERE)


def test_a_person_is_recognised_in_the_next_call(path, generator, decoded):
    again = Enhancer(generator)
    load(again.people, path)
    (stored,) = again.people
    for frame in decoded[: IDENTIFIED - 1]:
        again.enhance(frame)
    assert again.people[0] is not stored  # the person on screen is not identified yet
    need = again.process(decoded[IDENTIFIED]).reference_need
    assert again.people[0] is stored
    assert need.distance is not None  # the still of the previous call is used
    assert list(again.people) == [stored]


def test_references_of_another_peer_are_kept_but_not_used(path, tmp_path):
    people = People()
    album = load(people, path, THERE)
    assert list(people) == []
    assert len(album.others) == 1
    second = tmp_path / "second"
    save_album(people, album.others, second, THERE)
    assert load(People(), second, THERE).people == []
    assert len(keyframes_of(load(People(), second, HERE).people)) == len(
        keyframes_of(load(People(), path, HERE).people)
    )


def test_references_of_any_peer_are_used_with_any_peer(path):
    people = People()
    assert load(people, path, THERE, any_peer=True).others == []
    assert len(list(people)) == 1
    save_album(people, [], path, THERE)
    assert len(load(People(), path, HERE).people) == 1  # they still belong to HERE


@pytest.mark.parametrize(
    ("url", "is_same"),
    [
        ("https://sfu.example/whep/a", True),
        ("HTTPS://user:secret@SFU.example/whep/a#token=x", True),
        ("http://sfu.example/whep/a", False),
        ("https://sfu.example:8443/whep/a", False),
        ("https://sfu.example/whep/a?room=2", False),
        ("https://sfu.example/whep/A", False),
    ],
)
def test_a_peer_is_identified_by_its_address(url, is_same):
    assert (peer_of(url) == HERE) is is_same


def test_a_missing_file_is_empty(tmp_path):
    people = People()
    assert load(people, tmp_path / "nobody.keyframes").people == []
    assert list(people) == []


def test_an_album_without_people_can_be_saved(tmp_path):
    save_album(People(), [], tmp_path / "empty.keyframes", HERE)
    assert load(People(), tmp_path / "empty.keyframes").people == []


def test_a_path_that_cannot_be_written_is_reported(tmp_path):
    with pytest.raises(InputError, match="cannot be written: No such file"):
        save_album(People(), [], tmp_path / "nowhere" / "file", HERE)


def test_a_failing_recogniser_is_reported(path):
    recogniser = FaceRecogniser()
    recogniser.close()
    with pytest.raises(InputError, match=r"cannot be recognised .*: leave out --keyframes"):
        load_album(People(), path, recogniser, HERE)


def test_people_of_a_file_who_had_to_be_forgotten_are_saved_again(seen, path):
    with np.load(path) as file:
        arrays = {name: one[:1].repeat(KNOWN + 4, axis=0) for name, one in file.items()}
    rewritten(path, **arrays | {"person": np.arange(KNOWN + 4, dtype=np.int32)})
    people = People()
    album = load(people, path)
    assert len(list(people)) == KNOWN
    save_album(people, album.others, path, THERE)
    with np.load(path) as file:
        assert len(np.unique(file["person"])) == KNOWN + 4
        assert {row.tobytes() for row in file["peer"]} == {HERE}


def test_no_more_references_are_written_than_can_be_read(seen, tmp_path):
    one = keyframes_of(seen.people)[0]
    people = []
    for _ in range(MAX_REFERENCES // 10 + 1):
        people.append(Person(People().empty_set()))
        for _ in range(10):
            people[-1].keyframes.add(Keyframe(one.crop, one.landmarks, 30.0))
    save_album(People(), people, tmp_path / "file", HERE)
    found = load(People(), tmp_path / "file", THERE)
    assert len(keyframes_of(found.others)) == MAX_REFERENCES


def rewritten(path, **changed) -> None:
    """Rewrites the file with changed arrays."""
    with np.load(path) as file:
        arrays = dict(file) | changed
    with path.open("wb") as file:
        np.savez_compressed(file, **{name: one for name, one in arrays.items() if one is not None})


def broken(values, at, value):
    values = values.copy()
    values[at] = value
    return values


DAMAGES = {
    "a member is missing": lambda of: {"qp": None},
    "an extra member": lambda of: {"more": of["qp"]},
    "shape": lambda of: {"crop": of["crop"][:, :100]},
    "type": lambda of: {"qp": of["qp"].astype(np.float64)},
    "objects": lambda of: {"person": np.array([{}] * len(of["person"]), object)},
    "lengths": lambda of: {"qp": of["qp"][1:]},
    "order": lambda of: {"landmarks": np.asfortranarray(of["landmarks"])},
    "too many": lambda of: {
        name: np.resize(one, (MAX_REFERENCES + 1, *one.shape[1:])) for name, one in of.items()
    },
    "NaN landmarks": lambda of: {"landmarks": broken(of["landmarks"], (0, 0, 0), np.nan)},
    "landmarks far away": lambda of: {"landmarks": broken(of["landmarks"], (0, 0, 0), 1e30)},
    "landmarks in one place": lambda of: {"landmarks": broken(of["landmarks"], 0, 100.0)},
    "negative QP": lambda of: {"qp": broken(of["qp"], 0, -1.0)},
    "infinite QP": lambda of: {"qp": broken(of["qp"], 0, -np.inf)},
    "NaN sharpness": lambda of: {"sharpness": broken(of["sharpness"], 0, np.nan)},
    "huge sharpness": lambda of: {"sharpness": broken(of["sharpness"], 0, 1e30)},
    "unknown person": lambda of: {"person": broken(of["person"], 0, MAX_REFERENCES)},
    "negative person": lambda of: {"person": broken(of["person"], 0, -1)},
    "unknown source": lambda of: {"source": broken(of["source"], 0, 2)},
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_with_invalid_contents_is_reported(path, damage):
    with np.load(path) as file:
        changed = DAMAGES[damage](dict(file))
    rewritten(path, **changed)
    with pytest.raises(InputError, match="holds no references that can be read: give another"):
        load(People(), path)


@pytest.mark.parametrize("damage", [b"nothing", b"", None])
def test_a_file_that_is_not_an_album_is_reported(path, damage):
    path.write_bytes(path.read_bytes()[:-200] if damage is None else damage)
    with pytest.raises(InputError, match="holds no references that can be read: give another"):
        load(People(), path)


def array_of(rows: int, name: str) -> bytes:
    """Returns a .npy file whose header declares `rows` rows, but without data."""
    kind, shape = FIELDS[name]
    header = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": (rows, *shape)}
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


@pytest.mark.parametrize("rows", [1, MAX_REFERENCES, 10**6, 10**12, 2**63])
def test_nothing_is_allocated_for_declared_sizes(path, rows):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in FIELDS:
            archive.writestr(f"{name}.npy", array_of(rows, name))
    with pytest.raises(InputError, match="holds no references that can be read"):
        load(People(), path)


@pytest.mark.parametrize("says", [None, 1000])
def test_a_decompression_bomb_is_refused_before_it_expands(path, says):
    """1.5 MB of zeros grew to 1.6 GB; an archive may also declare less than it holds."""
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in FIELDS:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                file.write(array_of(1, name))
                for _ in range(100 if name == "crop" else 0):
                    file.write(bytes(1 << 20))
    data = bomb.getvalue()
    if says is not None:  # in the central directory, which readers trust
        size = (100 * (1 << 20) + len(array_of(1, "crop"))).to_bytes(4, "little")
        assert size in data
        data = data.replace(size, says.to_bytes(4, "little"))
    path.write_bytes(data)
    tracemalloc.start()
    with pytest.raises(InputError, match="holds no references that can be read"):
        load(People(), path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compression_methods_are_refused_before_they_expand(path, kind):
    """zipfile limits its output only for DEFLATE: bzip2 grew from 1.7 kB to 2.2 GB."""
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name in FIELDS:
            archive.writestr(f"{name}.npy", array_of(1, name) + bytes(1 << 16))
    tracemalloc.start()
    with pytest.raises(InputError, match="holds no references that can be read"):
        load(People(), path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_directory_of_many_members_is_not_read(path):
    whole = bytearray(path.read_bytes())
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("qp.npy", archive.read("qp.npy"))  # everything else is valid
    with pytest.raises(InputError, match="holds no references that can be read"):
        load(People(), path)
    size = int.from_bytes(whole[-10:-6], "little")
    whole[-10:-6] = (size + MAX_DIRECTORY).to_bytes(4, "little")
    path.write_bytes(whole)
    with pytest.raises(InputError, match="holds no references that can be read"):
        load(People(), path)


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero"), tmp_path):
        with pytest.raises(InputError, match="holds no references that can be read"):
            load(People(), path)


@pytest.mark.parametrize("name", ["nowhere/album", "x" * 300, "file/album"])
def test_an_unwritable_path_is_found_before_the_call(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"there is no folder .*: make it|cannot be written"):
        check_album_path(tmp_path / name)
    check_album_path(tmp_path / ("y" * 250))
    save_album(People(), [], tmp_path / ("y" * 250), HERE)


def test_all_references_of_other_peers_are_kept(path):
    with np.load(path) as file:
        arrays = {name: one[:1].repeat(25, axis=0) for name, one in file.items()}
    rewritten(path, **arrays)
    assert len(keyframes_of(load(People(), path, THERE).others)) == 25


def test_a_reference_of_somebody_else_in_a_file_is_not_used(path, generator, decoded):
    """Each reference is compared by itself, so a foreign one among genuine ones is found."""
    with np.load(path) as file:
        arrays = dict(file)
    foreign = np.random.default_rng(0).integers(0, 256, (1, 256, 256, 3)).astype(np.uint8)
    count = len(arrays["crop"])
    more = {name: np.concatenate([one, one[:1]]) for name, one in arrays.items()}
    more["crop"] = np.concatenate([arrays["crop"], foreign])
    rewritten(path, **more)
    again = Enhancer(generator)
    load(again.people, path)
    (stored,) = again.people
    assert len(stored.keyframes) == count + 1
    for frame in decoded[:IDENTIFIED]:
        again.enhance(frame)
    assert again.people[0] is stored
    assert not any(np.array_equal(one.crop, foreign[0]) for one in stored.keyframes)
    assert any(one.source == "still" for one in stored.keyframes)
    (other,) = [person for person in again.people if person is not stored]
    assert np.array_equal(keyframes_of([other])[0].crop, foreign[0])  # it is kept for the file


@pytest.mark.parametrize("seed", range(8))
def test_a_randomly_changed_file_is_used_or_reported(path, seed):
    """Fuzzing found that zlib.error was raised."""
    mutated = Mutator(seed)
    whole = path.read_bytes()
    for _ in range(10):
        path.write_bytes(mutated([whole]))
        with contextlib.suppress(InputError):
            load(People(), path)
