"""The user's folder of exported models, from which `--model NAME` reads."""

import os
from pathlib import Path

from receiver.errors import InputError


def models_folder() -> Path:
    """Returns the folder for exported models, which need not exist.

    It is `keyframe-receiver/models` in $XDG_DATA_HOME, or in ~/.local/share if that is unset or, as
    the XDG Base Directory Specification requires, not absolute. Raises InputError if the user has
    no home folder.
    """
    data_home = Path(os.environ.get("XDG_DATA_HOME", ""))
    if not data_home.is_absolute():
        try:
            data_home = Path.home() / ".local" / "share"
        except RuntimeError as error:
            raise InputError("there is no home folder for models: set XDG_DATA_HOME") from error
    return data_home / "keyframe-receiver" / "models"


def exported_model(name: str) -> Path | None:
    """Returns the ONNX file NAME.onnx in the models folder, or None if there is none.

    A name is a file name without folders: None for anything else.
    """
    if not name or name != Path(name).name:
        return None
    try:
        path = models_folder() / f"{name}.onnx"
        return path if path.is_file() else None
    except (OSError, ValueError, InputError):  # unreadable, a null byte in the name, or no home
        return None
