"""A short run of `python -m bench fuzz`, with a fixed seed: no input may break a promise."""

import pytest

from bench.fuzz import command as fuzz
from bench.fuzz.engine import fuzz as fuzz_target
from bench.fuzz.mutations import Mutator
from bench.fuzz.target import Target
from receiver.errors import InputError

COUNTS = {
    "rtp": 60,
    "decode": 12,
    "losses": 12,
    "stills": 60,
    "sdp": 60,
    "fragments": 60,
    "http": 12,
    "models": 40,
    "files": 15,
    "frames": 60,
    "answers": 30,
    "janus": 30,
    "links": 200,
    "redirects": 30,
}
"""Number of inputs by target, about half a second each."""


@pytest.mark.parametrize("name", list(fuzz.TARGETS))
def test_no_input_breaks_a_promise(name, tmp_path):
    (*_, report) = fuzz_target(name, count=COUNTS[name], seconds=None, seed=7, folder=tmp_path)
    assert report.inputs == COUNTS[name]
    assert {one: error for one, (_, error) in report.crashers.items()} == {}
    assert report.native == 0


def test_mutations_depend_on_the_seed_alone():
    seeds = [bytes(range(200)), b"some/parts/of/it" * 9]
    first, again, other = (
        [mutated(seeds) for _ in range(300)]
        for mutated in (Mutator(1, b"/"), Mutator(1, b"/"), Mutator(2, b"/"))
    )
    assert first == again != other
    assert len(set(first)) > 250


def test_a_crasher_is_kept_once_and_can_be_replayed(tmp_path, monkeypatch, capsys):
    def fails(data: bytes) -> None:
        if b"x" in data:
            raise ValueError("an x")

    target = Target(fails, lambda: [b"x", b"xx", b"y"])
    monkeypatch.setitem(fuzz.TARGETS, "letters", target)
    monkeypatch.setattr(fuzz, "OUTPUT", tmp_path)
    (*_, report) = fuzz_target("letters", count=3, seconds=None, seed=0, folder=tmp_path)
    ((path, error),) = report.crashers.values()
    assert (path.read_bytes(), report.inputs) == (b"x", 3)
    assert error.startswith("ValueError at test_fuzz.py:")
    with pytest.raises(ValueError, match="an x"):
        fuzz.main(["--replay", str(path)])
    path.write_bytes(b"y")
    fuzz.main(["--replay", str(path)])
    with pytest.raises(SystemExit):
        fuzz.main(["--only", "letters,sdp", "--count", "1", "--seed", "3"])
    assert "letters" in capsys.readouterr().out


def test_invalid_arguments_are_named(tmp_path):
    for arguments, sentence in [
        (["--only", "rpt"], "there is no target 'rpt'"),
        (["--replay", str(tmp_path / "rtp-0.bin")], "is not an input of a target"),
        (["--engine", "atheris"], "one target at a time"),
    ]:
        with pytest.raises(InputError, match=sentence):
            fuzz.main(arguments)
