"""What references are worth in a call: `python -m bench references CLIPS`.

Each clip is framed as a call frames it (640x480 around the face), sent through an encoder as a
browser or a camera uses it, and restored by the same generator with references that came in five
ways: none, the stream's I-frames (the paper's rule in a call), what the stream brought in good
quality (`quality`), stills asked for and paid for (`stills`), raw frames, one a second and free
(the paper's protocol, `raw`). Every face is judged against the original's.
"""

import argparse
import json
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from itertools import chain, compress, islice
from pathlib import Path
from typing import Any, Literal, TypeAlias

import av
import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from bench.metrics import identity, psnr, ssim, vmaf_neg
from keyframes import Landmarks, Picture, crop_qp
from keyframes.requests import RequestPolicy
from models.openh264 import NO_KEYFRAME, OpenH264, through_any_codec
from models.prepare import frame_rate, read_frames
from receiver.calls.requester import StillPace
from receiver.commands.progress import progress_bar
from receiver.commands.terminal import console
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.alignment import extract_crop, picture_of, transform
from receiver.enhance.faces.generator import Generator
from receiver.enhance.faces.recognition import shared_recogniser
from receiver.enhance.faces.still_faces import STILL_QP, faces_of_still, region_of
from receiver.enhance.faces.tracking import FaceTracker
from receiver.media.encoding import Encoding
from receiver.media.files.reading import ENDINGS
from receiver.media.frame import DecodedFrame
from receiver.media.planes import Region, cut_frame, planes
from receiver.stills.picture import decode_still, encode_still, part_of

Way: TypeAlias = Literal["none", "i-frames", "quality", "stills", "raw"]
WAYS: tuple[Way, ...] = ("none", "i-frames", "quality", "stills", "raw")
VIEW = (640, 480)
"""Width and height of a call's picture."""
FACE = 220.0
"""Height in pixels of the detector's box that a larger face is shrunk to."""
STILL_DELAY = 0.15
"""Seconds from asking for a still to its first byte: a round trip and the sender's encoder."""
PLOT = Path("bench-output/references.png")
JUDGED_EVERY, IDENTITY_EVERY = 2, 30
"""Faces judged: every second one, and by identity, which is slow, one a second."""

Sent: TypeAlias = Iterator[tuple[av.VideoFrame, DecodedFrame, int]]


@dataclass(frozen=True)
class Scenario:
    """How a clip is sent: one encoding after the other, each for some seconds.

    Attributes:
        turning: whether only faces that are turned away from where they mostly look are judged.
    """

    name: str
    parts: tuple[tuple[Encoding | OpenH264, float], ...]
    turning: bool = False

    @property
    def judged_from(self) -> float:
        """Seconds after which faces are judged: from the last part on."""
        return sum(seconds for _, seconds in self.parts[:-1])


def scenarios(seconds: float) -> list[Scenario]:
    """Steady and narrow, as browsers and cameras send it; good minutes that end; turning heads."""

    def camera(kbps: float) -> Encoding:
        return Encoding(kbps=kbps, keyframe_every=60)

    def browser(kbps: float) -> Encoding:
        return Encoding(kbps=kbps, keyframe_every=NO_KEYFRAME)

    return [
        Scenario("browser 100 kb/s", ((OpenH264(100), seconds),)),
        Scenario("browser 200 kb/s", ((OpenH264(200), seconds),)),
        Scenario("camera 100 kb/s", ((camera(100), seconds),)),
        Scenario("camera 200 kb/s", ((camera(200), seconds),)),
        Scenario("collapse", ((browser(1000), 8.0), (browser(100), seconds))),
        Scenario("turning heads", ((OpenH264(100), seconds),), turning=True),
    ]


@dataclass
class Faces:
    """One clip's faces in one way: successive pictures, and what references cost."""

    pictures: list[Picture] = field(default_factory=list)
    reference_bytes: int = 0
    requests: int = 0


@dataclass(frozen=True)
class Judged:
    """Means over the faces of one clip; `way` is 'input' for the pictures as received."""

    scenario: str
    clip: str
    way: str
    faces: int
    psnr_db: float
    ssim: float
    vmaf_neg: float
    identity: float
    reference_kbps: float


