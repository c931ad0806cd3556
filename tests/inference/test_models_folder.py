"""The folder of this user's exported models."""

from pathlib import Path

from receiver.inference.models_folder import exported_model, models_folder


def test_the_folder_is_in_the_user_s_data(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert models_folder() == tmp_path / "keyframe-receiver" / "models"
    for value in (None, ""):
        monkeypatch.delenv("XDG_DATA_HOME", raising=False)
        if value is not None:
            monkeypatch.setenv("XDG_DATA_HOME", value)
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        expected = tmp_path / "home" / ".local" / "share" / "keyframe-receiver" / "models"
        assert models_folder() == expected


def test_a_model_is_found_by_name(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert exported_model("mine") is None
    models_folder().mkdir(parents=True)
    path = models_folder() / "mine.onnx"
    path.touch()
    assert exported_model("mine") == path
    assert exported_model("other") is None
    assert exported_model(str(Path("..") / "models" / "mine")) is None
