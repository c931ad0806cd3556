"""How well embeddings tell people apart: `python -m bench identity FOLDER...`.

Each clip is framed as a call frames it, encoded at several sizes and CRFs, and observed as in a
call: an identity is the mean of the first `ENOUGH` observations of one stream. It is compared with
every single observation of the same person at another moment, in any size and CRF, which is what
decides of a still or of a reference from a file; and with those of all other people.

Then a receiver gets stills of everybody, genuine ones and hostile ones: another person's face, bent
into this one's pose, with this one's low-frequency colours.
"""

import argparse
import csv
import json
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress
from rich.table import Table

from bench.clips import clips_in
from bench.references import FACE, cut
from bench.result_cache import Finished
from keyframes import Identity, Landmarks, Picture, appearance_descriptor, crop_qp, likeness, warp
from keyframes.identity import ENOUGH, SAME_PERSON
from models.prepare import frame_rate, read_frames
from receiver.commands.progress import progress_bar
from receiver.commands.terminal import console
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.alignment import (
    crop_of,
    extract_crop,
    paste_residual,
    picture_of,
    transform,
)
from receiver.enhance.faces.generator import Generator
from receiver.enhance.faces.observations import scale_and_roll
from receiver.enhance.faces.recognition import FaceRecogniser, shared_recogniser
from receiver.enhance.faces.tracking import Face, FaceTracker
from receiver.errors import InputError
from receiver.media.encoding import Encoding, through_codec
from receiver.media.planes import copy_frame, planes
from receiver.stills.picture import decode_still, encode_still

OUTPUT = Path("bench-output") / "identity.jsonl"
SECONDS = 6.0
"""Of a clip, at most."""
MOMENTS = (0.08, 0.25, 0.42, 0.58, 0.75, 0.92)
"""Where in a clip faces are observed, as fractions of its length."""
APART = 0.5
"""Seconds by which two observations of one clip have to be apart to be of different moments."""
SHRINKS = (1, 2)
"""640x480 and 320x240."""
CRFS = (20, 28, 35, 42)
SOFT = 16.0
"""Standard deviation in crop pixels of the blur that leaves the low-frequency colours."""
STILL_AT = 24
"""Frame of which stills are made: it is known by then who is on screen."""
MIN_FACE = 60.0
"""Height in pixels of the detector's box below which it is not the face of any of these clips."""
CAMERA_SECONDS = 2.0
"""Of a clip that hold this frame and those after it, at 15 frames a second and more."""
STILL_CRF, STILL_BYTES = 35, 8000
"""Of the call, at half the size, and of the stills."""
VERDICTS = ("still", "nobody's", "worse")
"""What may become of a still, as `Stats.admitted` counts it."""
OTHERS = (0, 6, 12)
"""Places, after a clip's own, of other people's clips whose faces are used for hostile stills."""
KINDS = {"same": "same person", "other": "different people"}
"""Names of `Distances` and what they stand for."""
THRESHOLDS = tuple(round(SAME_PERSON + step, 3) for step in (-0.06, -0.03, 0.0, 0.03, 0.06))


@dataclass(frozen=True)
class Observed:
    """One face that was received.

    Attributes:
        person: who it is.
        clip: which it comes from.
        stream: size and CRF.
        second: of the clip.
        qp: of the crop, see `crop_qp`.
        embedding: see `receiver.enhance.faces.recognition`.
    """

    person: str
    clip: str
    stream: str
    second: float
    qp: float
    embedding: list[float]


@dataclass
class Distances:
    """Of identities to single observations of the same person and of others."""

    same: list[float] = field(default_factory=list)
    other: list[float] = field(default_factory=list)

    def accepted(self, of: str, threshold: float) -> float:
        """Returns the share of distances below the threshold; NaN without any."""
        distances = np.array(getattr(self, of))
        return float((distances < threshold).mean()) if len(distances) else float("nan")


