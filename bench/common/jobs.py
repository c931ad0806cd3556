"""Clips through encoders and generators, job by job; finished jobs are not run again."""

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from bench.common.encodings import encoding_of
from bench.common.framing import framed
from bench.common.result_cache import ResultCache
from bench.common.sequences import FaceSequence, Protocol, send_and_restore
from receiver.commands.progress import progress_bar
from receiver.enhance.faces.generator import Generator


@dataclass(frozen=True)
class Job:
    """One clip with one encoding and one generator.

    Attributes:
        key: what the result depends on, for the cache; `key_of` gives its common part.
        title: what the progress bar shows.
    """

    clip: Path
    generator: Generator
    key: dict[str, Any]
    title: str


def key_of(
    clip: Path, encoding: str, generator: Generator, *, seconds: float, min_face: float
) -> dict[str, Any]:
    """Returns the part of a job's key that all benches share.

    Args:
        seconds: length of the clip.
        min_face: height in pixels of the detector's box.
    """
    return {
        "clip": clip.name,
        "clip_sha256": _sha256(clip),
        "encoding": encoding,
        "model_sha256": generator.model.sha256,
        "seconds": seconds,
        "min_face": min_face,
    }


def run_jobs(
    jobs: Sequence[Job],
    results: ResultCache,
    protocols: Collection[Protocol],
    measure: Callable[[FaceSequence], Any],
) -> None:
    """Adds the result of each job that is not finished yet to the cache.

    Args:
        measure: returns a job's result, ready for JSON, from its faces.
    """
    loaded: tuple[Path | None, Any] = (None, None)
    with progress_bar() as bar:
        whole = bar.add_task("jobs", total=len(jobs))
        for job in jobs:
            if job.key not in results:
                if loaded[0] != job.clip:
                    loaded = job.clip, framed(job.clip, job.key["seconds"])
                frames, rate = loaded[1]
                task = bar.add_task(job.title, total=len(frames))
                advance = partial(bar.advance, task)
                encoding, min_face = encoding_of(job.key["encoding"]), job.key["min_face"]
                sequence = send_and_restore(
                    frames, rate, encoding, job.generator, protocols, min_face, advance
                )
                results.add(job.key, measure(sequence))
                bar.remove_task(task)
            bar.advance(whole)


@cache
def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
