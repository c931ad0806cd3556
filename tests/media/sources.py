"""Makes video files of every kind from the demo's portrait with the ffmpeg program.

`Properties` describes a file, `build` makes it; `FACE` is where its one face may be restored.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.media.probing import run_ffmpeg

FRAMES = 6
SIZE = (320, 240)
"""Size of the portrait as it is shown; its face is 87 pixels wide."""
FACE = (0.1, 0.0, 0.9, 1.0)
"""Left, top, right, bottom of the region that may be restored, as fractions of the frame."""

ORIENTATIONS: tuple[tuple[str, str], ...] = (
    # How a file says it, as ffmpeg's input options; what the camera did to the upright picture.
    ("", "null"),
    ("-display_rotation 90", "transpose=clock"),
    ("-display_rotation 180", "hflip,vflip"),
    ("-display_rotation 270", "transpose=cclock"),
    ("-display_rotation 0 -display_hflip", "hflip"),
    ("-display_rotation 90 -display_hflip", "transpose=clock_flip"),
    ("-display_rotation 180 -display_hflip", "vflip"),
    ("-display_rotation 270 -display_hflip", "transpose=cclock_flip"),
)
SIDEWAYS = (1, 3, 5, 7)
"""Orientations whose stored picture stands where the shown one lies."""

QUALITY = {
    "libx264": "-preset veryfast -crf 36",
    "libx265": "-preset ultrafast -crf 38 -x265-params log-level=none",
    "libvpx": "-crf 50 -b:v 200k -deadline realtime -cpu-used 8",
    "libvpx-vp9": "-crf 55 -b:v 0 -deadline realtime -cpu-used 8",
    "libsvtav1": "-preset 13 -crf 55 -svtav1-params enable-overlays=0",
    "mpeg4": "-q:v 20",
    "mpeg2video": "-q:v 24",
    "mjpeg": "-q:v 24",
    "prores_ks": "-q:v 24",
}
"""Encoder options for poor quality; other encoders are lossless."""


@dataclass(frozen=True)
class Properties:
    """The properties of a source.

    Attributes:
        colours: range, matrix, primaries and transfer by ffmpeg's names; None for nothing said.
        fields: "prog", "tff" or "bff".
        jumps: whether a frame stays for longer than the others.
        begins: seconds at which the first frame is shown.
        audio: encoders of its audio streams.
        languages: of audio and subtitles in turn; "" for none.
        default: number of the audio stream that is the default one.
    """

    codec: str = "libx264"
    pixel_format: str = "yuv420p"
    container: str = "mp4"
    size: tuple[int, int] = SIZE
    rate: Fraction = Fraction(25)
    orientation: int = 0
    sar: Fraction = Fraction(1)
    colours: tuple[str, str, str, str] | None = None
    fields: str = "prog"
    jumps: bool = False
    begins: float = 0.0
    audio: tuple[str, ...] = ()
    subtitles: tuple[str, ...] = ()
    languages: tuple[str, ...] = ("", "", "", "")
    default: int = 0
    title: str = ""
    chapters: bool = False
    cover: bool = False
    attachment: bool = False


def write_raw(frames: Sequence[av.VideoFrame], path: Path) -> Path:
    """Writes the portrait's frames without loss, 320x240 yuv444p at 25 fps, for `build`."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("ffv1", rate=25)
        video.width, video.height, video.pix_fmt = *SIZE, "yuv444p"
        for index, frame in enumerate(frames):
            picture = frame.reformat(*SIZE, format="yuv444p")
            picture.pts, picture.time_base = index, Fraction(1, 25)
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
    return path


def stored_size(properties: Properties) -> tuple[int, int]:
    """Returns width and height of the stored frame, after rotation and for wide pixels."""
    width, height = properties.size
    if properties.orientation in SIDEWAYS:
        width, height = height, width
    if properties.sar != 1:
        width = round(width / properties.sar / 2) * 2
    return width, height


def face_in(orientation: int, width: int, height: int) -> np.ndarray:
    """Returns an HxW bool array: where the face may be restored in a stored frame of this size."""
    sideways = orientation in SIDEWAYS
    shown = np.zeros((width, height) if sideways else (height, width), bool)
    left, top, right, bottom = FACE
    rows, columns = shown.shape
    shown[int(top * rows) : int(bottom * rows) + 1, int(left * columns) : int(right * columns) + 1]\
        = True  # fmt: skip
    return _LIE_DOWN[ORIENTATIONS[orientation][1]](shown)


_LIE_DOWN: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "null": lambda picture: picture,
    "transpose=clock": lambda picture: np.rot90(picture, -1),
    "hflip,vflip": lambda picture: picture[::-1, ::-1],
    "transpose=cclock": lambda picture: np.rot90(picture),
    "hflip": lambda picture: picture[:, ::-1],
    "transpose=cclock_flip": lambda picture: picture.T,
    "vflip": lambda picture: picture[::-1],
    "transpose=clock_flip": lambda picture: picture[::-1, ::-1].T,
}
"""The filters of `ORIENTATIONS` for arrays."""


