"""Light SAFMN++ for four times the size: the network of a user's weight file.

Sun et al., "Spatially-Adaptive Feature Modulation for Efficient Image Super-Resolution", ICCV 2023;
the light SAFMN++ is its authors' entry of the AIS 2024 challenge on compressed pictures. Written
from the papers and the names and shapes of the weights. It runs in ONNX Runtime.
"""

import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.rivals.contract import threads_in_words
from bench.rivals.resizing import AREA, BICUBIC, as_yuv420p
from keyframes import Picture
from receiver.errors import InputError
from receiver.media.pixels import keep_tags

WIDTH, MIXED, BLOCKS = 32, 48, 2
"""Channels, channels within the mixers, and blocks of the light version."""
SCALE = 4
GRID = 8
"""The modulation is computed at one eighth of the frame's size."""
STATES = ("params_ema", "params")
"""Keys of the state dicts in the authors' files, the averaged weights first."""


class Modulation(nn.Module):
    """Scales half of the channels by what surrounds each place."""

    def __init__(self) -> None:
        super().__init__()
        half = WIDTH // 2
        self.proj = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)
        self.dwconv = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.out = nn.Conv2d(WIDTH, WIDTH, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps NxCxHxW to the same shape."""
        scaled, kept = self.proj(x).chunk(2, dim=1)
        around = self.dwconv(F.max_pool2d(scaled, GRID))  # (N, C/2, H/8, W/8)
        around = F.interpolate(around, scale_factor=float(GRID), mode="bilinear")
        modulated = F.gelu(around) * scaled
        mixed: Tensor = self.out(F.gelu(torch.cat([kept, modulated], dim=1)))
        return mixed


class Mixer(nn.Module):
    """Mixes channels and neighbouring pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(WIDTH, MIXED, 3, padding=1, bias=False),
            nn.GELU(),
            nn.Conv2d(MIXED, WIDTH, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps NxCxHxW to the same shape."""
        mixed: Tensor = self.conv(x)
        return mixed


class Block(nn.Module):
    """Modulation, then mixing."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = Modulation(), Mixer()

    def forward(self, x: Tensor) -> Tensor:
        """Maps NxCxHxW to the same shape."""
        mixed: Tensor = self.conv2(self.conv1(x))
        return mixed


class LightSAFMNPP(nn.Module):
    """The network. H and W must be multiples of 8."""

    def __init__(self) -> None:
        super().__init__()
        self.to_feat = nn.Conv2d(3, WIDTH, 3, padding=1, bias=False)
        self.feats = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.to_img = nn.Sequential(
            nn.Conv2d(WIDTH, 3 * SCALE**2, 3, padding=1, bias=False), nn.PixelShuffle(SCALE)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps Nx3xHxW RGB in [0, 1] to Nx3x4Hx4W, not clipped."""
        x = self.to_feat(x)
        enlarged: Tensor = self.to_img(self.feats(x) + x)
        return enlarged


class LightSafmn:
    """Enlarges frames four times, in RGB, and resizes the result to the size that is asked for."""

    def __init__(self, path: Path, threads: int) -> None:
        """Reads a state dict. Raises InputError if it is not that of this network."""
        self.name = path.stem
        self.runtime = f"ONNX Runtime, {threads_in_words(threads)}"
        network = LightSAFMNPP()
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")
            found = next((state[key] for key in STATES if key in state), state)
            network.load_state_dict(found, strict=True)
        except Exception as error:  # torch raises errors of many kinds
            raise InputError(
                f"{path} does not hold the weights of light SAFMN++ x4: "
                f"{' '.join(str(error).split())[:200]}"
            ) from None
        self._session = _session(network.eval(), threads)

    def show(self, frame: av.VideoFrame, width: int, height: int) -> av.VideoFrame:
        """See `Rival.show`."""
        frame = as_yuv420p(frame)
        rgb: Picture = np.asarray(
            frame.reformat(format="rgb24", interpolation=BICUBIC).to_ndarray(), np.uint8
        )
        enlarged = av.VideoFrame.from_ndarray(self.enlarge(rgb), format="rgb24")
        keep_tags(enlarged, frame)  # libav converts to the colours of the tags
        reduces = width * height < enlarged.width * enlarged.height
        interpolation = AREA if reduces else BICUBIC
        shown = enlarged.reformat(width, height, "yuv420p", interpolation=interpolation)
        keep_tags(shown, frame)
        return shown

    def enlarge(self, rgb: Picture) -> Picture:
        """Returns 4Hx4Wx3 for HxWx3 uint8 RGB; the border is repeated up to multiples of 8."""
        height, width = rgb.shape[:2]
        margins = [(0, -height % GRID), (0, -width % GRID), (0, 0)]
        padded = np.pad(rgb, margins, mode="edge").transpose(2, 0, 1)[None]
        (enlarged,) = self._session.run(None, {"x": padded.astype(np.float32) / np.float32(255.0)})
        cut = enlarged[0, :, : SCALE * height, : SCALE * width].transpose(1, 2, 0)
        pixels = np.clip(np.rint(cut * np.float32(255.0)), 0.0, 255.0).astype(np.uint8)
        return np.ascontiguousarray(pixels)


def _session(network: nn.Module, threads: int) -> Any:
    """Returns a session of ONNX Runtime on the CPU with `x`, 1x3xHxW of any H and W, as input."""
    written = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.rand(1, 3, 2 * GRID, 3 * GRID),),
            written,  # type: ignore[arg-type]  # such files are taken, but not declared
            input_names=["x"],
            output_names=["enlarged"],
            dynamic_axes={"x": {2: "h", 3: "w"}},
            dynamo=False,  # the newer exporter takes ten times as long
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")  # as in a call
    return onnxruntime.InferenceSession(
        written.getvalue(), options, providers=["CPUExecutionProvider"]
    )
