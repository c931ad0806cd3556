"""How much better the faces get: `python -m bench quality CLIPS`.

Every clip goes through x264 in real-time settings; each face is restored under three protocols,
which differ in where the references come from, and compared with the original's crop.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import av
import numpy as np
from rich.console import Console
from rich.progress import track as progress
from rich.table import Table

from keyframes import Keyframe, KeyframeSet, Landmarks, warp
from models.prepare import SUFFIXES, frame_rate, read_frames, same_face
from receiver.alignment import (
    Crop,
    crop_of,
    draw_landmarks,
    extract_crop,
    picture_of,
    planes,
    psnr_db,
    transform,
)
from receiver.encoding import Encoding, through_codec
from receiver.faces import Face, FaceTracker
from receiver.generator import Generator

Protocol: TypeAlias = Literal["none", "call", "paper"]
PROTOCOLS: tuple[Protocol, ...] = ("none", "call", "paper")
"""References: none, the decoded I-frames (`call`), or raw frames, one a second (`paper`)."""


@dataclass
class ClipResult:
    """Means over the faces of one clip."""

    clip: str
    faces: int
    face_px: float  # height of the detector's box
    input_psnr_db: float  # of the RGB face crop
    restored_psnr_db: dict[Protocol, float]

    def gain(self, protocol: Protocol) -> float:
        """Restored minus input, in dB."""
        return self.restored_psnr_db[protocol] - self.input_psnr_db


def measure_clip(
    path: Path, encoding: Encoding, generator: Generator, limit: int, min_face: float
) -> ClipResult | None:
    """Sends a clip through the codec and restores its faces under each protocol.

    A frame is never its own reference: it is restored before its picture enters a set. None where
    no face is `min_face` pixels high.
    """
    rate = frame_rate(path)
    on_decoded, on_raw = FaceTracker(), FaceTracker()
    sets: dict[tuple[int, Protocol], KeyframeSet] = {}
    sizes: list[float] = []
    inputs: list[float] = []
    outputs: dict[Protocol, list[float]] = {protocol: [] for protocol in PROTOCOLS}
    frames = read_frames(path, limit=limit)
    for index, (raw, decoded, _) in enumerate(through_codec(frames, encoding, rate)):
        raw_faces = on_raw.track(planes(raw)[0])
        for face in on_decoded.track(planes(decoded.video)[0]):
            height = float(face.box[3] - face.box[1])
            if height < min_face:
                continue
            original = extract_crop(raw, face.crop_from_frame)
            degraded = extract_crop(decoded.video, face.crop_from_frame)
            landmarks = transform(face.landmarks, face.crop_from_frame)
            sizes.append(height)
            inputs.append(psnr_db(original, degraded))
            references = [
                reference_for(degraded, landmarks, sets.get((face.track_id, protocol)))
                for protocol in PROTOCOLS
            ]
            restored = restore(generator, degraded, references, landmarks)
            for protocol, picture in zip(PROTOCOLS, restored, strict=True):
                outputs[protocol].append(psnr_db(original, picture))
            if decoded.is_keyframe:
                _set(sets, face, "call").add(keyframe_of(decoded.video, face))
            raw_face = same_face(face, raw_faces)
            if index % round(rate) == 0 and raw_face is not None:
                _set(sets, face, "paper").add(keyframe_of(raw, raw_face))
    if not sizes:
        return None
    return ClipResult(
        path.name,
        len(sizes),
        float(np.mean(sizes)),
        float(np.mean(inputs)),
        {protocol: float(np.mean(values)) for protocol, values in outputs.items()},
    )


def reference_for(degraded: Crop, landmarks: Landmarks, known: KeyframeSet | None) -> Crop:
    """The nearest keyframe of `known` bent onto the face; the face itself without any."""
    choice = known.choose(landmarks) if known else None
    if choice is None:
        return degraded
    chosen, _ = choice
    return crop_of(warp(chosen.crop, chosen.landmarks, landmarks))


def restore(
    generator: Generator, degraded: Crop, references: list[Crop], landmarks: Landmarks
) -> list[Crop]:
    """One crop restored with each of several references."""
    count = len(references)
    outputs = generator.restore(
        np.stack([degraded] * count),
        np.stack(references),
        np.stack([draw_landmarks(landmarks)[None]] * count),
    )
    return list(np.clip(outputs, 0.0, 1.0))


def keyframe_of(frame: av.VideoFrame, face: Face) -> Keyframe:
    """The keyframe that a face of a frame makes."""
    crop = extract_crop(frame, face.crop_from_frame)
    landmarks = transform(face.landmarks, face.crop_from_frame)
    return Keyframe(picture_of(crop), landmarks)


def _set(
    sets: dict[tuple[int, Protocol], KeyframeSet], face: Face, protocol: Protocol
) -> KeyframeSet:
    return sets.setdefault((face.track_id, protocol), KeyframeSet())


def table(results: list[ClipResult], title: str) -> Table:
    """One row a clip, and their mean."""
    shown = Table(title=title)
    for column in ("clip", "faces", "height px", "input dB", *(f"{p} dB" for p in PROTOCOLS)):
        shown.add_column(column, justify="left" if column == "clip" else "right")
    for result in results:
        gains = (f"{result.gain(protocol):+.2f}" for protocol in PROTOCOLS)
        values = (f"{result.faces}", f"{result.face_px:.0f}", f"{result.input_psnr_db:.2f}", *gains)
        shown.add_row(result.clip, *values)
    shown.add_section()
    faces = [result.faces for result in results]
    for name, weights in (("mean over faces", faces), ("mean over clips", [1] * len(results))):
        means = [np.average([r.gain(p) for r in results], weights=weights) for p in PROTOCOLS]
        mean_input = np.average([r.input_psnr_db for r in results], weights=weights)
        shown.add_row(
            name, f"{sum(weights)}", "", f"{mean_input:.2f}", *(f"{m:+.2f}" for m in means)
        )
    return shown


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench quality",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("clips", type=Path, help="folder of clips that nothing was trained on")
    parser.add_argument("--model", default="lite", help="name or ONNX file (default lite)")
    parser.add_argument("--crf", type=float, default=42.0, help="x264's CRF (default 42)")
    parser.add_argument("--keyframe-every", type=int, default=60, help="frames (default 60)")
    parser.add_argument("--min-face", type=float, default=120.0, help="height in px (default 120)")
    parser.add_argument("--frames", type=int, default=300, help="frames a clip (default 300)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    args = parser.parse_args(arguments)
    clips = sorted(path for path in args.clips.glob("*") if path.suffix in SUFFIXES)
    if not clips:
        parser.error(f"no videos in {args.clips}")
    encoding = Encoding(crf=args.crf, keyframe_every=args.keyframe_every)
    generator = Generator(args.model, "cpu")
    measured = (
        measure_clip(path, encoding, generator, args.frames, args.min_face)
        for path in progress(clips, "clips")
    )
    results = [result for result in measured if result is not None]
    if not results:
        parser.error(f"no face of {args.min_face:g} px in {args.clips}")
    title = f"face-crop PSNR, x264 zerolatency CRF {args.crf:g}, model {generator.model.name}"
    Console().print(table(results, title))
    if args.json:
        figures = {"crf": args.crf, "model": generator.model.sha256}
        figures["clips"] = [asdict(result) for result in results]
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
