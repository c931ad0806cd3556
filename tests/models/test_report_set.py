"""No clip of the report set gets into training or tuning."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench import __main__ as bench
from models import features, narrow, prepare, train
from models.data.report_set import refuse_report_set
from receiver.errors import InputError
from tests.conftest import CLIPS, needs_clips

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "receiver" / "weights" / "lite.onnx"
ABOUT = "the report set, which is for final figures only: give clips of train or val"


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three clips, one of each set, and their manifest. No command decodes them."""
    rows = ["split,file,bytes"]
    for name, split in (("a", "train"), ("b", "val"), ("c", "report")):
        clip = tmp_path / "clips" / split / f"{name}.mp4"
        clip.parent.mkdir(parents=True)
        clip.write_bytes(name.encode() * 1000)
        rows.append(f"{split},{split}/{name}.mp4,1000")
    (tmp_path / "clips" / "manifest.csv").write_text("\n".join(rows))
    return tmp_path / "clips"


def refused(path: Path) -> str:
    """Returns the sentence that refuses a path."""
    with pytest.raises(InputError) as error:
        refuse_report_set([path])
    return str(error.value)


def test_a_clip_and_a_folder_of_the_report_set_are_refused(folder):
    sentence = f"{folder / 'report' / 'c.mp4'} is of {ABOUT}"
    for path in (folder / "report" / "c.mp4", folder / "report", folder):
        assert refused(path) == sentence
    refuse_report_set([folder / "train", folder / "val", folder / "val" / "b.mp4"])


def test_a_relative_path_is_refused(folder, monkeypatch):
    monkeypatch.chdir(folder / "report")
    assert refused(Path("c.mp4")) == f"c.mp4 is of {ABOUT}"
    assert refused(Path("../report")) == f"../report/c.mp4 is of {ABOUT}"


def test_a_manifest_of_a_spreadsheet_is_read(folder):
    manifest = folder / "manifest.csv"
    text = manifest.read_text().replace("report,report", "report ,report").replace("\n", "\r\n")
    manifest.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert refused(folder / "report") == f"{folder / 'report' / 'c.mp4'} is of {ABOUT}"


def test_links_are_followed(folder, tmp_path):
    clip = tmp_path / "elsewhere" / "mine.mp4"
    clip.parent.mkdir()
    clip.symlink_to(folder / "report" / "c.mp4")
    assert refused(clip.parent) == f"{clip} is of {ABOUT}"
    (tmp_path / "linked").symlink_to(folder / "report")
    assert refused(tmp_path / "linked") == f"{tmp_path / 'linked' / 'c.mp4'} is of {ABOUT}"
    # The manifest may also lie above a link whose target lies elsewhere.
    moved = tmp_path / "store.mp4"
    (folder / "report" / "c.mp4").rename(moved)
    (folder / "report" / "c.mp4").symlink_to(moved)
    assert refused(folder / "report") == f"{folder / 'report' / 'c.mp4'} is of {ABOUT}"


def test_a_renamed_copy_is_refused_and_another_clip_of_that_size_is_not(folder):
    copy = folder / "train" / "copy.mov"
    shutil.copyfile(folder / "report" / "c.mp4", copy)
    assert refused(folder / "train") == f"{copy} is a copy of c.mp4 of {ABOUT}"
    (folder / "report" / "c.mp4").unlink()  # then its size decides
    copy.write_bytes(b"d" * 999)
    (folder / "train" / "a.mp4").unlink()
    refuse_report_set([folder / "train"])
    copy.write_bytes(b"d" * 1000)
    assert refused(folder / "train") == f"{copy} is a copy of c.mp4 of {ABOUT}"


def test_the_nearest_manifest_that_names_sets_decides(folder):
    (folder / "report" / "manifest.csv").write_text("file,identity\nc.mp4,c\n")
    assert refused(folder / "report").endswith(ABOUT)
    (folder / "report" / "manifest.csv").write_text("file,split,bytes\nc.mp4,train,1000\n")
    refuse_report_set([folder / "report"])


@pytest.mark.parametrize("row", [b"report/c.mp4,report,many", b"report/c.mp4,report", b"\xff,a,1"])
def test_a_broken_manifest_is_named(folder, row):
    (folder / "manifest.csv").write_bytes(b"file,split,bytes\n" + row)
    assert refused(folder / "train").startswith(f"{folder / 'manifest.csv'} cannot be read (")


def command_lines(videos: Path, out: Path) -> dict[str, tuple[object, ...]]:
    """Returns the arguments of every command that trains or tunes, by its module."""
    config = ROOT / "models" / "configs" / "lite.toml"
    return {
        "models.prepare": (videos, out),
        "models.features": (videos, out / "features.pt"),
        "models.narrow": (config, videos, SHIPPED, out),
        "models.train": (config, videos, out),
        "bench": ("identity", videos, "--output", out / "identity.jsonl"),
    }


@pytest.mark.slow
@pytest.mark.parametrize("module", command_lines(Path(), Path()))
def test_every_command_that_trains_or_tunes_refuses_the_report_set(folder, tmp_path, module):
    out = tmp_path / "out"
    arguments = command_lines(folder / "report", out)[module]
    run = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1].endswith(f"{folder / 'report' / 'c.mp4'} is of {ABOUT}")
    assert not run.stdout
    assert "Traceback" not in run.stderr
    assert not out.exists()  # before any work


@needs_clips
def test_the_real_report_set_is_refused_and_a_renamed_copy_too(tmp_path, command, capsys):
    report, out = CLIPS / "report", tmp_path / "out"
    if not report.is_dir():
        pytest.skip("needs the report set in ../shared/clips")
    commands = {
        "models.prepare": prepare.main,
        "models.features": features.main,
        "models.narrow": narrow.main,
        "models.train": train.main,
        "bench": bench.main,
    }
    copy = tmp_path / "mine" / "person.mp4"
    copy.parent.mkdir()
    shutil.copyfile(min(report.iterdir()), copy)
    for videos in (report, copy.parent):
        for module, arguments in command_lines(videos, out).items():
            if module in commands:
                assert command(commands[module], *arguments) == 2
            else:
                assert bench.main([str(one) for one in arguments]) == 2
            sentence = capsys.readouterr().err.splitlines()[-1]
            assert sentence.endswith(ABOUT)
            assert str(videos) in sentence
    assert not out.exists()
    refuse_report_set([CLIPS / "train", CLIPS / "val"])
