"""Quantises a generator to 8-bit integers, which a CPU multiplies several times as fast.

After measuring the ranges once, training continues with every value rounded as ONNX Runtime will
round it, so that the network adapts to the rounding (Jacob et al., "Quantization and Training of
Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018).
"""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from torch import Tensor, nn

from models.networks.lite import Fold, ResidualBlock
from receiver.enhance.faces.generator import CHANNELS

TAIL = 1e-4
"""Share of a tensor's values that lie beyond each end of its range."""
WEIGHT_LEVELS = 64
"""Weights are -64 to 64: products with 8-bit weights overflow on processors without VNNI."""
CLIPPED = ("conv1", "down", "down1", "down2")
"""Names of the convolutions of `lite` whose output is clipped immediately."""
MEASURED_VALUES = 100_000
"""Values of a tensor used to measure its range, at most."""


class Levels(nn.Module):
    """Rounds a tensor to 256 levels between two bounds that `measure` sets; one level is zero."""

    low: Tensor
    high: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.measured: list[tuple[float, float]] | None = None
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """Maps floats of any shape to float32 of the same shape."""
        x = x.float()
        if self.measured is not None:
            some = x.detach().flatten()[:: max(1, x.numel() // MEASURED_VALUES)]
            low, high = torch.quantile(some, torch.tensor([TAIL, 1.0 - TAIL])).tolist()
            self.measured.append((min(low, 0.0), max(high, 0.0)))
            return x
        scale, zero = self.scale_and_zero()
        return torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 255)

    def scale_and_zero(self) -> tuple[float, int]:
        """Returns the distance between two levels, and the level that is zero."""
        scale = max(1e-6, float(self.high - self.low) / 255.0)
        return scale, round(-float(self.low) / scale)


class QuantizedConv2d(nn.Conv2d):
    """A convolution that rounds its input, weights (one range per channel) and output."""

    def __init__(self, conv: nn.Conv2d, clipped: bool) -> None:
        """Shares the weights of `conv`, under the same names.

        Args:
            clipped: do not round the output, because the next layer clips it first.
        """
        shape: Any = conv.kernel_size, conv.stride, conv.padding
        super().__init__(conv.in_channels, conv.out_channels, *shape)
        self.weight, self.bias = conv.weight, conv.bias
        self.before = Levels()
        self.after = nn.Identity() if clipped else Levels()

    def forward(self, x: Tensor) -> Tensor:
        """Maps NxCxHxW to the shape that nn.Conv2d gives."""
        highest = self.weight.detach().abs().amax(dim=(1, 2, 3)).clamp_min(1e-8)
        scales, zeros = highest / WEIGHT_LEVELS, torch.zeros(len(highest), dtype=torch.int32)
        weight = torch.fake_quantize_per_channel_affine(
            self.weight, scales, zeros, 0, -WEIGHT_LEVELS, WEIGHT_LEVELS
        )
        rounded: Tensor = self.after(self._conv_forward(self.before(x), weight, self.bias))
        return rounded


def quantize(network: nn.Module) -> None:
    """Replaces the convolutions of `lite`, in place, by rounding ones with the same weights.

    Two kinds stay as they are: those that fold pixels into channels, because they process the
    picture itself and are cheap, and that of the flow, because its values of few pixels need finer
    steps than a range of 64 pixels allows.
    """
    for module in list(network.modules()):
        if isinstance(module, Fold):
            continue
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Conv2d) and name != "flow":
                setattr(module, name, QuantizedConv2d(child, name in CLIPPED))
    for block in network.modules():
        if isinstance(block, ResidualBlock):  # the sum has to use rounded values, too
            block.register_forward_pre_hook(lambda block, inputs: (block.conv1.before(*inputs),))


@torch.no_grad()
def measure(network: nn.Module, batches: Iterable[tuple[Tensor, ...]]) -> None:
    """Sets the ranges of a quantised network from `batches` of its three inputs."""
    levels = [module for module in network.modules() if isinstance(module, Levels)]
    for level in levels:
        level.measured = []
    for inputs in batches:
        network(*inputs)
    for level in levels:
        low, high = np.mean(level.measured or [(0.0, 1.0)], axis=0)
        level.low.fill_(low)
        level.high.fill_(high)
        level.measured = None


def ranges(state: dict[str, Tensor]) -> dict[str, tuple[float, float]]:
    """Returns (low, high) of each tensor, by 'CONVOLUTION.before' or 'CONVOLUTION.after'.

    Args:
        state: the state dict of a quantised network.
    """
    names = [key.removesuffix(".low") for key in state if key.endswith(".low")]
    return {name: (float(state[f"{name}.low"]), float(state[f"{name}.high"])) for name in names}


def float_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the state dict without ranges, for a network that is not quantised."""
    return {key: value for key, value in state.items() if key.split(".")[-1] not in ("low", "high")}


def write_int8(source: Path, target: Path, known: dict[str, tuple[float, float]]) -> None:
    """Writes the ONNX file `source` with its convolutions in 8-bit integers, in QDQ format.

    Args:
        known: the result of `ranges`.
    """
    graph = onnx.load(source).graph
    convolutions = {node.name: node.input[1] for node in graph.node if node.op_type == "Conv"}
    overrides: dict[str, list[dict[str, Any]]] = {}
    skipped = []
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        name = convolutions[node.name].removesuffix(".weight")
        if f"{name}.before" not in known:
            skipped.append(node.name)
            continue
        for tensor, side in ((node.input[0], "before"), (node.output[0], "after")):
            if f"{name}.{side}" in known:
                low, high = known[f"{name}.{side}"]
                bounds = {"rmin": np.float32(low), "rmax": np.float32(high)}
                overrides.setdefault(tensor, [bounds])
    with tempfile.TemporaryDirectory() as folder:
        unfinished = Path(folder) / target.name
        quantize_static(
            str(source),
            str(unfinished),
            _OneSample(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Clip"],
            nodes_to_exclude=skipped,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"TensorQuantOverrides": overrides},
        )
        target.write_bytes(unfinished.read_bytes())


class _OneSample(CalibrationDataReader):  # type: ignore[misc]
    """Gives ONNX Runtime a sample to measure ranges on; they are all overridden."""

    def __init__(self) -> None:
        shape = {name: (1, channels, 256, 256) for name, channels in CHANNELS.items()}
        self._samples = iter([{name: np.zeros(size, np.float32) for name, size in shape.items()}])

    def get_next(self) -> Any:
        return next(self._samples, None)
