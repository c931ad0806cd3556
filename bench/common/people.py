"""The people of clips."""

import csv
from pathlib import Path


def people_of(clips: list[Path]) -> dict[Path, str]:
    """Returns the person of each clip: the column `identity` of a manifest.csv beside or above it.

    Without a manifest each clip is a separate person, with the file's name.
    """
    known: dict[Path, str] = {}
    for folder in {parent for clip in clips for parent in (clip.parent, clip.parent.parent)}:
        manifest = folder / "manifest.csv"
        if manifest.is_file():
            with manifest.open(newline="") as file:
                known |= {
                    (folder / row["file"]).resolve(): row["identity"]
                    for row in csv.DictReader(file)
                }
    return {clip: known.get(clip.resolve(), clip.stem) for clip in clips}
