"""Targets: model files, cards, albums and clips."""

import contextlib
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from fractions import Fraction
from functools import cache

import av
import numpy as np

from bench.fuzz.target import (
    RUNS_MOST,
    SIZE,
    NativeCrashError,
    folder,
    small_portrait,
)
from bench.fuzz.untrained import untrained
from keyframes import Keyframe, People
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.album import load_album, peer_of, save_album
from receiver.enhance.faces.generator import Generator
from receiver.enhance.faces.recognition import shared_recogniser
from receiver.enhance.files import enhance_file
from receiver.errors import ModelError, ReceiverError
from receiver.inference.model_files import WEIGHTS, Model
from receiver.sending.portrait import FPS

PEER = peer_of("https://localhost/whep")
"""Peer of the call whose albums are fuzzed."""


def models_seeds() -> list[bytes]:
    """Returns a Card or a network (ONNX), each after its letter."""
    card = json.loads((WEIGHTS / "lite.json").read_text())
    card["sha256"] |= {"fuzzed.onnx": "0" * 64, "fuzzed-align.onnx": "0" * 64}
    nets = [(WEIGHTS / f"lite-int8{end}.onnx").read_bytes() for end in ("", "-align")]
    return [b"C" + json.dumps(card).encode()] * 2 + [b"O" + net for net in nets]


def models(data: bytes) -> None:
    """Promises that a card or network is used, or that a ModelError says why not."""
    path = folder() / "fuzzed.onnx"
    card = path.with_suffix(".json")
    if data[:1] != b"O":
        path.touch()
        card.write_bytes(data[1:])
        with contextlib.suppress(ModelError):
            model = Model.find(str(path))
            _ = model.aligner, model.expected_sha256
        return
    card.unlink(missing_ok=True)
    path.write_bytes(data[1:])
    pool = loader()
    try:
        pool.submit(load, str(path)).result(RUNS_MOST * 4)
    except (BrokenProcessPool, TimeoutError):
        loader.cache_clear()
        for process in list((pool._processes or {}).values()):
            process.kill()
        raise NativeCrashError("ONNX Runtime crashed or hangs") from None


@cache
def loader() -> ProcessPoolExecutor:
    """Returns a process that may crash; it has started, which does not count as hanging."""
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    pool.submit(load, "no such model").result()
    return pool


def load(path: str) -> None:
    """Loads a network as the command line does."""
    with contextlib.suppress(ModelError):
        Generator(path, "cpu")


def files_seeds() -> list[bytes]:
    """Returns short Videos with sound and an Album, each after its letter."""
    album = folder() / "album"
    people = People()
    landmarks = 100 + 50 * np.random.default_rng(0).random((68, 2), np.float32)
    crop = np.zeros((256, 256, 3), np.uint8)
    person = people.see(0, np.moveaxis(crop, 2, 0), landmarks)
    person.keyframes.add(Keyframe(crop, landmarks, 30.0, "still", 1.0))
    save_album(people, [], album, PEER)
    return [b"A" + album.read_bytes(), *(b"V" + _clip(end) for end in (".mp4", ".mkv", ".ts"))]


def _clip(ending: str) -> bytes:
    path = folder() / f"seed{ending}"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", FPS)
        sound = container.add_stream("aac", 48000)
        video.width, video.height, video.pix_fmt = *SIZE, "yuv420p"
        video.options = {"preset": "ultrafast", "g": "4"}
        for index, frame in enumerate(small_portrait()[:8]):
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(video.encode(frame))
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            silence.sample_rate, silence.pts = 48000, 1024 * index
            container.mux(sound.encode(silence))
        for stream in (video, sound):
            container.mux(stream.encode(None))
    return path.read_bytes()


def files(data: bytes) -> None:
    """Promises that a file is converted, or that a ReceiverError says why not."""
    source, target = folder() / "fuzzed", folder() / "out.mkv"
    source.write_bytes(data[1:])
    with contextlib.suppress(ReceiverError):
        if data[:1] == b"V":
            enhance_file(source, target, Enhancer(untrained()))
        else:
            people = People()
            album = load_album(people, source, shared_recogniser(), PEER)
            save_album(people, album.others, target, PEER)
