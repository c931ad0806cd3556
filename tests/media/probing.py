"""Reads the whole content of media files, as ffprobe does.

`probe` reads through PyAV; `shown` and `described` read the same through the ffmpeg program of
imageio-ffmpeg, so that an error that reader and writer share does not go unnoticed.
"""

import re
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import numpy as np
from av.sidedata.sidedata import Type

FFMPEG = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-y"]
"""The program; it is newer than PyAV's libraries and supports more formats."""

PROGRAMS = {
    *("encoder", "major_brand", "minor_version", "compatible_brands", "vendor_id", "duration"),
    *("handler_name", "_statistics_tags", "_statistics_writing_app", "bps", "number_of_frames"),
    *("number_of_bytes", "_statistics_writing_date_utc", "encoding_tool"),
    "alpha_mode",  # true of the source's codec
    *("software", "iso8601_date_time", "variant_bitrate", "id3v2_priv.com.apple.streaming"),
}
"""Metadata about the program that wrote a file, not about its content."""
SIDE_DATA = {
    Type.MASTERING_DISPLAY_METADATA: "mastering display",
    Type.CONTENT_LIGHT_LEVEL: "content light level",
    Type.A53_CC: "closed captions",
    Type.DYNAMIC_HDR_PLUS: "HDR10+",
    Type.STEREO3D: "stereo 3D",
    Type.SPHERICAL: "spherical",
    Type.S12M_TIMECODE: "timecode",
    Type.AFD: "active format",
    Type.ICC_PROFILE: "ICC profile",
    Type.AMBIENT_VIEWING_ENVIRONMENT: "ambient viewing environment",
    Type.DOVI_RPU_BUFFER: "Dolby Vision",
}
FULL_RANGE = {f"yuvj{chroma}p": f"yuv{chroma}p" for chroma in (411, 420, 422, 440, 444)}
"""Names that stand for a pixel format and full range at once."""


def probe(path: Path) -> dict[str, Any]:
    """Reads the content of a file: its frames, packets, and all properties of its streams.

    Times are exact seconds. Metadata keys are in lower case, as Matroska's have none. A data
    stream without packets is left out: it is an .mp4's list of chapters.
    """
    with path.open("rb") as file, av.open(file, metadata_errors="replace") as container:
        streams = [_stream(stream) for stream in container.streams]
        broken_off = _read_packets(container, streams)
        for stream in streams:
            _hold_light(stream.get("frames", []))
        first, length = container.start_time, container.duration
        chapters = [
            (
                chapter["start"] * chapter["time_base"],
                chapter["end"] * chapter["time_base"],
                _lower(chapter["metadata"]),
            )
            for chapter in container.chapters()
        ]
        return {
            "format": container.format.name,
            "metadata": _lower(container.metadata),
            "chapters": chapters,
            "start": None if first is None else Fraction(first, av.time_base),
            "duration": None if length is None else Fraction(length, av.time_base),
            "streams": [s for s in streams if s["type"] != "data" or s["packets"]],
            "broken_off": broken_off,
        }


def of_type(probed: dict[str, Any], *types: str) -> list[dict[str, Any]]:
    """Returns the streams of some types in their order; cover art has the type `cover`."""
    return [stream for stream in probed["streams"] if stream["type"] in types]


def video_of(probed: dict[str, Any]) -> dict[str, Any]:
    """Returns the only video stream that is not cover art."""
    (video,) = of_type(probed, "video")
    return video


def _lower(metadata: dict[str, str]) -> dict[str, str]:
    """Returns metadata with keys in lower case and values in one spelling."""
    lower = {key.lower(): value for key, value in metadata.items()}
    if "creation_time" in lower:
        lower["creation_time"] = lower["creation_time"].replace(".000000Z", "Z")
    if "name" in lower:  # an .mp4's track
        lower.setdefault("title", lower.pop("name"))
    return lower


