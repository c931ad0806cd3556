"""Keeps the clips of the report set out of training and tuning.

A `manifest.csv` in a folder above the clips names them: its column `file` has their path from that
folder, `split` the set (`train`, `val` or `report`), and `bytes` their size. Figures of `report`
are believable only while no weight and no constant was chosen on its clips.
"""

import csv
import filecmp
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

from receiver.errors import InputError
from receiver.media.files.reading import ENDINGS

MANIFEST = "manifest.csv"
REPORT = "report"
SHARED = Path(__file__).resolve().parents[3] / "shared" / "clips" / MANIFEST
"""Manifest of the clips beside the checkout, which the tests use too."""
PURPOSE = "the report set, which is for final figures only: give clips of train or val"


def refuse_report_set(paths: Iterable[Path]) -> None:
    """Raises InputError for a clip of the report set, or for a folder that holds one.

    Finds the clips of the nearest manifest above each path, through symbolic links, and of
    `SHARED`. Recognises renamed copies too, but no clip that was cut or encoded again.
    """
    read = cache(_report_clips)
    for path in paths:
        for clip in _videos(path):
            for report in (*_nearest(clip, read), read(SHARED) or {}):
                _refuse(clip, report)


def _videos(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from (one for one in sorted(path.rglob("*")) if one.suffix.lower() in ENDINGS)
    else:
        yield path


def _nearest(
    clip: Path, read: Callable[[Path], dict[Path, int] | None]
) -> Iterator[dict[Path, int]]:
    """Yields the report clips of the nearest manifest above the clip, and above its link's target.

    `read` is `_report_clips`.
    """
    for place in {clip.absolute(), clip.resolve()}:
        manifests = (read(folder / MANIFEST) for folder in place.parents)
        yield next((report for report in manifests if report is not None), {})


def _report_clips(manifest: Path) -> dict[Path, int] | None:
    """Returns the size in bytes of each report clip; None if the file does not name the sets.

    Raises InputError if it names them but cannot be read.
    """
    if not manifest.is_file():
        return None
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not {"file", "split", "bytes"} <= set(reader.fieldnames or ()):
                return None
            rows = [row for row in reader if (row["split"] or "").strip() == REPORT]
            return {(manifest.parent / row["file"]).resolve(): int(row["bytes"]) for row in rows}
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise InputError(f"{manifest} cannot be read ({error}): mend or remove it") from error


def _refuse(clip: Path, report: dict[Path, int]) -> None:
    """Raises InputError if a clip is, or equals, one of the report clips."""
    if clip.resolve() in report:
        raise InputError(f"{clip} is of {PURPOSE}")
    size = clip.stat().st_size if clip.is_file() else None
    for path, its in report.items():
        if its == size and (not path.is_file() or filecmp.cmp(clip, path, shallow=False)):
            raise InputError(f"{clip} is a copy of {path.name} of {PURPOSE}")
