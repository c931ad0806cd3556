"""Exported models are found by name in the user's data folder."""

from pathlib import Path

import pytest

from receiver.errors import InputError
from receiver.inference.models_folder import exported_model, models_folder


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty models folder that the environment names."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    folder = tmp_path / "keyframe-receiver" / "models"
    folder.mkdir(parents=True)
    return folder


def test_the_folder_is_in_xdg_data_home(folder):
    assert models_folder() == folder


@pytest.mark.parametrize("data_home", [None, "", "relative/folder"])
def test_without_an_absolute_xdg_data_home_the_folder_is_in_the_home(
    tmp_path, monkeypatch, data_home
):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    if data_home is not None:
        monkeypatch.setenv("XDG_DATA_HOME", data_home)
    assert models_folder() == tmp_path / ".local" / "share" / "keyframe-receiver" / "models"


def test_a_model_is_found_by_its_name(folder):
    (folder / "mine.onnx").touch()
    (folder / "mine-int8.onnx").touch()
    assert exported_model("mine") == folder / "mine.onnx"
    assert exported_model("mine-int8") == folder / "mine-int8.onnx"


def test_a_card_or_a_folder_is_not_a_model(folder):
    (folder / "card.json").touch()
    (folder / "folder.onnx").mkdir()
    assert exported_model("card") is None
    assert exported_model("folder") is None


@pytest.mark.parametrize(
    "name", ["", "sub/mine", "../mine", "/mine", "mine.onnx", "a\0b", "n" * 300]
)
def test_a_path_or_an_impossible_name_is_not_found(folder, name):
    for path in (folder / "mine.onnx", folder.parent / "mine.onnx", folder / "sub" / "mine.onnx"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (folder / ".onnx").touch()
    assert exported_model(name) is None


def test_a_missing_folder_holds_no_models(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "gone"))
    assert exported_model("mine") is None


def test_without_a_home_the_variable_to_set_is_named(monkeypatch):
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr("pathlib.Path.home", no_home)
    with pytest.raises(InputError, match="set XDG_DATA_HOME"):
        models_folder()
    assert exported_model("mine") is None
