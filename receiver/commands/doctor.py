"""`receiver doctor`: checks whether everything that a call needs is available."""

import argparse
import platform
from dataclasses import asdict, dataclass
from typing import Any

import av
import onnxruntime
from rich.table import Table
from rich.text import Text

from receiver.commands.options import add_common
from receiver.commands.terminal import console, json_line
from receiver.cores import cpu_quota, scheduled_cores, usable_cores
from receiver.enhance.capacity import in_words, measure
from receiver.enhance.faces.generator import Generator
from receiver.enhance.faces.tracking import landmark_file
from receiver.enhance.quality import Quality
from receiver.errors import ReceiverError
from receiver.inference.devices import Device, ExecutionDevice, device_problem
from receiver.inference.model_files import MODELS, Model
from receiver.media.outputs import Window


def add(commands: Any) -> None:
    """Adds the command to argparse's subparsers."""
    doctor = commands.add_parser(
        "doctor",
        help="check the installation",
        description="Checks the execution device, the models, the landmark file and the codecs, "
        "and explains why CUDA and TensorRT can or cannot be used. Exits with 1 if something that "
        "was asked for is missing.",
    )
    add_common(doctor, run)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns 1 if something that was asked for is missing."""
    findings = examine(args.model, args.device)
    fine = all(finding.fine or not finding.needed for finding in findings)
    if args.json:
        print(json_line({"fine": fine, "findings": [asdict(finding) for finding in findings]}))
        return 0 if fine else 1
    table = Table(title="receiver doctor", show_header=False)
    for finding in findings:
        style = "green" if finding.fine else "red" if finding.needed else "yellow"
        table.add_row(Text("yes" if finding.fine else "no", style), finding.name, finding.says)
    console().print(table)
    print("Nothing is missing." if fine else "Something is missing: see above.")
    return 0 if fine else 1


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        name: of the thing that was checked.
        fine: whether it can be used.
        says: what was found, in a few words.
        needed: whether a call fails without it.
    """

    name: str
    fine: bool
    says: str
    needed: bool = True


def examine(model: str, device: Device) -> list[Finding]:
    """Checks everything that `model` on `device` needs, the most basic first."""
    offered = ", ".join(name.removesuffix("ExecutionProvider") for name in _providers())
    findings = [
        Finding("python", True, platform.python_version()),
        Finding("cores", True, _cores()),
        Finding("onnxruntime", True, f"{onnxruntime.__version__}, built with {offered}"),
        _device_finding("cuda", device),
        _device_finding("tensorrt", device),
        _landmark_finding(),
        *(_card_finding(file) for name in MODELS for file in _files(name)),
        *_session_findings(model, device),
        _codec_finding("h264 decoder", "h264", "r"),
        _codec_finding("h264 encoder", "libx264", "w"),
        _codec_finding("opus decoder", "libopus", "r"),
    ]
    window = Window.possible()
    says = "available" if window else "none: the demo writes files and opens no window"
    return [*findings, Finding("display", window, says, needed=False)]


def _cores() -> str:
    """Returns how many cores this process may use, and the CPU quota if it is what limits them."""
    quota, scheduled = cpu_quota(), scheduled_cores()
    if quota is None or quota >= scheduled:
        return str(scheduled)
    return f"{usable_cores()} of {scheduled}, by a CPU quota of {float(quota):g}"


def _providers() -> list[str]:
    providers: list[str] = onnxruntime.get_available_providers()
    return providers


def _device_finding(checked: ExecutionDevice, asked: Device) -> Finding:
    problem = device_problem(checked)
    return Finding(checked, problem is None, problem or "can be used", needed=asked == checked)


def _landmark_finding() -> Finding:
    try:
        return Finding("landmarks", True, str(landmark_file()))
    except ReceiverError as error:
        return Finding("landmarks", False, str(error))


def _files(name: str) -> list[Model]:
    found = [Model.find(name, on_gpu) for on_gpu in (False, True)]
    return [*found, *(model.aligner for model in found if model.aligner is not None)]


def _card_finding(model: Model) -> Finding:
    name = f"weights {model.path.name}"
    try:
        model.check()
        return Finding(name, True, f"SHA-256 {model.sha256}, as on its card")
    except ReceiverError as error:
        return Finding(name, False, str(error))


def _session_findings(model: str, device: Device) -> list[Finding]:
    """Checks whether the model runs, how many calls this machine carries, and at what quality."""
    try:
        generator = Generator(model, device)
    except ReceiverError as error:
        return [Finding(f"model {model}", False, str(error))]
    runs = Finding(f"model {model}", True, f"runs on {generator.device}")
    try:
        measured = measure(generator)
        level = Quality(generator, "auto", measured).level.name
    except Exception as error:  # ONNX Runtime raises classes without a common base
        return [runs, Finding("capacity", False, f"cannot be measured: {error}", needed=False)]
    return [
        runs,
        Finding("capacity", True, in_words(measured, usable_cores())),
        Finding("quality", True, f"--quality auto starts with {level}"),
    ]


def _codec_finding(name: str, codec: str, mode: str) -> Finding:
    try:
        av.Codec(codec, mode)  # type: ignore[arg-type]
    except ValueError:
        return Finding(name, False, f"PyAV has no {codec}: pip install --force-reinstall av")
    return Finding(name, True, codec)