def people_of(clips: list[Path]) -> dict[Path, str]:
    """Returns the person of each clip: the column `identity` of a manifest.csv beside or above it.

    Where there is none, each clip is a person of its own by the file's name.
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


def observe(clip: Path, person: str, recogniser: FaceRecogniser) -> list[Observed]:
    """Sends a clip in every size and CRF, and returns what is observed of its nearest face."""
    frames, rate = _framed(clip)
    found = []
    for shrink in SHRINKS if frames else ():
        sent = [
            frame.reformat(frame.width // shrink // 2 * 2, frame.height // shrink // 2 * 2)
            for frame in frames
        ]
        for crf in CRFS:
            stream = f"{sent[0].width}x{sent[0].height} crf{crf}"
            for second, picture, landmarks, qp in _faces(sent, rate, crf):
                embedding = recogniser.submit(picture, landmarks).result()
                found.append(Observed(person, clip.name, stream, second, qp, embedding.tolist()))
    return found


def _framed(clip: Path, seconds: float = SECONDS) -> tuple[list[av.VideoFrame], Fraction]:
    """A clip as a call shows it, once and forward, and its frame rate; empty without a face."""
    rate = frame_rate(clip)
    every = 2 if rate > 31 else 1
    limit = round(seconds * rate)
    frames = list(islice(read_frames(clip, limit=limit), 0, None, every))
    tracker, boxes = FaceTracker(), []
    for frame in frames[:30]:
        boxes += [face.box for face in tracker.track(planes(frame)[0])[:1]]
    if not boxes:
        return [], rate / every
    box = np.median(boxes, axis=0)
    scale = min(1.0, FACE / (box[3] - box[1]))
    return [cut(frame, scale, (box[:2] + box[2:]) / 2) for frame in frames], rate / every


def _faces(
    frames: list[av.VideoFrame], rate: Fraction, crf: float
) -> list[tuple[float, Picture, Landmarks, float]]:
    """The nearest face at each of `MOMENTS`: second, crop, landmarks in it, QP of the crop."""
    wanted = {min(len(frames) - 1, int(len(frames) * moment)) for moment in MOMENTS}
    tracker, found = FaceTracker(), []
    sent = through_codec(frames, Encoding(crf=crf, keyframe_every=300), rate)
    for index, (_, decoded, _) in enumerate(sent):
        faces = tracker.track(planes(decoded.video)[0])
        if index in wanted and faces:
            affine = faces[0].crop_from_frame
            picture = picture_of(extract_crop(decoded.video, affine))
            qp = crop_qp(decoded.qp_within(faces[0].box) or 51.0, scale_and_roll(affine)[0])
            landmarks = transform(faces[0].landmarks, affine)
            found.append((index / float(rate), picture, landmarks, qp))
    return found


def hostile_still(
    theirs: Picture, their_landmarks: Landmarks, own: Picture, own_landmarks: Landmarks
) -> Picture:
    """Returns another person's face in this one's pose, with this one's low-frequency colours.

    All are 256x256x3 uint8 RGB crops and 68x2 landmarks in their pixels.
    """
    bent = warp(theirs, their_landmarks, own_landmarks).astype(np.float32)
    soft = [cv2.GaussianBlur(one, (0, 0), SOFT) for one in (bent, own.astype(np.float32))]
    return np.clip(np.round(bent - soft[0] + soft[1]), 0, 255).astype(np.uint8)


def identities(observed: list[Observed]) -> list[tuple[Observed, Identity]]:
    """Returns the identity of each stream after `ENOUGH` observations, with the last of these."""
    streams: dict[tuple[str, str], list[Observed]] = {}
    for one in observed:
        streams.setdefault((one.clip, one.stream), []).append(one)
    found = []
    for ones in streams.values():
        identity = Identity()
        for one in sorted(ones, key=lambda one: one.second)[:ENOUGH]:
            identity.observe(np.array(one.embedding, np.float32), one.qp)
        if identity.mean is not None:
            found.append((sorted(ones, key=lambda one: one.second)[ENOUGH - 1], identity))
    return found


def compare(observed: list[Observed]) -> Distances:
    """Returns the distances of every stream's identity to every other single observation."""
    embeddings = np.array([one.embedding for one in observed], np.float32)
    people = np.array([one.person for one in observed])
    clips = np.array([one.clip for one in observed])
    seconds = np.array([one.second for one in observed])
    result = Distances()
    for last, identity in identities(observed):
        distances = np.linalg.norm(embeddings - identity.mean, axis=1)
        is_same = people == last.person
        is_later = (clips != last.clip) | (seconds > last.second + APART)
        result.same += distances[is_same & is_later].tolist()
        result.other += distances[~is_same].tolist()
    return result


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


@dataclass
class Judged:
    """What became of stills, by verdict, and how the hostile ones look to weaker judges.

    Attributes:
        genuine, hostile: stills by what became of them.
        same_colours: hostile stills whose appearance descriptors are at least 0.85 alike.
        same_embedding: hostile stills that the embedding alone would have let in.
    """

    genuine: Counter[str] = field(default_factory=Counter)
    hostile: Counter[str] = field(default_factory=Counter)
    same_colours: int = 0
    same_embedding: int = 0


def attack(clips: list[Path], generator: Generator, progress: Progress) -> Judged:
    """Sends everybody's call and stills to a receiver: their own, and others' made to resemble."""
    judged, people = Judged(), people_of(clips)
    faces: dict[Path, tuple[Picture, Landmarks]] = {}
    for clip in progress.track(clips, description="cameras"):
        camera = _camera(clip)
        if camera is not None:
            faces[clip] = camera.picture, camera.landmarks
    shown = list(faces)
    for number, clip in enumerate(progress.track(shown, description="stills")):
        camera = _camera(clip)
        assert camera is not None
        call = Call(camera, generator)
        if not call.enhancer.faces:
            continue
        others = [one for one in shown[number:] + shown[:number] if people[one] != people[clip]]
        for step in OTHERS if others else ():
            other = faces[others[step % len(others)]]
            still = hostile_still(*other, camera.picture, camera.landmarks)
            look, own = (appearance_descriptor(crop_of(one)) for one in (still, camera.picture))
            judged.same_colours += likeness(look, own) >= 0.85
            judged.same_embedding += call.accepts(still, camera.landmarks)
            judged.hostile[call.judge(camera.with_face(still))] += 1
        judged.genuine[call.judge(camera.still)] += 1
    return judged


