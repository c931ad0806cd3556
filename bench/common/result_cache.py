"""What a bench has measured already, kept so that it goes on where it was interrupted."""

import json
from pathlib import Path
from typing import Any

from receiver.errors import InputError


class Finished:
    """Finished jobs in a file, a line of JSON each: `{"job": ..., "result": ...}`.

    A job is a dict that names all its result depends on; changed code is not among it.

    Attributes:
        folder: the file's.
    """

    def __init__(self, path: Path) -> None:
        """Reads the file if there is one. Raises InputError if a line other than the last, which
        may have been cut short, is none of these."""
        self._path, self.folder = path, path.parent
        self._results: dict[str, Any] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text().splitlines() if path.exists() else []
        whole = []
        for number, line in enumerate(lines, 1):
            try:
                read = json.loads(line)
                self._results[_key(read["job"])] = read["result"]
            except (ValueError, KeyError, TypeError):
                if number == len(lines):
                    break
                raise InputError(f"line {number} of {path} is no result: remove it") from None
            whole.append(line + "\n")
        if len(whole) < len(lines):
            path.write_text("".join(whole))

    def __len__(self) -> int:
        return len(self._results)

    def __contains__(self, job: dict[str, Any]) -> bool:
        return _key(job) in self._results

    def __getitem__(self, job: dict[str, Any]) -> Any:
        """The result of a finished job. Raises KeyError."""
        return self._results[_key(job)]

    def add(self, job: dict[str, Any], result: Any) -> None:
        """Keeps a result, in the file too."""
        with self._path.open("a") as file:
            file.write(json.dumps({"job": job, "result": result}) + "\n")
        self._results[_key(job)] = result


def _key(job: dict[str, Any]) -> str:
    return json.dumps(job, sort_keys=True)
