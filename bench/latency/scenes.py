"""What is sent: frame sizes, faces and bitrates."""

from dataclasses import dataclass

from receiver.errors import InputError

SIZES = {"360p": (640, 360), "480p": (640, 480), "720p": (1280, 720), "1080p": (1920, 1080)}


KBPS_AT_480P = 100.0
"""Bitrate at 640x480; at other sizes in proportion to the pixels."""


@dataclass(frozen=True)
class Scene:
    """What is sent: the clip's face so many times in frames of one size."""

    width: int
    height: int
    faces: int

    @property
    def size(self) -> str:
        """The size's name where it has one."""
        named = {pixels: name for name, pixels in SIZES.items()}
        return named.get((self.width, self.height), f"{self.width}x{self.height}")

    @property
    def name(self) -> str:
        """In words."""
        return f"{self.size}, {self.faces} face{'s' * (self.faces > 1)}"

    @property
    def kbps(self) -> float:
        """The bitrate at which it is sent."""
        return KBPS_AT_480P * self.width * self.height / (640 * 480)


def sizes_of(text: str) -> list[tuple[int, int]]:
    """The argument --sizes. Raises InputError for a size that there is not."""
    for name in text.split(","):
        if name not in SIZES:
            raise InputError(
                f"{name!r} in --sizes is no size: give any of {', '.join(SIZES)}, "
                "with commas between them"
            )
    return [SIZES[name] for name in dict.fromkeys(text.split(","))]
