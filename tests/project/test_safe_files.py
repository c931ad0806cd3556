"""Output files: created privately and exclusively, complete or not there."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from receiver.errors import InputError
from receiver.safe_files import NewFile

needs_modes = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX file modes")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def open_umask():
    """A umask that takes nothing away but the others' right to write."""
    before = os.umask(0o002)
    yield
    os.umask(before)


@needs_modes
@pytest.mark.parametrize(("private", "expected"), [(True, 0o600), (False, 0o664)])
def test_a_private_file_is_the_users_alone_and_another_follows_the_umask(
    tmp_path, open_umask, private, expected
):
    target = tmp_path / "out.bin"
    target.write_bytes(b"before")
    target.chmod(0o666)
    with NewFile(target, private=private) as new:
        assert mode(new.unfinished) == expected  # from the start, not only at the end
        new.file.write(b"after")
    assert mode(target) == expected
    assert target.read_bytes() == b"after"


def test_the_target_appears_in_one_step_and_nothing_else_remains(tmp_path):
    target = tmp_path / "call.mp4"
    with NewFile(target, private=True) as new:
        new.file.write(b"whole")
        assert not target.exists()
        (unfinished,) = tmp_path.iterdir()
        assert (unfinished, unfinished.suffix) == (new.unfinished, ".mp4")
    assert list(tmp_path.iterdir()) == [target]


def test_temporary_names_are_random(tmp_path):
    with NewFile(tmp_path / "a", private=True) as one, NewFile(tmp_path / "a", private=True) as two:
        assert one.unfinished != two.unfinished
        one.file.write(b"1")
        two.file.write(b"2")
    assert (tmp_path / "a").read_bytes() == b"1"  # the last one to finish


def test_an_exception_leaves_what_was_there(tmp_path):
    (tmp_path / "out").write_bytes(b"before")

    def interrupted() -> None:
        with NewFile(tmp_path / "out", private=True) as new:
            new.file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out").read_bytes() == b"before"


def test_a_link_at_the_target_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"mine")
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    with NewFile(tmp_path / "out", private=True) as new:
        new.file.write(b"new")
    assert not (tmp_path / "out").is_symlink()
    assert (tmp_path / "out").read_bytes() == b"new"
    assert (tmp_path / "elsewhere").read_bytes() == b"mine"


@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_at_the_temporary_name_is_refused(tmp_path, monkeypatch, dangling):
    """Somebody who guessed the random name cannot direct the output to a file of ours."""
    monkeypatch.setattr("secrets.token_hex", lambda size: "0" * 2 * size)
    victim = tmp_path / "victim"
    if not dangling:
        victim.write_bytes(b"mine")
    (tmp_path / f".out.{'0' * 16}.part.bin").symlink_to(victim)
    with pytest.raises(InputError, match=r"out\.bin cannot be written: File exists"):
        NewFile(tmp_path / "out.bin", private=True)
    assert victim.exists() is not dangling
    assert dangling or victim.read_bytes() == b"mine"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_a_target_that_is_no_regular_file_is_refused_at_once(tmp_path, kind):
    target = tmp_path / "out.mp4"
    target.mkdir() if kind == "folder" else os.mkfifo(target)
    with pytest.raises(InputError, match=r"out\.mp4 is not a regular file: give another name"):
        NewFile(target, private=True)
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("target", ["missing/out.mp4", "file/out.mp4"])
def test_an_invalid_folder_is_named(tmp_path, target):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match=r"out\.mp4 cannot be written: No"):
        NewFile(tmp_path / target, private=True)


def test_a_file_that_cannot_take_its_place_is_kept_and_named(tmp_path):
    target = tmp_path / "call.mp4"
    new = NewFile(target, private=True)
    new.file.write(b"an hour of a call")
    target.mkdir()
    with pytest.raises(InputError, match=r"cannot be written: .*; what was written is in .*\.part"):
        new.finish()
    assert new.unfinished.read_bytes() == b"an hour of a call"
    assert not new.finished


def test_the_file_of_a_killed_process_is_kept_and_logged_by_the_next_one(tmp_path, caplog):
    target = tmp_path / "my call.mp4"
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from receiver.safe_files import NewFile\n"
        "NewFile(Path(sys.argv[1]), private=True).file.write(b'an hour of a call')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(target)], check=False)
    assert killed.returncode == -signal.SIGKILL
    (leftover,) = tmp_path.iterdir()
    (tmp_path / ".my call.part.mp4").write_bytes(b"of an older version")
    (tmp_path / ".my call.2.0123456789abcdef.part.mp4").write_bytes(b"of another target")
    with NewFile(target, private=True) as new:
        new.file.write(b"new")
    named = [record.getMessage() for record in caplog.records]
    assert len(named) == 2
    assert any(str(leftover) in line and "unfinished my call.mp4" in line for line in named)
    assert any(".my call.part.mp4" in line for line in named)
    assert leftover.read_bytes() == b"an hour of a call"
    assert target.read_bytes() == b"new"
    assert len(list(tmp_path.iterdir())) == 4


@needs_modes
def test_a_folder_that_cannot_be_listed_can_be_written_to():
    """Root can list every folder, so another user runs this."""
    script = (
        "import os, sys; from pathlib import Path; from receiver.safe_files import NewFile\n"
        "os.getuid() or os.setuid(65534)\n"
        "with NewFile(Path(sys.argv[1]), private=True) as new: new.file.write(b'new')\n"
    )
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is in one that is closed to others
        os.chmod(folder, 0o733 if os.getuid() == 0 else 0o300)
        subprocess.run([sys.executable, "-c", script, str(Path(folder, "out"))], check=True)
        os.chmod(folder, 0o700)
        assert Path(folder, "out").read_bytes() == b"new"


def test_writes_are_complete_and_can_be_read_back(tmp_path):
    with NewFile(tmp_path / "out", private=True) as new:
        assert new.file.write(bytes(3_000_000)) == 3_000_000
        assert new.file.write(memoryview(b"abcdefgh").cast("H")) == 8
        new.file.seek(1)
        new.file.write(b"x")
        new.file.seek(0)
        assert new.file.read(3) == b"\0x\0"
    assert (tmp_path / "out").stat().st_size == 3_000_008


@needs_modes
def test_a_write_that_is_cut_short_is_an_error(tmp_path):
    """A full disk takes a part of the last write, and says so at the next one alone."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with NewFile(tmp_path / "out", private=True) as new:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))
        try:
            with pytest.raises(OSError, match="File too large"):
                new.file.write(bytes(1000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