def _stream(stream: Any) -> dict[str, Any]:
    """Returns the properties in a stream's header, with empty lists for packets and frames."""
    codec = stream.codec_context
    kept: dict[str, Any] = {
        "type": "cover" if "attached_pic" in _flags(stream.disposition) else stream.type,
        "codec": None if codec is None else _codec_name(codec),
        "metadata": _lower(stream.metadata),
        "disposition": _flags(stream.disposition) - {"attached_pic"},
        "time_base": stream.time_base,
        "packets": [],  # time, duration, bytes
        "errors": 0,
    }
    if stream.type == "attachment":
        kept["data"] = bytes(stream.data)
        kept["mimetype"] = stream.mimetype
    if stream.type == "audio":
        kept["sound"] = (codec.sample_rate, codec.layout.nb_channels)
        kept["layout"] = codec.layout.name
        kept["profile"] = codec.profile
    if stream.type == "subtitle" and codec is not None and codec.name == "ass":
        kept["header"] = bytes(codec.extradata or b"")
    if kept["type"] == "video":
        kept |= {
            "sar": stream.sample_aspect_ratio or Fraction(1),
            "rate": stream.average_rate,
            "stream_colours": _colours(codec),
            "end": _end(stream),
            "frames": [],
        }
    return kept


def _codec_name(codec: Any) -> str:
    """Returns the name of a codec, not of its decoder: av1 for libdav1d."""
    return _CODECS.get(codec.name, codec.name)


_CODECS = {
    "libdav1d": "av1",
    "libvpx-vp9": "vp9",
    "libvpx": "vp8",
    "mp3float": "mp3",
    "mp2": "mp3",  # an .mp4 has one number for both
    "mp2float": "mp3",
    "libopus": "opus",
    "srt": "subrip",
    "ssa": "ass",
    "dca": "dts",
}


def _flags(disposition: Any) -> set[str]:
    return {flag.name for flag in av.stream.Disposition if flag & disposition}


def _colours(of: Any) -> tuple[int, int, int, int]:
    """Returns range (FFmpeg's number), matrix, primaries and transfer (ITU-T H.273)."""
    return tuple(
        int(getattr(of, name) or 0)
        for name in ("color_range", "colorspace", "color_primaries", "color_trc")
    )  # type: ignore[return-value]


def _read_packets(container: Any, streams: list[dict[str, Any]]) -> bool:
    """Fills in the streams' packets and frames; returns whether the file ends with an error."""
    demuxed = [stream for stream in container.streams if stream.type != "attachment"]
    try:
        for packet in container.demux(demuxed):
            kept = streams[packet.stream.index]
            if packet.size:
                kept["packets"].append(_packet(packet))
            if kept["type"] == "video":
                try:
                    kept["frames"] += [_frame(frame) for frame in packet.decode()]
                except av.FFmpegError:
                    kept["errors"] += 1
    except av.FFmpegError:
        return True
    return False


def _hold_light(frames: list[dict[str, Any]]) -> None:
    """Gives frames without HDR metadata those of the previous frame: a GOP has them once."""
    last: dict[str, bytes] = {}
    for frame in frames:
        last |= {name: frame["side_data"][name] for name in LIGHT & frame["side_data"].keys()}
        frame["side_data"] |= last


LIGHT = {"mastering display", "content light level"}


def _packet(packet: Any) -> tuple[Fraction | None, Fraction, bytes]:
    time = None if packet.pts is None else packet.pts * packet.time_base
    return time, (packet.duration or 0) * packet.time_base, bytes(packet)


def _frame(frame: Any) -> dict[str, Any]:
    """Returns a decoded frame with its time and all its properties."""
    format_name = frame.format.name
    colours = _colours(frame)
    if format_name in FULL_RANGE:
        format_name, colours = FULL_RANGE[format_name], (2, *colours[1:])
    matrix = frame.side_data.get(Type.DISPLAYMATRIX)
    return {
        "time": None if frame.pts is None else frame.pts * frame.time_base,
        "duration": (frame.duration or 0) * frame.time_base,
        "size": (frame.width, frame.height),
        "format": format_name,
        "colours": colours,
        "interlaced": frame.interlaced_frame,
        "matrix": None if matrix is None else tuple(np.frombuffer(matrix, np.int32).tolist()),
        "side_data": {
            SIDE_DATA[data.type]: bytes(data) for data in frame.side_data if data.type in SIDE_DATA
        },
        "picture": frame,
    }


