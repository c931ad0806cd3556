"""References outlive a call in a file, if the user wants it."""

import contextlib

import numpy as np
import pytest

from bench.mutations import Mutator
from keyframes import People
from receiver.album import FIELDS, load_people, save_people
from receiver.enhancer import Enhancer
from receiver.errors import InputError


@pytest.fixture
def seen(generator, portrait, decoded) -> Enhancer:
    enhancer = Enhancer(generator)
    enhancer.enhance(decoded[0])
    enhancer.add_still(portrait[0])
    enhancer.enhance(decoded[1])
    return enhancer


def test_whoever_was_seen_is_known_in_the_next_call(seen, generator, decoded, tmp_path):
    path = tmp_path / "anna.keyframes"
    save_people(seen.people, path)
    assert [found.name for found in tmp_path.iterdir()] == ["anna.keyframes"]
    again = Enhancer(generator)
    assert load_people(again.people, path) == 1
    before = [one for person in seen.people for one in person.keyframes]
    after = [one for person in again.people for one in person.keyframes]
    for one, other in zip(before, after, strict=True):
        assert np.array_equal(one.crop, other.crop)
        assert np.array_equal(one.landmarks, other.landmarks)
        assert (one.qp, one.sharpness) == pytest.approx((other.qp, other.sharpness), rel=1e-6)
    again.enhance(decoded[2])
    assert again.need.distance is not None  # the still of the call before serves at once
    assert len(list(again.people)) == 1


def test_without_the_file_nobody_is_known(tmp_path):
    people = People()
    assert load_people(people, tmp_path / "nobody.keyframes") == 0
    assert list(people) == []


def test_nobody_can_be_kept_too(tmp_path):
    save_people(People(), tmp_path / "empty.keyframes")
    assert load_people(People(), tmp_path / "empty.keyframes") == 0


def test_a_path_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(InputError, match="cannot be written: No such file"):
        save_people(People(), tmp_path / "nowhere" / "file")


@pytest.mark.parametrize("damage", ["text", "empty", "cut", "shape", "type", "nan", "pickle"])
def test_a_file_that_is_none_is_named(seen, tmp_path, damage):
    path = tmp_path / "file"
    save_people(seen.people, path)
    with np.load(path) as file:
        arrays = dict(file)
    if damage == "text":
        path.write_text("nothing")
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-200])
    else:
        if damage == "shape":
            arrays["crop"] = arrays["crop"][:, :100]
        elif damage == "type":
            arrays["qp"] = arrays["qp"].astype(np.float64)
        elif damage == "nan":
            arrays["landmarks"][0, 0, 0] = np.nan
        else:
            arrays["person"] = np.array([{}], object)
        with path.open("wb") as file:
            np.savez(file, **arrays)
    with pytest.raises(InputError, match="holds no references: give another --keyframes FILE"):
        load_people(People(), path)
    assert set(arrays) == {*FIELDS, "looks"}


@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_changed_in_a_file_it_is_used_or_named(seen, tmp_path, seed):
    """Found by fuzzing: zlib.error came through."""
    path, mutated = tmp_path / "file", Mutator(seed)
    save_people(seen.people, path)
    whole = path.read_bytes()
    for _ in range(10):
        path.write_bytes(mutated([whole]))
        with contextlib.suppress(InputError):
            load_people(People(), path)
