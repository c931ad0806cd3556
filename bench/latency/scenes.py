"""What is sent: frame sizes, faces and bitrates."""

from dataclasses import dataclass

from receiver.errors import InputError

SIZES = {"360p": (640, 360), "480p": (640, 480), "720p": (1280, 720), "1080p": (1920, 1080)}
"""Width and height in pixels by name."""
KBPS_AT_480P = 100.0
"""Bitrate at 640x480 in kbit/s; other sizes have as many bits a pixel."""


@dataclass(frozen=True)
class Scene:
    """Frames of one size that show the clip's face `faces` times."""

    width: int
    height: int
    faces: int

    @property
    def size(self) -> str:
        """The size's name if it has one, else `WIDTHxHEIGHT`."""
        named = {pixels: name for name, pixels in SIZES.items()}
        return named.get((self.width, self.height), f"{self.width}x{self.height}")

    @property
    def name(self) -> str:
        """Size and number of faces in words."""
        return f"{self.size}, {self.faces} face{'s' * (self.faces > 1)}"

    @property
    def kbps(self) -> float:
        """The bitrate in kbit/s."""
        return KBPS_AT_480P * self.width * self.height / (640 * 480)


def sizes_of(text: str) -> list[tuple[int, int]]:
    """Parses --sizes. Raises InputError for an unknown size."""
    for name in text.split(","):
        if name not in SIZES:
            raise InputError(
                f"{name!r} in --sizes is not a size: give any of {', '.join(SIZES)}, "
                "with commas between them"
            )
    return [SIZES[name] for name in dict.fromkeys(text.split(","))]