class Call:
    """One receiver, restoring in one way; is given a clip's frames one after the other."""

    def __init__(self, way: Way, generator: Generator) -> None:
        """`way` says where its references come from."""
        admission: Any = "i-frames" if way == "i-frames" else "quality"
        self.enhancer = Enhancer(generator, admission=admission)
        self.faces = Faces()
        self._way = way
        self._policy = RequestPolicy()
        self._coming: deque[tuple[float, bytes, str, Region]] = deque()
        self._next_raw = 0.0
        self._pace = StillPace()

    def see(self, now: float, raw: av.VideoFrame, decoded: DecodedFrame) -> av.VideoFrame:
        """Restores a frame; no frame is its own reference."""
        seen = decoded
        self._pace.see(now, decoded.size_bytes)
        if self._way in ("none", "raw"):  # nothing of the stream is to become a reference
            seen = DecodedFrame(decoded.video, decoded.is_keyframe, decoded.qp, damaged=True)
        restored = self.enhancer.enhance(seen)
        if self._way == "raw" and now >= self._next_raw:
            self._next_raw = now + 1.0
            self._give_raw(raw)
        if self._way == "stills":
            self._ask(now, raw)
        return restored

    def _give_raw(self, raw: av.VideoFrame) -> None:
        """Makes a raw frame's faces references, as the paper does: nothing has to be checked."""
        size = np.array([raw.width, raw.height] * 2, np.float64)
        for still in faces_of_still(raw, shared_recogniser()):
            face = still.among(self.enhancer.faces, size)
            if face is not None:
                still.keyframe.qp = crop_qp(STILL_QP, still.enlarged)
                self.enhancer.add_reference(face.track_id, still.keyframe)

    def _ask(self, now: float, raw: av.VideoFrame) -> None:
        while self._coming and self._coming[0][0] <= now:
            _, data, mime, region = self._coming.popleft()
            self._policy.arrived(now, len(data))
            self.faces.reference_bytes += len(data)
            self.enhancer.add_still(decode_still(data, mime), region)
        if self.enhancer.need is None:
            return
        request = self._policy.decide(now, self.enhancer.need, ("still",))
        if request is not None:
            self.faces.requests += 1
            region = region_of(self.enhancer.faces[0], raw.width, raw.height)
            data, mime = encode_still(part_of(raw, region), request.max_bytes)
            arrives = (
                now + STILL_DELAY + len(data) * 8 / (self._pace.kbps(link_was_full=True) * 1000)
            )
            self._coming.append((arrives, data, mime, region))


def call_view(path: Path, seconds: float) -> tuple[list[av.VideoFrame], Fraction]:
    """A clip as a call shows it, forward and backward until it lasts; and its frame rate."""
    rate, every = frame_rate(path), 1
    if rate > 31:
        rate, every = rate / 2, 2
    frames = list(islice(read_frames(path, limit=round(seconds * rate) * every), 0, None, every))
    tracker, boxes = FaceTracker(), []
    for frame in frames[:30]:
        boxes += [face.box for face in tracker.track(planes(frame)[0])[:1]]
    if not boxes:
        return [], rate
    box = np.median(boxes, axis=0)
    scale = min(1.0, FACE / (box[3] - box[1]))
    view = [cut(frame, scale, (box[:2] + box[2:]) / 2) for frame in frames]
    there_and_back = view + view[-2:0:-1]
    wanted = round(seconds * rate)
    return [there_and_back[i % len(there_and_back)] for i in range(wanted)], rate


