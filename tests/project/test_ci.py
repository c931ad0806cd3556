"""Which skipped tests `.ci/run` takes for failures."""

import subprocess
import sys
from pathlib import Path

import pytest

SKIPS = Path(__file__).parents[2] / ".ci" / "skips"

CUDA = "SKIPPED [1] tests/test_generator.py:269: needs CUDA: no NVIDIA driver"
HERE = "SKIPPED [1] tests/test_cli.py:94: CUDA is here, so its absence cannot be seen"
GROUPS = "SKIPPED [1] tests/test_cores.py:8: needs control groups that can be changed: read-only"
CLIPS = "SKIPPED [3] tests/test_bench.py:40: needs talking-head clips in ../shared/clips"
PEERS = "SKIPPED [9] tests/bench/test_a.py:4: needs other people's weights in ../shared/peers"
CHROMIUM = "SKIPPED [7] tests/calls/test_browser.py:18: needs apt install chromium"
ALIKE = "SKIPPED [1] tests/test_CUDA.py:9: needs apt install xvfb, beside what needs CUDA"
OTHERS = ["...s.", "120 passed, 3 skipped in 387.25s", "FAILED tests/test_a.py::test_b - x"]


def unexcused(folder: Path, lines: list[str], *, with_clips: bool) -> list[str]:
    """The lines that the script prints; its exit code says whether there are any."""
    log, clips = folder / "log", folder / "clips"
    log.write_text("".join(f"{line}\n" for line in lines))
    if with_clips:
        clips.mkdir()
    result = subprocess.run(
        ["bash", str(SKIPS), str(log), str(clips)], capture_output=True, text=True, check=False
    )
    found = result.stdout.splitlines()
    assert (result.returncode, result.stderr) == (1 if found else 0, "")
    return found


@pytest.mark.parametrize("with_clips", [False, True])
def test_what_needs_cuda_or_root_is_excused_anywhere(tmp_path, with_clips):
    assert unexcused(tmp_path, [*OTHERS, CUDA, HERE, GROUPS], with_clips=with_clips) == []


def test_missing_clips_are_excused_where_the_folder_is_missing_alone(tmp_path):
    assert unexcused(tmp_path, [CUDA, CLIPS], with_clips=False) == []
    assert unexcused(tmp_path, [CUDA, CLIPS], with_clips=True) == [CLIPS]


def test_missing_weights_of_others_are_excused_where_their_folder_is_missing_alone(tmp_path):
    assert unexcused(tmp_path, [CUDA, PEERS], with_clips=True) == []
    (tmp_path / "peers").mkdir()
    assert unexcused(tmp_path, [CUDA, PEERS], with_clips=False) == [PEERS]  # the clips are there


@pytest.mark.parametrize("with_clips", [False, True])
def test_any_other_skip_is_a_failure(tmp_path, with_clips):
    lines = [*OTHERS, CUDA, CHROMIUM, ALIKE]
    assert unexcused(tmp_path, lines, with_clips=with_clips) == [CHROMIUM, ALIKE]


def test_a_log_without_skips_is_fine(tmp_path):
    assert unexcused(tmp_path, OTHERS, with_clips=True) == []
    (tmp_path / "clips").rmdir()
    assert unexcused(tmp_path, [], with_clips=False) == []


def test_a_log_that_is_not_there_is_no_pass(tmp_path):
    command = ["bash", str(SKIPS), str(tmp_path / "log"), str(tmp_path)]
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def test_pytest_says_it_as_the_script_reads_it(tmp_path):
    """With the very marker that tests use, as on a machine without the clips."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_some.py").write_text(
        "import pytest\n"
        "from tests.conftest import needs_clips\n"
        "@pytest.mark.skipif(True, reason=needs_clips.kwargs['reason'])\n"
        "def test_clips(): ...\n"
        "def test_cuda(): pytest.skip('needs CUDA: no driver')\n"
        "@pytest.mark.skipif(True, reason='needs apt install janus')\n"
        "def test_janus(): ...\n"
    )
    said = subprocess.run(
        [sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider", str(tmp_path / "tests")],
        capture_output=True,
        text=True,
        cwd=SKIPS.parent.parent,
        check=True,
    ).stdout.splitlines()
    found = unexcused(tmp_path, said, with_clips=False)
    assert len(found) == 1
    assert found[0].endswith("needs apt install janus")
    assert len([line for line in said if line.startswith("SKIPPED")]) == 3
