"""Fixtures of all kinds of files."""

from pathlib import Path

import pytest

from tests.media.cases.workshop import X264, Workshop, tone


@pytest.fixture
def shop(raw, tmp_path, generator) -> Workshop:
    return Workshop(raw, tmp_path, generator)


@pytest.fixture
def many(shop) -> Path:
    """Two languages, the second one the default; text, chapters and a title."""
    text, chapters = shop.folder / "s.srt", shop.folder / "chapters.txt"
    text.write_text("1\n00:00:00,100 --> 00:00:00,600\nHi\n")
    chapters.write_text(
        ";FFMETADATA1\ntitle=My talk\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=400\ntitle=One\n"
    )
    source = shop.make(
        "many.mkv", *tone(), *tone(hertz=880), "-i", text, "-i", chapters, "-map", "0:v", "-map",
        "1:a", "-map", "2:a", "-map", "3:s", "-map_metadata", 4, "-map_chapters", 4, *X264,
        "-c:a", "aac", "-c:s", "srt", "-metadata:s:a:0", "language=eng", "-metadata:s:a:1",
        "language=deu", "-disposition:a:0", "0", "-disposition:a:1", "default",
    )  # fmt: skip
    text.unlink()
    chapters.unlink()
    return source
