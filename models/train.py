"""Trains a generator: `python -m models.train CONFIG DATA OUT`.

Writes OUT/checkpoint.pt every few minutes and at Ctrl-C, goes on from it when started again, and
logs losses and pictures for TensorBoard (`tensorboard --logdir OUT`).
"""

import argparse
import math
import os
import shutil
import signal
import time
import tomllib
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torch.utils.tensorboard import SummaryWriter

from models.dataset import Crops, ReferenceMix
from models.losses import detail_loss, log_error
from models.networks.lite import Lite, LiteConfig
from models.quantize import measure, quantize
from receiver.generator import CHANNELS

MEASURED_BATCHES = 16
"""Batches that a quantised network's ranges are measured on."""


@dataclass(frozen=True)
class TrainConfig:
    """A file of `models/configs/`, read by `load_config`."""

    steps: int = 30_000
    batch: int = 16
    side: int = 128  # pixels of the training crops, cut from the 256x256 ones
    learning_rate: float = 5e-4
    warmup: int = 500
    clip_gradient: float = 1.0
    ema: float = 0.999
    align_weight: float = 0.2
    detail_weight: float = 0.1
    seed: int = 0
    workers: int = 1
    bfloat16: bool = True
    quantized: bool = False  # a last stage, in 8-bit integers: see models/quantize.py
    checkpoint_minutes: float = 3.0
    mix: ReferenceMix = field(default_factory=ReferenceMix)
    network: LiteConfig = field(default_factory=LiteConfig)


def load_config(path: Path) -> TrainConfig:
    """Reads a TOML file. Raises TypeError for a key that does not exist."""
    values: dict[str, Any] = tomllib.loads(path.read_text())
    mix = ReferenceMix(**values.pop("mix", {}))
    widths = {key: tuple(value) for key, value in values.pop("network", {}).items()}
    return TrainConfig(**values, mix=mix, network=LiteConfig(**widths))