@dataclass(frozen=True)
class Camera:
    """The first frames of a clip, and the face of the one of which stills are made.

    Attributes:
        frames: as a call shows them.
        face: the nearest one of frame `STILL_AT`, its crop and landmarks in the crop.
    """

    frames: list[av.VideoFrame]
    rate: Fraction
    face: Face
    picture: Picture
    landmarks: Landmarks

    @property
    def still(self) -> av.VideoFrame:
        """The frame of which stills are made."""
        return self.frames[STILL_AT]

    def with_face(self, picture: Picture) -> av.VideoFrame:
        """Returns that frame with another picture in the place of the face's crop."""
        frame = copy_frame(self.still)
        change = crop_of(picture) - crop_of(self.picture)
        paste_residual(frame, change, self.face.crop_from_frame)
        return frame


def _camera(clip: Path) -> Camera | None:
    """None for a clip that is too short, or whose face is not found or lost by the tracker."""
    frames, rate = _framed(clip, CAMERA_SECONDS)
    if len(frames) <= STILL_AT + 1 + len(OTHERS):
        return None
    frames, tracker = frames[: STILL_AT + 2 + len(OTHERS)], FaceTracker()
    faces = [tracker.track(planes(frame)[0]) for frame in frames[: STILL_AT + 1]][-1]
    if not faces or faces[0].box[3] - faces[0].box[1] < MIN_FACE:
        return None
    picture = picture_of(extract_crop(frames[STILL_AT], faces[0].crop_from_frame))
    landmarks = transform(faces[0].landmarks, faces[0].crop_from_frame)
    return Camera(frames, rate, faces[0], picture, landmarks)


class Call:
    """A receiver that sees a camera at 320x240, up to the frame of which stills are made."""

    def __init__(self, camera: Camera, generator: Generator) -> None:
        sent = [
            frame.reformat(frame.width // 4 * 2, frame.height // 4 * 2) for frame in camera.frames
        ]
        self._coming = through_codec(sent, Encoding(crf=STILL_CRF, keyframe_every=300), camera.rate)
        self.enhancer = Enhancer(generator)
        for _, decoded, _ in islice(self._coming, STILL_AT + 1):
            self.enhancer.enhance(decoded)

    def accepts(self, picture: Picture, landmarks: Landmarks) -> bool:
        """Returns whether a face is taken for that on screen by its embedding alone."""
        person = self.enhancer.people[self.enhancer.faces[0].track_id]
        return person.identity.accepts(shared_recogniser().submit(picture, landmarks).result())

    def judge(self, frame: av.VideoFrame) -> str:
        """Returns what becomes of a still of this frame, which is sent as WebP."""
        before = dict(self.enhancer.stats.admitted)
        if not self.enhancer.add_still(decode_still(*encode_still(frame, STILL_BYTES))):
            return "no face"
        for _, decoded, _ in islice(self._coming, 1):
            self.enhancer.enhance(decoded)
        after = self.enhancer.stats.admitted
        return next((name for name in VERDICTS if after[name] > before[name]), "waits")


def table(result: Distances) -> Table:
    """Returns a row a threshold, that of the receiver among them."""
    shown = Table(
        "distance below",
        *KINDS.values(),
        title=f"accepted: identity of {ENOUGH} observations against single faces",
    )
    for threshold in THRESHOLDS:
        shares = [f"{100 * result.accepted(of, threshold):.2f} %" for of in KINDS]
        mark = " (the receiver's)" if threshold == SAME_PERSON else ""
        shown.add_row(f"{threshold:.3f}{mark}", *shares)
    shown.add_row("pairs", *(f"{len(getattr(result, of)):,}" for of in KINDS))
    return shown


def stills_table(judged: Judged) -> Table:
    """Returns a row for genuine stills and one for hostile ones."""
    verdicts = (*VERDICTS, "waits", "no face")
    shown = Table(
        "stills",
        "sent",
        "admitted",
        *verdicts[1:],
        title="stills as the receiver judges them",
    )
    for name in ("genuine", "hostile"):
        counts: Counter[str] = getattr(judged, name)
        shown.add_row(name, str(counts.total()), *(str(counts[verdict]) for verdict in verdicts))
    return shown


def plot(result: Distances, path: Path) -> None:
    """Draws how distances are spread, and the threshold between."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    edges: NDArray[Any] = np.linspace(0.0, 1.2, 121)
    for of, label in KINDS.items():
        axes.hist(getattr(result, of), edges, density=True, histtype="step", label=label)
    axes.axvline(SAME_PERSON, color="black", linewidth=0.8, label="threshold")
    axes.set_xlabel("distance of embeddings")
    axes.set_ylabel("density")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


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