def planes_of(frame: av.VideoFrame) -> list[np.ndarray]:
    """Returns copies of the planes of a planar frame, HxW each, 8 or 16 bits per sample."""
    wide = any(component.bits > 8 for component in frame.format.components)
    pixel = np.dtype(np.uint16 if wide else np.uint8)
    return [
        np.ndarray(
            (plane.height, plane.width), pixel, plane, strides=(plane.line_size, pixel.itemsize)
        ).copy()
        for plane in frame.planes
    ]


def sound_bytes(stream: dict[str, Any]) -> list[bytes]:
    """Returns a stream's packets without the wrapping of their container.

    PCM is one run of samples, which each container cuts up as it likes; AAC has no ADTS headers,
    which only streams without a container's own header need.
    """
    packets = [data for _, _, data in stream["packets"]]
    if stream["codec"].startswith("pcm_"):
        return [b"".join(packets)]
    if stream["codec"] == "aac":
        return [_without_adts(data) for data in packets]
    return packets


def _without_adts(data: bytes) -> bytes:
    """Returns an AAC frame without its ADTS header (ISO/IEC 13818-7, 6.2)."""
    if len(data) > 7 and data[0] == 0xFF and data[1] & 0xF6 == 0xF0:
        return data[7 if data[1] & 1 else 9 :]
    return data


def run_ffmpeg(*arguments: object, quiet: bool = True) -> str:
    """Runs the ffmpeg program; returns its messages. Raises AssertionError if it fails."""
    level = ["-loglevel", "error"] if quiet else []
    done = subprocess.run(
        [*FFMPEG, *level, *map(str, arguments)], capture_output=True, check=False, timeout=120
    )
    said = done.stderr.decode(errors="replace")
    assert done.returncode == 0, said
    return said


def described(path: Path) -> list[str]:
    """Returns the lines that ffmpeg prints for a file: format, duration, chapters, streams."""
    done = subprocess.run(
        [*FFMPEG, "-i", f"file:{path}"], capture_output=True, check=False, timeout=120
    )
    lines = done.stderr.decode(errors="replace").splitlines()
    return [line.strip() for line in lines if line.startswith(" ")]


def shown(path: Path, stream: str = "0:v:0") -> list[dict[str, str]]:
    """Returns every frame as ffmpeg's `showinfo` filter prints it, side data under `side`."""
    said = run_ffmpeg(
        *("-noautorotate", "-copyts", "-i", f"file:{path}", "-map", stream, "-vf", "showinfo"),
        *("-fps_mode", "passthrough", "-f", "null", "-"),
        quiet=False,
    )
    frames: list[dict[str, str]] = []
    for line in said.splitlines():
        if not line.startswith("[Parsed_showinfo"):
            continue
        text = line.partition("] ")[2]
        if text.startswith("n:"):
            frames.append(dict(re.findall(r"(\w+): *(\S+)", text), side=""))
        elif text.startswith("  side data") and frames:
            frames[-1]["side"] += text.strip() + "\n"
        elif text.startswith("color_range") and frames:
            frames[-1] |= dict(re.findall(r"(\w+):(\S+)", text))
    return frames


def _end(stream: Any) -> Fraction | None:
    """Returns the end of a stream's last frame in seconds; None if the file does not say."""
    if "matroska" in stream.container.format.name:  # only a tag tells
        hours, _, rest = stream.metadata.get("DURATION", "").partition(":")
        minutes, _, seconds = rest.partition(":")
        return Fraction(seconds) + 60 * int(minutes) + 3600 * int(hours) if seconds else None
    if stream.duration is None or stream.start_time is None:
        return None
    end: Fraction = (stream.start_time + stream.duration) * stream.time_base
    return end
