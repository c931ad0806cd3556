"""Model files: found by name or path, checked against their cards."""

import hashlib
import re
import shutil
from pathlib import Path

import pytest

from receiver.errors import ModelError
from receiver.inference.model_files import MODELS, WEIGHTS, Model


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("on_gpu", [False, True])
def test_the_shipped_weights_are_those_of_their_card(name, on_gpu):
    model = Model.find(name, on_gpu)
    assert model.card is not None
    assert model.expected_sha256 == hashlib.sha256(model.path.read_bytes()).hexdigest()
    assert "research use" in model.card["licence"]
    assert len(model.card["trained_on"]) > 10
    assert model.card["training_minutes"] >= 60
    assert model.path.stat().st_size < 6e6
    assert WEIGHTS in model.path.parents
    model.check()


def test_a_cpu_gets_the_integers_and_a_gpu_the_floats():
    assert Model.find("lite").path.name == "lite-int8.onnx"
    assert Model.find("lite", on_gpu=True).path.name == "lite.onnx"


def test_the_card_names_the_aligner():
    aligner = Model.find("lite").aligner
    assert aligner is not None
    assert (aligner.name, aligner.path.name) == ("lite", "lite-int8-align.onnx")
    assert Model.find("lite", on_gpu=True).aligner is None


def test_an_unknown_model_is_named():
    with pytest.raises(ModelError, match="there is no model 'nosuch': give one of lite, the name"):
        Model.find("nosuch")


def test_a_file_is_found_by_its_path(tmp_path):
    path = tmp_path / "mine-int8.onnx"
    path.touch()
    assert Model.find(str(path)) == Model("mine", path)


# Exported models


@pytest.fixture
def exported(tmp_path, monkeypatch) -> Path:
    """This user's models folder, with one exported model in both forms and one in each alone."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    folder = tmp_path / "keyframe-receiver" / "models"
    folder.mkdir(parents=True)
    for name in ("both.onnx", "both-int8.onnx", "floats.onnx", "integers-int8.onnx"):
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("name", "on_gpu", "file", "found"),
    [
        ("both", False, "both-int8.onnx", "both"),
        ("both", True, "both.onnx", "both"),
        ("floats", False, "floats.onnx", "floats"),
        ("integers", True, "integers-int8.onnx", "integers"),
        ("both-int8", True, "both-int8.onnx", "both"),
    ],
)
def test_an_exported_model_is_found_by_its_name(exported, name, on_gpu, file, found):
    assert Model.find(name, on_gpu) == Model(found, exported / file)


def test_an_exported_model_has_its_card_beside_it(exported):
    (exported / "both.json").write_text('{"sha256": {"both-int8-align.onnx": "00"}}')
    model = Model.find("both")
    assert model.aligner == Model("both", exported / "both-int8-align.onnx")
    model.check()  # the user's own file


def test_a_shipped_name_is_the_shipped_model(exported):
    (exported / "lite-int8.onnx").touch()
    assert Model.find("lite").path.parent == WEIGHTS


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../both", "sub/both", "folder", "x" * 300, "a\0b"]
)
def test_names_of_no_file_in_the_folder_are_unknown(exported, name):
    (exported / "sub").mkdir()
    (exported / "folder.onnx").mkdir()
    for outside in (exported / "sub", exported.parent):
        (outside / "both.onnx").touch()
    with pytest.raises(ModelError, match="there is no model"):
        Model.find(name)


# Cards


@pytest.fixture
def weights(tmp_path, monkeypatch) -> Path:
    """A copy of the shipped weights in place of the installed ones."""
    shutil.copytree(WEIGHTS, tmp_path / "weights")
    monkeypatch.setattr("receiver.inference.model_files.WEIGHTS", tmp_path / "weights")
    return tmp_path / "weights"


@pytest.mark.parametrize("card", [None, '{"sha256": {}}', '{"name": "lite"}'])
def test_shipped_weights_need_their_card(weights, card):
    (weights / "lite.json").unlink()
    if card is not None:
        (weights / "lite.json").write_text(card)
    with pytest.raises(ModelError, match="instead of any on its card"):
        Model.find("lite").check()


@pytest.mark.parametrize("card", ["", "[]", '{"sha256": 5}', "[" * 100_000, b"\xff{}"])
def test_an_invalid_card_is_named(tmp_path, card):
    (tmp_path / "mine.onnx").touch()
    path = tmp_path / "mine.json"
    path.write_bytes(card if isinstance(card, bytes) else card.encode())
    model = Model.find(str(tmp_path / "mine.onnx"))
    for read in (lambda: model.card, lambda: model.aligner, lambda: model.expected_sha256):
        with pytest.raises(ModelError, match=f"the model card {re.escape(str(path))} "):
            read()


def test_a_missing_file_has_no_hash(tmp_path):
    with pytest.raises(ModelError, match=r"gone\.onnx cannot be read: No such file"):
        _ = Model("gone", tmp_path / "gone.onnx").sha256
