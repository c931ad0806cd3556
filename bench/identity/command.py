"""How well embeddings tell people apart: `python -m bench identity FOLDER...`.

Frames each clip as a call does, encodes it at several sizes and CRFs, and observes the face as in
a call: an identity is the mean of the first `ENOUGH` observations of one stream. Compares it with
each observation of the same person at another moment, in any size and CRF, as a receiver does with
stills and with references from a file; and with each observation of other people.

Then sends a receiver stills of everybody, genuine and hostile ones. A hostile still shows another
person's face, warped into this person's pose, with this person's low-frequency colours.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from rich.progress import Progress

from bench.command_line import bench_parser, require
from bench.common.framing import clips_in
from bench.common.people import people_of
from bench.common.result_cache import ResultCache
from bench.identity.distances import Distances, compare
from bench.identity.hostile import attack
from bench.identity.observing import CRFS, SECONDS, SHRINKS, Observed, observe
from bench.identity.report import KINDS, plot, stills_table, table
from keyframes.identity import SAME_PERSON
from models.data.report_set import refuse_report_set
from receiver.commands.progress import progress_bar
from receiver.commands.terminal import console
from receiver.enhance.faces.generator import Generator
from receiver.enhance.faces.recognition import shared_recogniser
from receiver.errors import InputError

OUTPUT = Path("bench-output") / "identity.jsonl"


def measure(clips: list[Path], results: ResultCache, progress: Progress) -> Distances:
    """Observes the clips that are not finished yet, and compares all.

    Raises InputError if no clip shows a face.
    """
    people, recogniser = people_of(clips), shared_recogniser()
    task = progress.add_task("observing", total=len(clips))
    observed: list[Observed] = []
    for clip in clips:
        job = {"clip": str(clip), "seconds": SECONDS, "crfs": CRFS, "shrinks": SHRINKS}
        if job not in results:
            found = observe(clip, people[clip], recogniser)
            results.add(job, [asdict(one) for one in found])
        observed += [Observed(**one) for one in results[job]]
        progress.advance(task)
    if not observed:
        raise InputError("no face was found in any clip: give clips of people who face the camera")
    return compare(observed)


def main(arguments: list[str]) -> None:
    """Runs the command line. Raises InputError for bad input."""
    parser = bench_parser("identity", __doc__)
    add = parser.add_argument
    add("folders", nargs="+", type=Path, metavar="FOLDER", help="folders of clips")
    add("--json", action="store_true", help="print one JSON object and no table")
    add(
        "--output",
        type=Path,
        default=OUTPUT,
        metavar="FILE",
        help=f"finished clips, which are not observed again (default {OUTPUT})",
    )
    args = parser.parse_args(arguments)
    require("identity", "matplotlib")
    clips = [clip for folder in args.folders for clip in clips_in(folder)]
    refuse_report_set(clips)  # the receiver's thresholds are chosen by these figures
    with progress_bar() as progress:
        result = measure(clips, ResultCache(args.output), progress)
        judged = attack(clips, Generator(), progress)
    if args.json:
        shares = {kind: result.accepted(kind, SAME_PERSON) for kind in KINDS}
        pairs = {kind: len(getattr(result, kind)) for kind in KINDS}
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
