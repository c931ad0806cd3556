"""Makes files of the raw portrait with ffmpeg, and enhances them."""

from pathlib import Path
from typing import Any

import av
import numpy as np

from tests.media.checking import check, enhanced
from tests.media.differences import differences
from tests.media.probing import probe, run_ffmpeg, video_of

X264 = ("-c:v", "libx264", "-crf", 36, "-preset", "veryfast", "-pix_fmt", "yuv420p")
FRAMES = 24


class Workshop:
    """Makes sources in a folder, and enhances them."""

    def __init__(self, raw: Path, folder: Path, generator: Any) -> None:
        self.raw, self.folder, self.generator = raw, folder, generator

    def make(self, name: str, *arguments: object) -> Path:
        """A file that ffmpeg makes of the raw portrait, its first input."""
        target = self.folder / name
        run_ffmpeg("-i", self.raw, *arguments, target)
        return target

    def run(self, *arguments: object) -> Path:
        """A file that ffmpeg makes of others: its last argument."""
        run_ffmpeg(*arguments)
        return Path(str(arguments[-1]))

    def enhance(self, source: Path, name: str = "out.mp4") -> dict[str, Any]:
        """The probed output, which has all frames, all of them restored."""
        self.result, self.said = enhanced(source, self.folder / name, self.generator)
        return probe(self.folder / name)

    def check(self, source: Path, name: str = "out.mp4", **more: Any) -> dict[str, Any]:
        """Enhances and compares all, see `tests.media.checking.check`."""
        more.setdefault("frames", FRAMES)
        return check(source, self.folder / name, self.generator, **more)


def tone(seconds: float = 0.96, *, hertz: int = 440, rate: int = 48000, layout: str = "") -> list:
    """ffmpeg's options for an input of sound."""
    source = f"sine={hertz}:r={rate}:d={seconds}"
    if layout:
        source += f",aformat=channel_layouts={layout}"
    return ["-f", "lavfi", "-i", source]


def times_of(probed: dict[str, Any]) -> list[float]:
    return [float(frame["time"]) for frame in video_of(probed)["frames"]]


def gaps_of(probed: dict[str, Any]) -> list[float]:
    return np.diff(times_of(probed)).tolist()


def pictures_of(probed: dict[str, Any]) -> list[av.VideoFrame]:
    return [frame["picture"] for frame in video_of(probed)["frames"]]


def differences_but_pixels(source: Path, target: Path) -> dict[str, Any]:
    """What differs, but for dispositions."""
    found = differences(probe(source), probe(target))
    return {name: values for name, values in found.items() if "disposition" not in name}
