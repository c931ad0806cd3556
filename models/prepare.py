"""Makes training crops from a folder of videos: `python -m models.prepare VIDEOS OUT`.

It encodes each clip several times with x264 or OpenH264 in real-time settings, at random sizes,
CRFs and bitrates, and tracks its faces on the decoded frames, as in a call.

A shard is a folder, one for each clip, encoding and face:

    degraded.npy        Nx256x256x3 uint8 RGB, crops of decoded frames, aligned by their landmarks
    target.npy          the same crops of the original frames
    landmarks.npy       Nx68x2 float32, landmarks found on the decoded frame, in crop pixels
    raw.npy             crops of the original frames, aligned by their own landmarks: references
    raw_landmarks.npy   Nx68x2 float32, the landmarks of raw.npy
    shard.json          clip, encoding, scale, QPs and positions in the clip
"""

import argparse
import json
import random
import shutil
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange
from rich.progress import track as progress

from models.data.report_set import refuse_report_set
from models.openh264 import OpenH264, through_any_codec
from receiver.cores import limit_opencv
from receiver.enhance.faces.alignment import extract_crop, picture_of, transform
from receiver.enhance.faces.tracking import Face, FaceTracker
from receiver.errors import InputError
from receiver.media.display import views
from receiver.media.encoding import Encoding
from receiver.media.files.reading import ENDINGS, VideoReader
from receiver.media.planes import planes

PRESETS = ("ultrafast", "superfast", "veryfast", "medium")
UNTAGGED = 2
"""MatrixCoefficients of ITU-T H.273 for an untagged picture."""
STRIDE = 3
"""Frames between two samples; neighbouring frames are nearly equal."""
MIN_SAMPLES = 6
"""Samples of the smallest shard that is kept."""
MIN_FACE_WIDTH = 72
"""Width in pixels of the smallest face box that is kept."""


@dataclass(frozen=True)
class Recipe:
    """One way to degrade a clip: shrink it by `scale` <= 1, then encode it."""

    encoding: Encoding | OpenH264
    scale: float


def random_recipe(rng: random.Random, face_width: float, width: int, height: int) -> Recipe:
    """Draws a size, CRF or bitrate, GOP and preset that are typical of calls."""
    wanted = rng.uniform(90, 280)
    scale = 1.0 if rng.random() < 0.4 else min(1.0, wanted / face_width)
    megapixels = width * height * scale * scale / 1e6
    kbps = max(20.0, megapixels * 10 ** rng.uniform(2.2, 3.4))
    encoder = rng.random()
    if encoder < 0.4:
        return Recipe(OpenH264(kbps), scale)
    gop, preset = rng.choice([30, 60, 250, 1000]), rng.choice(PRESETS)
    if encoder < 0.8:
        return Recipe(Encoding(crf=rng.uniform(24, 47), keyframe_every=gop, preset=preset), scale)
    return Recipe(Encoding(kbps=kbps, keyframe_every=gop, preset=preset), scale)


