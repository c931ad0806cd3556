"""Runs the tests of a target on each of its mutations, in a copy of the checkout.

The results lie in a database of cosmic-ray's, so that a run may end at any time and go on later.
"""

import difflib
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cosmic_ray.mutating import use_mutation
from cosmic_ray.work_db import WorkDB
from cosmic_ray.work_item import TestOutcome, WorkerOutcome, WorkItem, WorkResult

from bench.mutation.operators import mutations, operator_of
from receiver.errors import InputError

LEFT_OUT = shutil.ignore_patterns(
    ".*", "__pycache__", "node_modules", "*.egg-info", "*-output", "build", "dist", "site"
)
"""What tests of mutations need no copy of."""
PATIENCE, PATIENCE_LEAST = 3.0, 10.0
"""A mutation hangs if its tests take this many times as long as without it, and these seconds."""


@dataclass(frozen=True)
class Target:
    """Code that is mutated, and the tests that should notice.

    Attributes:
        sources: modules and folders, relative to the checkout.
        tests: files and folders of tests, relative to the checkout, the fastest first.
    """

    sources: tuple[str, ...]
    tests: tuple[str, ...]

    def modules(self, root: Path) -> list[Path]:
        """Returns the modules, relative to `root`."""
        found = [root / source for source in self.sources]
        files = [file for path in found for file in (sorted(path.rglob("*.py")) or [path])]
        return [file.relative_to(root) for file in files]

    def digest(self, root: Path) -> str:
        """Returns a hash of the modules: their mutations are numbered, so none may change."""
        hashed = hashlib.sha256()
        for module in self.modules(root):
            hashed.update(str(module).encode() + (root / module).read_bytes())
        return hashed.hexdigest()[:12]


@dataclass(frozen=True)
class Survivor:
    """A mutation that no test noticed.

    Attributes:
        module: relative to the checkout.
        line: number of the first line that it changes.
        diff: the lines before and after, without context.
    """

    module: str
    line: int
    diff: str


class Session:
    """The mutations of a target and their results.

    Attributes:
        copy: the copy of the checkout in which modules are changed.
        timeout: seconds after which the tests of a mutation count as hanging; set by `check`.
    """

    def __init__(self, target: Target, root: Path, file: Path) -> None:
        """Opens a session, or begins one with all mutations.

        Args:
            target: what is mutated.
            root: the checkout; it is only read.
            file: the database.
        """
        self.copy = file.parent / f"{file.stem}-checkout"
        self.timeout = PATIENCE_LEAST
        self._target = target
        shutil.rmtree(self.copy, ignore_errors=True)  # an earlier run may have been killed
        shutil.copytree(root, self.copy, ignore=LEFT_OUT)
        self._db = WorkDB(str(file), WorkDB.Mode.create)
        if not self._db.num_work_items:
            self._db.add_work_items(mutations(self.copy, target.modules(self.copy)))

    def close(self) -> None:
        """Closes the database and removes the copy."""
        self._db.close()
        shutil.rmtree(self.copy, ignore_errors=True)

    def check(self) -> None:
        """Runs the tests without a mutation. Raises InputError unless they pass."""
        began = time.perf_counter()
        code = self._test(None)
        if code:
            tests = " ".join(self._target.tests)
            raise InputError(
                f"without a mutation pytest {tests} ends with {code} in {self.copy.name}: "
                "let these tests pass first"
            )
        self.timeout = PATIENCE * (time.perf_counter() - began) + PATIENCE_LEAST

    def pending(self) -> list[WorkItem]:
        """Returns the mutations without a result, in random order: any part is a fair sample."""
        return list(self._db.pending_work_items)

    def survived(self) -> list[WorkItem]:
        """Returns the mutations that no test noticed."""
        return [item for item, result in self._db.completed_work_items if not result.is_killed]

    def survivors(self) -> list[Survivor]:
        """Returns what no test noticed, by module and line."""
        found = [
            Survivor(
                str(item.mutations[0].module_path), item.mutations[0].start_pos[0], result.diff
            )
            for item, result in self._db.completed_work_items
            if not result.is_killed
        ]
        return sorted(found, key=lambda one: (one.module, one.line, one.diff))

    def counts(self) -> dict[str, tuple[int, int, int]]:
        """Returns the numbers of mutations, of tested ones and of survivors by module."""
        found: dict[str, tuple[int, int, int]] = {}
        survived = [item.job_id for item in self.survived()]
        tested = {item.job_id for item, _ in self._db.completed_work_items}
        for item in self._db.work_items:
            all_, done, left = found.get(module := str(item.mutations[0].module_path), (0, 0, 0))
            done, left = done + (item.job_id in tested), left + (item.job_id in survived)
            found[module] = all_ + 1, done, left
        return dict(sorted(found.items()))

    def run(self, items: Iterable[WorkItem]) -> Iterator[bool]:
        """Tests mutations one by one; yields whether each was noticed, once its result is kept."""
        for item in items:
            (spec,) = item.mutations
            with use_mutation(
                self.copy / spec.module_path, operator_of(spec.operator_name), spec.occurrence
            ) as (before, after):
                code = self._test(self.timeout, spec.module_path.stem)
            outcome = TestOutcome.KILLED if code else TestOutcome.SURVIVED
            result = WorkResult(
                WorkerOutcome.NORMAL, f"exit code {code}", outcome, changed_lines(before, after)
            )
            self._db.set_result(item.job_id, result)
            yield bool(code)

    def _test(self, timeout: float | None, module: str = "") -> int:
        """Returns pytest's exit code, or that of `timeout` if the tests hang.

        The tests that have the name of the module run first.
        """
        folders = [self.copy / one for one in self._target.tests]
        own = [str(test) for one in folders for test in one.rglob(f"test_{module}.py")]
        # Python finds the copy, not the installed checkout, because it is the working directory.
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        command += ["--hypothesis-seed=0", *own, *self._target.tests]
        # Two mutations of one second would share a file of byte code.
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONSAFEPATH": ""}
        try:
            return subprocess.run(
                command,
                cwd=self.copy,
                env=environment,
                timeout=timeout,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            return 124


def changed_lines(before: str, after: str) -> str:
    """Returns the lines that differ, with - and +."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
    return "\n".join(line for line in list(lines)[2:] if not line.startswith("@@"))
