"""Results of finished jobs on disk, so that an interrupted bench continues where it stopped."""

import errno
import json
import os
from pathlib import Path
from typing import Any

from receiver.errors import InputError


class ResultCache:
    """Finished jobs in a file, one JSON object per line: `{"job": ..., "result": ...}`.

    A job is a dict of everything that its result depends on, except the code.

    Attributes:
        folder: the file's folder.
    """

    def __init__(self, path: Path) -> None:
        """Reads the file if it exists, and drops a last line that was cut short.

        Raises InputError if another line is not a result, or if the folder cannot be used.
        """
        self._path, self.folder = path, path.parent
        self._results: dict[str, Any] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not os.access(path.parent, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        except OSError as error:
            raise InputError(
                f"{path} cannot be written ({error.strerror}): give another --out"
            ) from None
        lines, whole = text.splitlines(), []
        for number, line in enumerate(lines, 1):
            try:
                read = json.loads(line)
                self._results[_key(read["job"])] = read["result"]
            except (ValueError, KeyError, TypeError):
                if number == len(lines):
                    break
                raise InputError(f"line {number} of {path} is not a result: remove it") from None
            whole.append(line + "\n")
        if len(whole) < len(lines):
            path.write_text("".join(whole))

    def __len__(self) -> int:
        return len(self._results)

    def __contains__(self, job: dict[str, Any]) -> bool:
        return _key(job) in self._results

    def __getitem__(self, job: dict[str, Any]) -> Any:
        """Returns the result of a finished job. Raises KeyError for another one."""
        return self._results[_key(job)]

    def add(self, job: dict[str, Any], result: Any) -> None:
        """Stores the result of a job, here and in the file."""
        with self._path.open("a") as file:
            file.write(json.dumps({"job": job, "result": result}) + "\n")
        self._results[_key(job)] = result


def _key(job: dict[str, Any]) -> str:
    return json.dumps(job, sort_keys=True)
