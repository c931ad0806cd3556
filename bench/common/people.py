"""The people of clips."""

import csv
from pathlib import Path

from receiver.errors import InputError


def people_of(clips: list[Path]) -> dict[Path, str]:
    """Returns the person of each clip: the column `identity` of a manifest.csv beside or above it.

    The one beside the clips counts if both name a clip. A clip that none of them identifies is a
    separate person, with the file's name. Raises InputError for a manifest without these columns.
    """
    folders = (clip.absolute().parent for clip in clips)
    known: dict[Path, str] = {}
    for folder in dict.fromkeys(one for beside in folders for one in (beside.parent, beside)):
        known |= _identities(folder / "manifest.csv")
    return {clip: known.get(clip.resolve()) or clip.stem for clip in clips}


def _identities(manifest: Path) -> dict[Path, str]:
    """Returns the people that a manifest names, by clip; nothing if there is no such file."""
    if not manifest.is_file():
        return {}
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as file:  # some editors write a mark
            rows = list(csv.DictReader(file))
            return {
                (manifest.parent / row["file"]).resolve(): (row["identity"] or "").strip()
                for row in rows
            }
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(
            f"{manifest} does not say who is in which clip ({error}): give it the columns file and "
            "identity, separated by commas, in UTF-8, or remove it"
        ) from None
