"""How well embeddings tell people apart: `python -m bench identity FOLDER...`.

Each clip is framed as a call frames it, encoded at several sizes and CRFs, and observed as in a
call: an identity is the mean of the first `ENOUGH` observations of one stream. It is compared with
every single observation of the same person at another moment, in any size and CRF, which is what
decides of a still or of a reference from a file; and with those of all other people.

Then a receiver gets stills of everybody, genuine ones and hostile ones: another person's face, bent
into this one's pose, with this one's low-frequency colours.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from rich.progress import Progress

from bench.common.framing import clips_in
from bench.common.result_cache import Finished
from bench.identity.distances import Distances, compare
from bench.identity.hostile import attack
from bench.identity.observing import CRFS, SECONDS, SHRINKS, Observed, observe, people_of
from bench.identity.report import KINDS, plot, stills_table, table
from keyframes.people import SAME_PERSON
from receiver.commands.progress import progress_bar
from receiver.commands.terminal import console
from receiver.enhance.faces.generator import Generator
from receiver.enhance.faces.recognition import shared_recogniser
from receiver.errors import InputError

OUTPUT = Path("bench-output") / "identity.jsonl"


def measure(clips: list[Path], finished: Finished, progress: Progress) -> Distances:
    """Observes all clips that are not finished yet, and compares them."""
    people, recogniser = people_of(clips), shared_recogniser()
    task = progress.add_task("observing", total=len(clips))
    observed: list[Observed] = []
    for clip in clips:
        job = {"clip": str(clip), "seconds": SECONDS, "crfs": CRFS, "shrinks": SHRINKS}
        if job not in finished:
            found = observe(clip, people[clip], recogniser)
            finished.add(job, [asdict(one) for one in found])
        observed += [Observed(**one) for one in finished[job]]
        progress.advance(task)
    if not observed:
        raise InputError("no face was found in any clip: give clips of people who face the camera")
    return compare(observed)


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench identity",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="with clips")
    parser.add_argument("--json", action="store_true", help="print one JSON object and no table")
    parser.add_argument(
        "--output",
        type=Path,
        default=OUTPUT,
        metavar="FILE",
        help=f"finished clips, from which it goes on (default {OUTPUT})",
    )
    args = parser.parse_args(arguments)
    clips = [clip for folder in args.folders for clip in clips_in(folder)]
    with progress_bar() as progress:
        result = measure(clips, Finished(args.output), progress)
        judged = attack(clips, Generator(), progress)
    if args.json:
        shares = {of: result.accepted(of, SAME_PERSON) for of in KINDS}
        pairs = {of: len(getattr(result, of)) for of in KINDS}
        print(
            json.dumps(
                {"threshold": SAME_PERSON, "accepted": shares, "pairs": pairs} | vars(judged)
            )
        )
    else:
        console().print(table(result))
        console().print(stills_table(judged))
        print(
            f"Of the hostile stills {judged.same_colours} have the face's colours, and "
            f"{judged.same_embedding} would be admitted by their embedding alone."
        )
    picture = args.output.with_suffix(".png")
    plot(result, picture)
    print(f"See {picture}.", file=sys.stderr)