class Trainer:
    """One training run and its folder."""

    def __init__(
        self, config: TrainConfig, data: Path, out: Path, start: Path | None = None
    ) -> None:
        """`start` is another run's folder, whose averaged weights to begin with."""
        torch.manual_seed(config.seed)
        self.config, self.out = config, out
        self.step, self.earlier_steps = 0, 0
        self.seconds = 0.0
        self.network = Lite(config.network).to(memory_format=torch.channels_last)
        if start is not None:
            self._begin_with(start)
        if config.quantized:
            quantize(self.network)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, weight_decay=1e-4
        )
        self.ema = {name: value.clone() for name, value in self.network.state_dict().items()}
        self.crops = Crops(data, config.steps * config.batch, config.side, config.mix, config.seed)
        out.mkdir(parents=True, exist_ok=True)
        self.checkpoint = out / "checkpoint.pt"
        if self.checkpoint.exists():
            self._resume()
        elif config.quantized:
            self._measure_ranges()

    def run(self) -> None:
        """Trains to the end of the schedule; saves before it passes an exception on."""
        log = SummaryWriter(str(self.out), purge_step=self.step)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[loss]}")) as bar:
            task = bar.add_task("training", total=self.config.steps, completed=self.step, loss="")
            try:
                self._epoch(log, lambda loss: bar.update(task, completed=self.step, loss=loss))
            finally:
                self.save()
                log.close()

    def save(self) -> None:
        """Writes the checkpoint; an interruption leaves the older one whole."""
        unfinished = self.checkpoint.with_suffix(".part")
        state = {
            "step": self.step,
            "earlier_steps": self.earlier_steps,  # of the run it was started from
            "seconds": self.seconds,  # of both
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema,
            "clips": self.crops.clips,
        }
        torch.save(state, unfinished)
        os.replace(unfinished, self.checkpoint)

    def _begin_with(self, start: Path) -> None:
        state = torch.load(start / "checkpoint.pt", weights_only=True)
        result = self.network.load_state_dict(state["ema"], strict=False)
        self.seconds = state["seconds"]
        self.earlier_steps = state["step"] + state.get("earlier_steps", 0)
        if result.unexpected_keys:
            raise ValueError(f"{start} has parts that the network lacks: {result.unexpected_keys}")
        if result.missing_keys:
            print(f"new parts, not in {start}: {len(result.missing_keys)} tensors")

    def _resume(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema, self.step, self.seconds = state["ema"], state["step"], state["seconds"]
        self.earlier_steps = state["earlier_steps"]

    def _measure_ranges(self) -> None:
        batches = islice(DataLoader(self.crops, self.config.batch), MEASURED_BATCHES)
        measure(self.network, (tuple(batch[name] for name in CHANNELS) for batch in batches))
        self.ema = {name: value.clone() for name, value in self.network.state_dict().items()}

    def _epoch(self, log: SummaryWriter, show: Any) -> None:
        rest = Subset(self.crops, range(self.step * self.config.batch, len(self.crops)))
        loader = DataLoader(rest, self.config.batch, num_workers=self.config.workers)
        began, saved, before = time.monotonic(), time.monotonic(), self.seconds
        for batch in loader:
            losses = self._update(batch)
            self.step += 1
            self.seconds = before + time.monotonic() - began
            if self.step % 100 == 0:
                for name, value in losses.items():
                    log.add_scalar(name, value.item(), self.step)
                show(
                    f"loss {losses['loss'].item():.4f}, gain {losses['gain_db'].item():.2f} dB, "
                    f"detail {losses['detail'].item():.4f}"
                )
            if self.step % 1000 == 0:
                self._log_pictures(log, batch)
            if time.monotonic() - saved > 60 * self.config.checkpoint_minutes:
                self.save()
                saved = time.monotonic()

    def _update(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        self.optimizer.zero_grad(set_to_none=True)
        losses = self._losses(batch)
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_gradient)
        self.optimizer.step()
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                self.ema[name].lerp_(value, 1.0 - decay)
        return losses

    def _losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        degraded, target, guided = batch["degraded"], batch["target"], batch["guided"]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.bfloat16):
            restored, aligned = self._forward(batch)
        restored, aligned = restored.float(), aligned.float()
        pixels = log_error(restored - target)
        detail = detail_loss(restored, target)
        # Only where there is a reference can it be aligned.
        align = ((aligned - target).abs().mean(dim=(1, 2, 3)) * guided).mean()
        with torch.no_grad():
            before, after = ((x - target).square().mean() for x in (degraded, restored))
        return {
            "loss": pixels + self.config.align_weight * align + self.config.detail_weight * detail,
            "pixels": pixels.detach(),
            "detail": detail.detach(),
            "align": align.detach(),
            "gain_db": 10 * torch.log10(before / after),
        }

    def _forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        inputs = (batch[name].to(memory_format=torch.channels_last) for name in CHANNELS)
        result: tuple[Tensor, Tensor] = self.network.forward_aligned(*inputs)
        return result

    def _learning_rate(self) -> float:
        """Linear warm-up, then half a cosine down to a hundredth."""
        config = self.config
        if self.step < config.warmup:
            return config.learning_rate * (self.step + 1) / config.warmup
        done = (self.step - config.warmup) / max(1, config.steps - config.warmup)
        return config.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))

    @torch.no_grad()
    def _log_pictures(self, log: SummaryWriter, batch: dict[str, Tensor]) -> None:
        restored, aligned = self._forward(batch)
        rows = [batch["degraded"], batch["reference"], aligned, restored, batch["target"]]
        sheet = torch.cat([torch.cat(list(row[:6]), dim=2) for row in rows], dim=1)
        log.add_image("degraded reference aligned restored target", sheet.clamp(0, 1), self.step)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("config", type=Path, help="for example models/configs/lite.toml")
    parser.add_argument("data", type=Path, help="folder of shards, from python -m models.prepare")
    parser.add_argument("out", type=Path, help="folder for checkpoint and logs")
    parser.add_argument(
        "--start-from", type=Path, metavar="RUN", help="begin with another run's weights"
    )
    args = parser.parse_args()
    try:
        trainer = Trainer(load_config(args.config), args.data, args.out, args.start_from)
        shutil.copyfile(args.config, args.out / "config.toml")
    except (OSError, TypeError, ValueError, tomllib.TOMLDecodeError) as error:
        parser.error(str(error))
    # A training in the background is stopped by SIGTERM; both ways keep the checkpoint.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        trainer.run()
    except KeyboardInterrupt:
        print(f"stopped at step {trainer.step}; the same command goes on from there")
    else:
        print(f"done after {trainer.seconds / 60:.0f} minutes: python -m models.export {args.out}")


if __name__ == "__main__":
    main()