def read_frames(
    path: Path, scale: float = 1.0, limit: int | None = None
) -> Iterator[av.VideoFrame]:
    """Yields the frames of a video as displayed, in yuv420p, shrunk by `scale` to even sizes.

    Stops after `limit` frames. Raises InputError for an unreadable file.
    """
    with VideoReader(path) as reader:
        for index, frame in enumerate(views(reader.frames(), reader.video.sample_aspect_ratio)):
            if index == limit:
                return
            width, height = (
                max(2, int(side * scale) // 2 * 2) for side in (frame.width, frame.height)
            )
            picture = frame.reformat(width, height, "yuv420p")
            # The encoded stream carries no colour tags. Without tags here, the original and the
            # decoded frame are converted with the same matrix and do not differ in colour.
            picture.colorspace, picture.color_range = UNTAGGED, ColorRange.UNSPECIFIED
            yield picture


def frame_rate(path: Path) -> Fraction:
    """Returns the frame rate of a video, 30 if the file does not state it."""
    with VideoReader(path) as reader:
        return reader.rate


def prepare_clip(path: Path, out: Path, encodings: int, samples: int, seed: int) -> int:
    """Writes the shards of one clip and returns the number of their samples."""
    rng = random.Random(f"{seed} {path.name}")
    face_width, width, height = _largest_face(path)
    if face_width == 0:
        return 0
    total = 0
    for number in range(encodings):
        recipe = random_recipe(rng, face_width, width, height)
        for track_id, rows in _sample_faces(path, recipe, samples).items():
            if len(rows) >= MIN_SAMPLES:
                _write_shard(out / f"{path.name}-{number}-{track_id}", path, recipe, rows)
                total += len(rows)
    return total


def _largest_face(path: Path) -> tuple[float, int, int]:
    """Returns the width of the largest face in the first frames, and the frames' size."""
    tracker, widest, size = FaceTracker(), 0.0, (0, 0)
    for frame in read_frames(path, limit=30):
        size = frame.width, frame.height
        faces = tracker.track(planes(frame)[0])
        widest = max([widest, *(float(face.box[2] - face.box[0]) for face in faces)])
    return widest, *size


def _sample_faces(path: Path, recipe: Recipe, samples: int) -> dict[int, list[dict[str, Any]]]:
    """Returns the rows of the shards, by the track id of their face."""
    on_decoded, on_raw = FaceTracker(), FaceTracker()
    rows: dict[int, list[dict[str, Any]]] = defaultdict(list)
    frames = read_frames(path, recipe.scale, samples * STRIDE)
    for index, (raw, decoded, _) in enumerate(
        through_any_codec(frames, recipe.encoding, frame_rate(path))
    ):
        faces = on_decoded.track(planes(decoded.video)[0])
        raw_faces = on_raw.track(planes(raw)[0])
        if index % STRIDE:
            continue
        for face in faces:
            raw_face = same_face(face, raw_faces)
            if raw_face is None or face.box[2] - face.box[0] < MIN_FACE_WIDTH:
                continue
            rows[face.track_id].append(
                {
                    "degraded": picture_of(extract_crop(decoded.video, face.crop_from_frame)),
                    "target": picture_of(extract_crop(raw, face.crop_from_frame)),
                    "landmarks": transform(face.landmarks, face.crop_from_frame),
                    "raw": picture_of(extract_crop(raw, raw_face.crop_from_frame)),
                    "raw_landmarks": transform(raw_face.landmarks, raw_face.crop_from_frame),
                    "index": index,
                    "qp": decoded.qp,
                }
            )
    return rows


def same_face(face: Face, candidates: list[Face]) -> Face | None:
    """Returns the candidate, found on the original frame, that is the face of the decoded frame."""
    size = float(face.box[2] - face.box[0])
    for candidate in candidates:
        offset = candidate.landmarks.mean(axis=0) - face.landmarks.mean(axis=0)
        if float(np.linalg.norm(offset)) < 0.25 * size:
            return candidate
    return None


def _write_shard(folder: Path, path: Path, recipe: Recipe, rows: list[dict[str, Any]]) -> None:
    """Writes a shard atomically."""
    unfinished = folder.with_name(folder.name + ".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for name in ("degraded", "target", "landmarks", "raw", "raw_landmarks"):
        np.save(unfinished / f"{name}.npy", np.stack([row[name] for row in rows]))
    about = {
        "clip": path.name,
        "encoding": asdict(recipe.encoding),
        "scale": recipe.scale,
        "qp": [row["qp"] for row in rows],
        "index": [row["index"] for row in rows],
    }
    (unfinished / "shard.json").write_text(json.dumps(about))
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("videos", type=Path, help="folder of videos, searched recursively")
    parser.add_argument("out", type=Path, help="folder for the shards, which replace older ones")
    parser.add_argument("--encodings", type=int, default=3, help="encodings per clip (default 3)")
    parser.add_argument("--samples", type=int, default=48, help="samples per encoding (default 48)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    paths = sorted(p for p in args.videos.rglob("*") if p.suffix.lower() in ENDINGS)
    if not paths:
        parser.error(f"there are no videos in {args.videos}")
    try:
        refuse_report_set(paths)
    except InputError as error:
        parser.error(str(error))
    args.out.mkdir(parents=True, exist_ok=True)
    crops, broken = 0, []
    with ProcessPoolExecutor(args.jobs, initializer=limit_opencv) as pool:
        jobs = {
            pool.submit(prepare_clip, p, args.out, args.encodings, args.samples, args.seed): p
            for p in paths
        }
        for job in progress(as_completed(jobs), "preparing", total=len(jobs)):
            try:
                crops += job.result()
            except Exception as error:  # a clip can be broken in any way
                broken.append(f"{jobs[job]}: {type(error).__name__}: {error}")
    print(f"{crops} crops of {len(paths) - len(broken)} clips in {args.out}")
    for line in broken:
        print(f"skipped {line}")


if __name__ == "__main__":
    main()
