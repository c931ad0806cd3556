"""Mutates a small package that has tests of its own, as `python -m bench mutation` does."""

from pathlib import Path

import pytest

pytest.importorskip("cosmic_ray", reason="needs cosmic-ray")

from bench.mutation import command
from bench.mutation.operators import mutations
from bench.mutation.session import Session, Survivor, Target, changed_lines
from receiver.errors import InputError

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("option", "value"), [("--count", "-1"), ("--count", "0"), ("--minutes", "nan")]
)
def test_an_invalid_number_is_refused(capsys, option, value):
    with pytest.raises(SystemExit) as stopped:
        command.main([option, value])
    assert stopped.value.code == 2
    assert f"{option} {value} is no" in capsys.readouterr().err


CODE = '''\
"""A module."""

from functools import lru_cache

LIMIT = 3


@lru_cache(maxsize=8)
def add_to(items, item):
    if len(items) < LIMIT:
        items.append(item)
    return True
'''
TEST = """\
import small


def test_it_appends():
    items = []
    assert small.__file__.startswith({copy!r})
    small.add_to.__wrapped__(items, 7)
    assert items == [7]
"""
EXPECTED = {
    "-        items.append(item)\n+        pass",
    "-    if len(items) < LIMIT:\n+    if len(items) <= LIMIT:",
    "-    if len(items) < LIMIT:\n+    if len(items) >= LIMIT:",
    "-    if len(items) < LIMIT:\n+    if  not len(items) < LIMIT:",
    "-    return True\n+    return False",
    "-LIMIT = 3\n+LIMIT = 4",
    "-LIMIT = 3\n+LIMIT = 2",
}
NOTICED = {one for one in EXPECTED if "append" in one or ">=" in one or "not" in one}


@pytest.fixture
def root(tmp_path) -> Path:
    """A checkout with one module and one test."""
    root = tmp_path / "checkout"
    (root / "tests").mkdir(parents=True)
    (root / "small.py").write_text(CODE)
    (root / "tests" / "test_small.py").write_text(TEST.format(copy=str(tmp_path / "out")))
    (root / "pyproject.toml").write_text("[tool.pytest.ini_options]\naddopts = '-p no:xdist'\n")
    (tmp_path / "out").mkdir()
    return root


@pytest.fixture
def target() -> Target:
    return Target(("small.py",), ("tests",))


@pytest.fixture
def session(root, target, tmp_path):
    session = Session(target, root, tmp_path / "out" / "small.sqlite")
    yield session
    session.close()


def normal(diff: str) -> str:
    """Returns a diff without the spaces that cosmic-ray adds before numbers."""
    return diff.replace("= 4", "=4").replace("=  ", "= ").replace("=4", "= 4")


def test_the_mutations_of_a_module_are_numbered_by_operator_and_place(root):
    specs = [item.mutations[0] for item in mutations(root, [Path("small.py")])]
    assert len(specs) == len(EXPECTED)
    assert {spec.start_pos[0] for spec in specs} == {5, 10, 11, 12}  # not the cache's size
    assert [spec.operator_name for spec in specs if spec.start_pos[0] == 11] == ["own/RemoveCall"]


def test_survivors_are_kept_with_file_line_and_diff_and_the_source_is_restored(session, root):
    session.check()
    noticed = list(session.run(session.pending()))
    assert (len(noticed), sum(noticed)) == (len(EXPECTED), len(NOTICED))
    assert {normal(one.diff) for one in session.survivors()} == EXPECTED - NOTICED
    assert {(one.module, one.line) for one in session.survivors()} == {
        ("small.py", 5),
        ("small.py", 10),
        ("small.py", 12),
    }
    assert session.counts() == {"small.py": (7, 7, 4)}
    assert (session.copy / "small.py").read_text() == (root / "small.py").read_text() == CODE


def test_an_interrupted_run_goes_on_and_survivors_can_be_tested_again(root, target, tmp_path):
    file = tmp_path / "out" / "small.sqlite"
    session = Session(target, root, file)
    session.check()
    running = session.run(session.pending())
    next(running), next(running)
    running.close()
    session.close()
    again = Session(target, root, file)
    assert len(again.pending()) == len(EXPECTED) - 2
    again.check()
    list(again.run(again.pending()))
    assert (again.pending(), len(again.survived())) == ([], 4)
    again.close()
    test = root / "tests" / "test_small.py"
    test.write_text(test.read_text() + "    assert small.LIMIT == 3\n")
    last = Session(target, root, file)
    last.check()
    assert sum(last.run(last.survived())) == 2
    assert last.counts() == {"small.py": (7, 7, 2)}
    last.close()


def test_tests_that_fail_without_a_mutation_are_an_error(session):
    (session.copy / "tests" / "test_small.py").write_text("def test_it():\n    assert False\n")
    with pytest.raises(InputError, match="without a mutation pytest tests ends with 1"):
        session.check()


def test_a_mutation_that_hangs_counts_as_noticed(session):
    session.timeout = 0.001
    (noticed,) = session.run(session.pending()[:1])
    assert noticed


def test_another_source_is_another_session(root, target):
    before = target.digest(root)
    assert target.digest(root) == before
    (root / "small.py").write_text(CODE + "\n")
    assert target.digest(root) != before


def test_the_command_writes_a_report_and_names_an_unknown_target(
    root, tmp_path, monkeypatch, capsys
):
    (root / "small.py").write_text("def yes():\n    return True\n")
    (root / "tests" / "test_small.py").write_text("def test_it():\n    pass\n")
    monkeypatch.setattr(command, "ROOT", root)
    monkeypatch.setattr(command, "OUTPUT", tmp_path / "out")
    monkeypatch.setattr(command, "TARGETS", {"small": (("small.py",), ("tests",))})
    command.main(["--minutes", "10"])
    assert "survivors: 1, in " in capsys.readouterr().out
    report = (tmp_path / "out" / "small.md").read_text()
    assert report.startswith("# Survivors: 1\n")
    assert "`small.py:2`\n\n```diff\n-    return True\n+    return False\n```\n" in report
    with pytest.raises(InputError, match="no target 'large': give one of small"):
        command.main(["--only", "large"])


def test_every_target_names_sources_and_tests_that_exist():
    for sources, tests in command.TARGETS.values():
        assert all((command.ROOT / one).exists() for one in [*sources, *tests])
        assert Target(sources, tests).modules(command.ROOT)


def test_changed_lines_are_without_context():
    assert changed_lines("a\nb\nc\n", "a\nd\nc\n") == "-b\n+d"
    assert Survivor("m.py", 1, "") != Survivor("m.py", 2, "")
