"""Model files: the shipped weights, exported models, ONNX files by path, and their cards."""

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from receiver.errors import ModelError
from receiver.hashes import file_sha256
from receiver.inference.models_folder import exported_model

WEIGHTS = Path(__file__).parents[1] / "weights"
"""The folder of the shipped weights."""
MODELS = ("lite",)
"""Names of the shipped models. WEIGHTS holds the same network twice, NAME.onnx in floating point
for GPUs, NAME-int8.onnx and NAME-int8-align.onnx for CPUs, and their card NAME.json."""
INT8 = "-int8"
"""Ends the stem of a file whose network calculates in 8-bit integers."""
ALIGN = "-align"
"""Ends the stem of an aligner's file; the rest is the stem of the file that it belongs to."""


@dataclass(frozen=True)
class Model:
    """A network's file, before it is loaded.

    Attributes:
        name: of the model; the card beside the file is NAME.json.
        path: of the ONNX file.
    """

    name: str
    path: Path

    @classmethod
    def find(cls, name: str, on_gpu: bool = False) -> "Model":
        """Finds a shipped model by name, an exported model by name, or an ONNX file by path.

        Args:
            name: the name or the path.
            on_gpu: whether a name means the file in floating point instead of 8-bit integers. An
                exported model that has only one of them is found in either case.

        Raises ModelError if there is no such model.
        """
        if name in MODELS:
            return cls(name, WEIGHTS / f"{name}{'' if on_gpu else INT8}.onnx")
        for stem in sorted((name, f"{name}{INT8}"), key=len, reverse=not on_gpu):
            exported = exported_model(stem)
            if exported is not None:
                return cls(name.removesuffix(INT8), exported)
        path = Path(name)
        with suppress(OSError):  # a name that is too long, or in a folder that cannot be read
            if path.is_file():
                return cls(path.stem.removesuffix(INT8), path)
        raise ModelError(
            f"there is no model {name!r}: give one of {', '.join(MODELS)}, the name of a model "
            "from python -m models.export or the path of an ONNX file"
        )

    @property
    def aligner(self) -> "Model | None":
        """The network that aligns this one's inputs first; None if the card does not name one.

        Raises ModelError for an unusable card.
        """
        path = self.path.with_name(f"{self.path.stem}{ALIGN}.onnx")
        named = path.name in ((self.card or {}).get("sha256") or {})
        return Model(self.name, path) if named else None

    @property
    def sha256(self) -> str:
        """The file's SHA-256 in hexadecimal. Raises ModelError if the file cannot be read."""
        try:
            return file_sha256(self.path)
        except OSError as error:
            raise ModelError(
                f"the model file {self.path} cannot be read: {error.strerror}"
            ) from error

    @property
    def expected_sha256(self) -> str | None:
        """The file's SHA-256 according to its card; None if the card does not state it.

        Raises ModelError for an unusable card.
        """
        found: str | None = ((self.card or {}).get("sha256") or {}).get(self.path.name)
        return found

    def check(self) -> None:
        """Compares a shipped file with the SHA-256 on its card.

        Other files are not checked, even if a card lies beside them: whoever gives `--model PATH`
        trusts that file. Raises ModelError if a shipped file differs from its card.
        """
        if self.path.parent.resolve() != WEIGHTS.resolve() or not self.path.is_file():
            return
        found, expected = self.sha256, self.expected_sha256
        if found != expected:
            raise ModelError(
                f"{self.path} has SHA-256 {found} instead of {expected or 'any on its card'}: "
                "install the package again"
            )

    @property
    def card(self) -> dict[str, Any] | None:
        """The content of the card beside the file; None if there is no card.

        Raises ModelError for a card that cannot be read or is not a JSON object.
        """
        path = self.path.with_name(f"{self.name}.json")
        if not path.is_file():
            return None
        try:
            card = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ModelError(f"the model card {path} cannot be read: {error}") from error
        if not (isinstance(card, dict) and isinstance(card.get("sha256", {}), dict | type(None))):
            raise ModelError(f"the model card {path} has to be a JSON object with sha256 as one")
        return card