def cut(frame: av.VideoFrame, scale: float, centre: np.ndarray[Any, Any]) -> av.VideoFrame:
    width, height = (int(side * scale) // 2 * 2 for side in (frame.width, frame.height))
    shrunk = frame.reformat(width, height, "yuv420p")
    size = min(VIEW[0], width), min(VIEW[1], height)
    left, top = (
        int(max(0.0, place * scale - side / 2)) // 2 * 2
        for place, side in zip(centre, size, strict=True)
    )
    return cut_frame(shrunk, left, top, *size)


def turned(landmarks: list[Landmarks]) -> NDArray[np.bool_]:
    """Which of a clip's faces are turned away from where it mostly looks.

    The tip of the nose moves against the eyes, whose place in the crop is fixed.
    """
    noses = np.array([points[30, 0] for points in landmarks])
    return np.asarray(np.abs(noses - np.median(noses)) > TURN)


TURN = 12.0
"""Crop pixels by which the nose is off its median place from which on a head counts as turned."""
MIN_TURNED = 15
"""Turned faces of a clip, at least, for it to say anything."""


def send(frames: list[av.VideoFrame], rate: Fraction, scenario: Scenario) -> Sent:
    """The frames through the scenario's encoders, one after the other."""
    first = 0
    parts = []
    for encoding, seconds in scenario.parts:
        count = round(seconds * rate)
        parts.append(through_any_codec(iter(frames[first : first + count]), encoding, rate))
        first += count
    return chain(*parts)


def restore_clip(
    frames: list[av.VideoFrame],
    rate: Fraction,
    scenario: Scenario,
    generator: Generator,
    advance: Callable[[], None],
) -> dict[str, Faces]:
    """The largest face of each judged frame: the original's, the input's, each way's."""
    calls = {way: Call(way, generator) for way in WAYS}
    seen: dict[str, Faces] = defaultdict(Faces)
    seen |= {way: call.faces for way, call in calls.items()}
    for index, (raw, decoded, _) in enumerate(send(frames, rate, scenario)):
        advance()
        now = index / float(rate)
        restored = {way: call.see(now, raw, decoded) for way, call in calls.items()}
        faces = calls["none"].enhancer.faces
        if not faces or now < scenario.judged_from or index % JUDGED_EVERY:
            continue
        pictures = {"original": raw, "input": decoded.video, **restored}
        for name, picture in pictures.items():
            crop = extract_crop(picture, faces[0].crop_from_frame)
            seen[name].pictures.append(picture_of(crop))
        landmarks = transform(faces[0].landmarks, faces[0].crop_from_frame)
        seen["landmarks"].pictures.append(landmarks)
    if scenario.turning:
        kept = turned(seen["landmarks"].pictures)
        for faces_seen in seen.values():
            faces_seen.pictures = list(compress(faces_seen.pictures, kept))
    return dict(seen)


def judge(seen: dict[str, Faces], scenario: Scenario, clip: str, seconds: float) -> list[Judged]:
    """Every way's faces against the original's."""
    originals: list[Picture] = seen["original"].pictures
    landmarks: list[Landmarks] = seen["landmarks"].pictures
    probes = range(0, len(originals), IDENTITY_EVERY // JUDGED_EVERY)
    known = {i: identity(originals[i], landmarks[i]) for i in probes}
    results = []
    for way in ("input", *WAYS):
        pictures = seen[way].pictures
        apart = [np.linalg.norm(identity(pictures[i], landmarks[i]) - known[i]) for i in probes]
        pairs = list(zip(originals, pictures, strict=True))
        results.append(
            Judged(
                scenario.name,
                clip,
                way,
                len(pictures),
                float(np.mean([psnr(*pair) for pair in pairs])),
                float(np.mean([ssim(*pair) for pair in pairs[::3]])),
                float(np.mean(vmaf_neg(originals, pictures))),
                float(np.mean(apart)),
                seen[way].reference_bytes * 8 / 1000 / seconds,
            )
        )
    return results


def table(results: list[Judged], clip: str | None = None) -> Table:
    """One row a scenario and way: gains over the input, of one clip or the mean over clips."""
    shown = Table(title=clip or "mean over clips: gains over the input")
    for column in ("scenario", "way", "PSNR dB", "SSIM", "VMAF-NEG", "identity", "refs kb/s"):
        shown.add_column(column, justify="left" if column in ("scenario", "way") else "right")
    for scenario in dict.fromkeys(result.scenario for result in results):
        for way in ("input", *WAYS):
            cells = [r for r in results if (r.scenario, r.way) == (scenario, way)]
            values = [mean(cells, name) for name in FIGURES]
            if way != "input":
                inputs = [r for r in results if (r.scenario, r.way) == (scenario, "input")]
                values = [v - mean(inputs, n) for v, n in zip(values, FIGURES, strict=True)]
            sign = "" if way == "input" else "+"
            formats = (".2f", ".3f", ".1f", ".3f")
            texts = [f"{value:{sign}{form}}" for value, form in zip(values, formats, strict=True)]
            kbps = f"{np.mean([r.reference_kbps for r in cells]):.1f}"
            shown.add_row(scenario if way == "input" else "", way, *texts, kbps)
        shown.add_section()
    return shown


FIGURES = ("psnr_db", "ssim", "vmaf_neg", "identity")


def mean(results: list[Judged], name: str) -> float:
    """Mean over clips of one figure."""
    return float(np.mean([getattr(result, name) for result in results]))


def shares(results: list[Judged]) -> dict[str, dict[str, float]]:
    """What part of the raw references' gain over no reference each way reaches, by scenario."""
    found: dict[str, dict[str, float]] = {}
    for scenario in dict.fromkeys(result.scenario for result in results):
        for figure in ("psnr_db", "vmaf_neg"):
            by_way = {
                way: mean([r for r in results if (r.scenario, r.way) == (scenario, way)], figure)
                for way in WAYS
            }
            raw = by_way["raw"] - by_way["none"]
            for way in ("i-frames", "quality", "stills"):
                share = (by_way[way] - by_way["none"]) / raw if raw else float("nan")
                found.setdefault(f"{scenario}, {figure}", {})[way] = round(share, 3)
    return found


def worst(results: list[Judged]) -> tuple[Judged, Judged]:
    """The restored clips that fare worst against their input, by PSNR and by VMAF-NEG."""
    inputs = {(r.scenario, r.clip): r for r in results if r.way == "input"}
    restored = [r for r in results if r.way in ("quality", "stills")]

    def loss(result: Judged, name: str) -> float:
        return float(getattr(result, name) - getattr(inputs[result.scenario, result.clip], name))

    return (
        min(restored, key=lambda result: loss(result, "psnr_db")),
        min(restored, key=lambda result: loss(result, "vmaf_neg")),
    )


def plot(results: list[Judged], path: Path) -> None:
    """Gains over the input, in groups of bars, a panel a figure."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(result.scenario for result in results))
    figure = Figure(figsize=(11, 7), layout="constrained")
    labels = {"psnr_db": "PSNR gain, dB", "vmaf_neg": "VMAF-NEG gain"}
    for axes, (name, label) in zip(figure.subplots(2, sharex=True), labels.items(), strict=True):
        for number, way in enumerate(WAYS):
            gains = []
            for scenario in names:
                of = [
                    mean([r for r in results if (r.scenario, r.way) == (scenario, w)], name)
                    for w in (way, "input")
                ]
                gains.append(of[0] - of[1])
            axes.bar(np.arange(len(names)) + 0.16 * (number - 2), gains, 0.15, label=way)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_ylabel(label)
        axes.grid(axis="y", alpha=0.3)
    axes.set_xticks(range(len(names)), names)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=len(WAYS))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench references",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("clips", type=Path, help="folder of clips that nothing was trained on")
    parser.add_argument("--model", default="lite", help="name or ONNX file (default lite)")
    parser.add_argument("--seconds", type=float, default=12.0, help="of each clip (default 12)")
    parser.add_argument("--min-face", type=float, default=110.0, help="height in px (default 110)")
    parser.add_argument(
        "--only", metavar="TEXT", default="", help="scenarios whose name holds TEXT"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    parser.add_argument("--plot", type=Path, default=PLOT, help=f"default {PLOT}")
    args = parser.parse_args(arguments)
    paths = sorted(path for path in args.clips.glob("*") if path.suffix.lower() in ENDINGS)
    if not paths:
        parser.error(f"no videos in {args.clips}")
    chosen = [one for one in scenarios(args.seconds) if args.only in one.name]
    if not chosen:
        parser.error(f"no scenario's name holds {args.only!r}")
    generator = Generator(args.model, "cpu")
    results: list[Judged] = []
    screen = console()
    with progress_bar() as bar:
        for path in paths:
            longest = max(sum(seconds for _, seconds in one.parts) for one in chosen)
            frames, rate = call_view(path, longest)
            if not frames or face_height(frames) < args.min_face:
                continue
            for scenario in chosen:
                seconds = sum(part for _, part in scenario.parts)
                task = bar.add_task(f"{path.stem}, {scenario.name}", total=round(seconds * rate))
                advance = lambda task=task: bar.advance(task)  # noqa: E731
                seen = restore_clip(frames, rate, scenario, generator, advance)
                bar.remove_task(task)
                if scenario.turning and len(seen["landmarks"].pictures) < MIN_TURNED:
                    continue
                results += judge(seen, scenario, path.stem, seconds)
                if args.json:
                    write(args.json, args.model, results)
    if not results:
        parser.error(f"no face of {args.min_face:g} px in {args.clips}")
    screen.print(table(results))
    for name, by_way in shares(results).items():
        screen.print(f"share of the raw references' gain, {name}: {by_way}")
    for result, figure in zip(worst(results), ("psnr_db", "vmaf_neg"), strict=True):
        screen.print(f"worst against its input by {figure}: {result}")
    plot(results, args.plot)
    screen.print(f"plot: {args.plot}")


def face_height(frames: list[av.VideoFrame]) -> float:
    """Height in pixels of the detector's box in the first frames; 0 without a face."""
    tracker = FaceTracker()
    faces = [face for frame in frames[:10] for face in tracker.track(planes(frame)[0])[:1]]
    return float(np.median([face.box[3] - face.box[1] for face in faces])) if faces else 0.0


def write(path: Path, model: str, results: list[Judged]) -> None:
    """The figures as JSON."""
    path.write_text(json.dumps({"model": model, "clips": [asdict(r) for r in results]}, indent=1))