def build(properties: Properties, raw: Path, folder: Path, name: str = "source") -> Path:
    """Makes a file with these properties from the raw portrait."""
    target = folder / f"{name}.{properties.container}"
    video = folder / f"{name}.video.{properties.container}"
    fields = ["-flags", "+ildct+ilme"] if properties.fields != "prog" else []
    run_ffmpeg(
        *("-i", raw, "-frames:v", FRAMES, "-c:v", properties.codec),
        *QUALITY.get(properties.codec, "").split(),
        *("-pix_fmt", properties.pixel_format, "-vf", _filters(properties)),
        *("-fps_mode", "passthrough", "-enc_time_base", "filter", *fields, *_START, video),
    )
    options = ORIENTATIONS[properties.orientation][0].split()
    matrix = [f"{word}:v:0" if word.startswith("-display") else word for word in options]
    streams = _other_streams(properties, raw, target)
    begins = ["-output_ts_offset", properties.begins] if properties.begins else []
    run_ffmpeg(*matrix, "-copyts", "-i", video, *streams, "-c:v", "copy", *_START, *begins, target)
    for left in folder.glob(f"{name}.*"):
        if left != target:
            left.unlink()
    return target


_START = ("-muxpreload", 0, "-muxdelay", 0)
"""Without these options, MPEG's containers start later than requested."""


def _other_streams(properties: Properties, raw: Path, target: Path) -> list[object]:
    """Returns options that add everything except the video, which is the first input."""
    inputs: list[object] = []
    maps: list[object] = ["-map", "0:v"]
    coding: list[object] = []
    number = 1
    for index, codec in enumerate(properties.audio):
        inputs += ["-f", "lavfi", "-i", f"sine={440 + 220 * index}:r=48000:d=0.3"]
        maps += ["-map", f"{number}:a"]
        coding += [f"-c:a:{index}", codec, "-strict", -2]
        flags = "default" if index == properties.default else "0"
        coding += [f"-disposition:a:{index}", flags]
        coding += _language(f"s:a:{index}", properties.languages[index])
        number += 1
    for index, codec in enumerate(properties.subtitles):
        text = target.with_suffix(f".{index}.srt")
        text.write_text(f"1\n00:00:00,080 --> 00:00:00,160\nLine {index}\n\n")
        inputs += ["-i", text]
        maps += ["-map", f"{number}:s"]
        coding += [f"-c:s:{index}", codec]
        coding += _language(f"s:s:{index}", properties.languages[2 + index % 2])
        number += 1
    if properties.chapters or properties.title:
        inputs += ["-i", _metadata_file(properties, target.with_suffix(".meta"))]
        maps += ["-map_metadata", number, "-map_chapters", number]
        number += 1
    if properties.cover:
        picture = target.with_suffix(".png")
        run_ffmpeg("-i", raw, "-frames:v", 1, "-update", 1, picture)
        if properties.container == "mkv":
            maps += ["-attach", picture, "-metadata:s:t:0", "mimetype=image/png"]
            maps += ["-metadata:s:t:0", "filename=cover.png"]
        else:
            inputs += ["-i", picture]
            maps += ["-map", f"{number}:v"]
            coding += ["-disposition:v:1", "attached_pic"]
    if properties.attachment:
        font = target.with_suffix(".ttf")
        font.write_bytes(b"\0\1\0\0 no font, but some bytes")
        at = int(properties.cover)
        maps += ["-attach", font, f"-metadata:s:t:{at}", "mimetype=font/ttf"]
    return [*inputs, *maps, *coding]


def _language(stream: str, language: str) -> list[object]:
    return [f"-metadata:{stream}", f"language={language}"] if language else []


def _metadata_file(properties: Properties, path: Path) -> Path:
    text = f";FFMETADATA1\ntitle={properties.title}\n"
    if properties.chapters:
        for start, end, title in ((0, 100, "One"), (100, 240, "Two")):
            text += f"[CHAPTER]\nTIMEBASE=1/1000\nSTART={start}\nEND={end}\ntitle={title}\n"
    path.write_text(text)
    return path


def _filters(properties: Properties) -> str:
    """Returns filters that rotate and squeeze the frames and set their times and tags."""
    width, height = stored_size(properties)
    late = "+2*gte(N\\,3)" if properties.jumps else ""
    steps = [
        f"settb=1/90000,setpts=(N{late})/({properties.rate}*TB)",
        "null" if properties.jumps else f"fps={properties.rate}",
        ORIENTATIONS[properties.orientation][1],
        f"scale={width}:{height}:flags=bicubic",
        f"setsar={properties.sar.numerator}/{properties.sar.denominator}",
        f"setparams=field_mode={properties.fields}",
    ]
    if properties.colours is not None:
        span, matrix, primaries, transfer = properties.colours
        steps += [
            f"setparams=range={span}:colorspace={matrix}:color_primaries={primaries}"
            f":color_trc={transfer}"
        ]
    return ",".join(step for step in steps if step != "null")
