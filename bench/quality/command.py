"""How much better the faces get: `python -m bench quality CLIPS`.

Each clip is framed as a call frames it (640x480 around the face), sent through encoders, and its
faces restored by one or more generators with references from nowhere (`none`), as a receiver gets
them (`call`: the stream's good pictures, and stills asked and paid for) and as in the paper
(`paper`: raw frames, one a second and free). All are compared with the original's faces.

Ctrl-C keeps what is finished, and the same command goes on from there. What depends on the code is
not noticed: after a change to it, delete results.jsonl or give another --out.
"""

import argparse
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
from rich.progress import Progress

from bench.common.arguments import min_face_of, seconds_of
from bench.common.encodings import encoding_of
from bench.common.framing import clips_in, framed
from bench.common.learned import LPIPS, brisque_problem
from bench.common.result_cache import Finished
from bench.common.sequences import PROTOCOLS, Seen, watch
from bench.quality.figures import result_of
from bench.quality.report import report, strip
from receiver.commands.progress import progress_bar
from receiver.commands.terminal import console
from receiver.enhance.faces.generator import Generator

OUT = Path("bench-output/quality")


def sha256(path: Path) -> str:
    """Of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def jobs_of(args: argparse.Namespace, clips: list[Path], models: dict[str, Generator]) -> list[Any]:
    """What is to be measured: clip, name of the model, and all that the result depends on."""
    jobs = []
    for clip in clips:
        about = {"clip": clip.name, "clip_sha256": sha256(clip)}
        for encoding in args.encoding:
            for name, generator in models.items():
                job = {**about, "encoding": encoding, "model_sha256": generator.model.sha256}
                job |= {"seconds": args.seconds, "min_face": args.min_face}
                job |= {"lpips": args.lpips_weights and str(args.lpips_weights.resolve())}
                jobs.append((clip, name, job | {"brisque": brisque_problem() is None}))
    return jobs


def run(
    jobs: list[Any],
    models: dict[str, Generator],
    finished: Finished,
    lpips: LPIPS | None,
    bar: Progress,
) -> None:
    """Measures what is not finished yet."""
    whole = bar.add_task("jobs", total=len(jobs))
    loaded: tuple[Path | None, Any] = (None, None)
    for clip, name, job in jobs:
        if job not in finished:
            if loaded[0] != clip:
                loaded = clip, framed(clip, job["seconds"])
            frames, rate = loaded[1]
            task = bar.add_task(f"{clip.stem}, {job['encoding']}, {name}", total=len(frames))
            advance: Callable[[], None] = lambda task=task: bar.advance(task)  # noqa: E731
            encoding, generator = encoding_of(job["encoding"]), models[name]
            seen = watch(frames, rate, encoding, generator, PROTOCOLS, job["min_face"], advance)
            result = result_of(seen, lpips)
            if seen.boxes:
                result["strip"] = _keep_strip(seen, finished.folder, len(finished))
            finished.add(job, result)
            bar.remove_task(task)
        bar.advance(whole)


def _keep_strip(seen: Seen, folder: Path, number: int) -> str:
    name = f"strip-{number}.png"
    cv2.imwrite(str(folder / name), cv2.cvtColor(strip(seen), cv2.COLOR_RGB2BGR))
    return name


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench quality",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = parser.add_argument
    add("clips", type=Path, help="folder of clips that nothing was trained on")
    add("--encoding", action="append", help="crf42, openh264-100 (both by default), x264-150, ...")
    add("--model", action="append", help="name or ONNX file (default lite); repeatable")
    add("--seconds", type=seconds_of, default=10.0, help="of each clip (default 10)")
    add("--min-face", type=min_face_of, default=120.0, help="height in px (default 120)")
    add("--lpips-weights", type=Path, metavar="FOLDER|FILE", help="AlexNet's and LPIPS' own")
    add("--out", type=Path, default=OUT, metavar="FOLDER", help=f"default {OUT}")
    args = parser.parse_args(arguments)
    args.encoding = list(dict.fromkeys(args.encoding or ["crf42", "openh264-100"]))
    for name in args.encoding:
        encoding_of(name)
    clips = clips_in(args.clips)
    opened = [Generator(name, "cpu") for name in dict.fromkeys(args.model or ["lite"])]
    models = {generator.model.name: generator for generator in opened}
    if len(models) < len(opened):
        parser.error(f"two of the models have one name: {', '.join(args.model)}; rename a file")
    lpips = LPIPS(args.lpips_weights) if args.lpips_weights else None
    finished = Finished(args.out / "results.jsonl")
    jobs = jobs_of(args, clips, models)
    screen = console()
    with progress_bar() as bar:
        run(jobs, models, finished, lpips, bar)
    report(jobs, finished, screen)
