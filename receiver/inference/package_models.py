"""Locates dlib's model files, which the package face-recognition-models installs."""

from importlib.util import find_spec
from pathlib import Path

from receiver.errors import MissingError, ModelError
from receiver.hashes import file_sha256

REQUIREMENT = "face-recognition-models==0.3.0"
"""The package whose files are known here, as pip's requirement."""
LANDMARKS = "shape_predictor_68_face_landmarks.dat"
"""Finds 68 landmarks in a face's box."""
RECOGNITION = "dlib_face_recognition_resnet_model_v1.dat"
"""Maps an aligned face to an embedding of 128 numbers."""
SHA256 = {
    LANDMARKS: "fbdc2cb80eb9aa7a758672cbfdda32ba6300efe9b6e6c7a299ff7e736b11b92f",
    RECOGNITION: "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
}
"""SHA-256 of each file that is used, in hexadecimal. dlib parses these files in this process, so a
file with another hash is rejected before dlib opens it."""


def package_model(name: str) -> Path:
    """Returns the path of a model file after checking its hash.

    The package is located, not imported: its import needs pkg_resources, which setuptools 81
    removed.

    Args:
        name: one of `SHA256`.

    Raises:
        MissingError: if the file is not installed.
        ModelError: if it cannot be read or has another hash.
    """
    path = _find(name)
    try:
        found = file_sha256(path)
    except OSError as error:
        raise ModelError(f"the model file {path} cannot be read: {error.strerror}") from error
    if found != SHA256[name]:
        raise ModelError(
            f"{path} has SHA-256 {found} instead of {SHA256[name]}: "
            f"pip install --force-reinstall --no-cache-dir {REQUIREMENT}"
        )
    return path


def _find(name: str) -> Path:
    """Returns the file's path. Raises MissingError if it is not installed."""
    spec = find_spec("face_recognition_models")
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        path = Path(folder) / "models" / name
        if path.is_file():
            return path
    raise MissingError(f"the model file {name} is missing: pip install {REQUIREMENT}")
