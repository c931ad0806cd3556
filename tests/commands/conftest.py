"""What the tests of several commands share."""

from pathlib import Path

import av
import pytest

from tests.conftest import plain_frame, write_clip


@pytest.fixture(scope="session")
def clips(portrait, tmp_path_factory) -> Path:
    """A folder of clips: of three frames, of four, of two without a face."""
    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "three.mp4", portrait[:3], with_audio=False, crf=36)
    write_clip(folder / "four.mkv", portrait[:4], with_audio=False, crf=36)
    write_clip(folder / "plain.avi", [plain_frame()] * 2, with_audio=False)
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    return tmp_path


def frames_of(path: Path) -> int:
    with av.open(str(path)) as container:
        return len(list(container.decode(video=0)))
