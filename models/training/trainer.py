"""Runs a training: batches, optimizer steps, checkpoints and logs."""

import math
import os
import signal
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torch.utils.tensorboard import SummaryWriter

from models.data.samples import Crops
from models.features import load_features
from models.networks import GeneratorNetwork, build, channels_last
from models.networks.keyframes_gan import KeyframesGAN
from models.quantize import measure, quantize
from models.training.adversary import Adversary
from models.training.config import TrainConfig
from models.training.exported import read_exported
from models.training.objective import Objective
from models.training.parallel import Processes
from receiver.enhance.faces.generator import CHANNELS
from receiver.errors import InputError

MEASURED_BATCHES = 16
"""Batches used to measure the ranges of a quantised network."""
LOG_STEPS, PICTURE_STEPS = 100, 1000
"""Steps between two log lines and between two logged pictures."""


class Trainer:
    """One training run and its folder."""

    def __init__(
        self, config: TrainConfig, data: Path, out: Path, start: Path | None = None
    ) -> None:
        """Resumes from the checkpoint in `out` if there is one, else starts a new run.

        Args:
            data: folder of shards.
            start: initial weights of a new run: another run's folder or an exported ONNX file.

        Raises InputError for a missing weight file and for data of the report set, OSError for
        another missing file and ValueError for data or weights that do not fit.
        """
        torch.manual_seed(config.seed)
        self.config, self.out = config, out
        self.checkpoint = out / "checkpoint.pt"
        self._require_files(start)
        length = config.steps * config.batch
        pairs = config.temporal_weight > 0.0
        self.crops = Crops(
            data, length, config.side, config.mix, config.seed, config.augmentation, pairs
        )
        self.step, self.earlier_steps = 0, 0
        self.seconds = 0.0
        self.stopping = False
        self.processes = Processes.join(on_cpu=config.quantized)
        if config.batch % self.processes.count:
            count, batch = self.processes.count, config.batch
            raise ValueError(f"{count} processes cannot share a batch of {batch} equally")
        if config.temporal_weight and config.batch // self.processes.count % 2:
            count, batch = self.processes.count, config.batch
            raise ValueError(f"{count} processes cannot share the pairs of a batch of {batch}")
        self.network = build(config.network)
        self._load_initial_weights(start)
        if config.quantized:
            quantize(self.network)
        channels_last(self.network, self.processes.device)
        self._aligned = self.processes.wrap(_Aligned(self.network))
        self.optimizer = torch.optim.AdamW(
            [parameter for parameter in self.network.parameters() if parameter.requires_grad],
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
        )
        self.ema = {name: value.clone() for name, value in self.network.state_dict().items()}
        features = self._load_features()
        self.adversary = (
            Adversary(config.scales, config.betas, config.bfloat16, self.processes)
            if config.adversarial_weight or config.matching_weight
            else None
        )
        self.objective = Objective(config, features, self.adversary)
        out.mkdir(parents=True, exist_ok=True)
        if self.checkpoint.exists():
            self._resume()
        elif config.quantized:
            self._measure_ranges()

    def run(self) -> None:
        """Trains until the last step or until `stop`, then saves, even after an exception."""
        first = self.processes.rank == 0
        log = SummaryWriter(str(self.out), purge_step=self.step) if first else None
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[loss]}"),
            disable=not first,
        )
        with bar:
            task = bar.add_task("training", total=self.config.steps, completed=self.step, loss="")
            try:
                self._epoch(log, lambda loss: bar.update(task, completed=self.step, loss=loss))
            finally:
                self.save()
                if log is not None:
                    log.close()

    def stop(self, *_: Any) -> None:
        """Ends `run` after the current step. Can serve as a signal handler."""
        self.stopping = True

    def save(self) -> None:
        """Replaces the checkpoint atomically, so that an interruption keeps the previous one."""
        if self.processes.rank != 0:
            return
        unfinished = self.checkpoint.with_suffix(".part")
        state = {
            "step": self.step,
            "earlier_steps": self.earlier_steps,  # of the run whose weights it started with
            "seconds": self.seconds,  # of both runs
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema,
            "clips": self.crops.clips,
        }
        if self.adversary is not None:
            state["adversary"] = self.adversary.state_dict()
        torch.save(state, unfinished)
        os.replace(unfinished, self.checkpoint)

    def _require_files(self, start: Path | None) -> None:
        """Raises InputError if a weight file that the configuration names is missing."""
        weights = getattr(self.config.network, "weights", "")
        needed = {"features": self.config.features}
        if start is None and not self.checkpoint.exists():
            needed["weights"] = weights
        for setting, file in needed.items():
            if file and not Path(file).is_file():
                raise InputError(
                    f"{file} is missing, which the configuration names as `{setting}`: put "
                    "torchvision's weights there, or name your own file"
                )

    def _load_initial_weights(self, start: Path | None) -> None:
        """Loads the weights of `start`, or those that the configuration names for the backbone."""
        if start is None:
            weights = getattr(self.config.network, "weights", "")
            if weights and isinstance(self.network, KeyframesGAN) and not self.checkpoint.exists():
                self.network.backbone.load(Path(weights))
            return
        if start.suffix == ".onnx":
            weights, self.earlier_steps, minutes = read_exported(start)
            self.seconds = 60.0 * minutes
        else:
            state = torch.load(start / "checkpoint.pt", weights_only=True, map_location="cpu")
            weights, self.seconds = state["ema"], state["seconds"]
            self.earlier_steps = state["step"] + state.get("earlier_steps", 0)
        result = self.network.load_state_dict(weights, strict=False)
        if result.unexpected_keys:
            raise ValueError(
                f"{start} holds tensors that the network lacks: {result.unexpected_keys}"
            )
        if result.missing_keys:
            print(f"{start} lacks {len(result.missing_keys)} tensors: they start untrained")

    def _resume(self) -> None:
        device = self.processes.device
        state = torch.load(self.checkpoint, weights_only=True, map_location=device)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema, self.step, self.seconds = state["ema"], state["step"], state["seconds"]
        self.earlier_steps = state["earlier_steps"]
        if self.adversary is not None:
            self.adversary.load_state_dict(state["adversary"])

    def _load_features(self) -> nn.Module | None:
        if not self.config.features:
            return None
        return load_features(Path(self.config.features)).to(self.processes.device)

    def _measure_ranges(self) -> None:
        batches = islice(DataLoader(self.crops, self.config.batch), MEASURED_BATCHES)
        measure(self.network, (tuple(batch[name] for name in CHANNELS) for batch in batches))
        self.ema = {name: value.clone() for name, value in self.network.state_dict().items()}

    def _loader(self) -> DataLoader[dict[str, Tensor]]:
        """Returns this process's share of all remaining batches."""
        batch, rank = self.config.batch, self.processes.rank
        share = batch // self.processes.count
        rest = range(self.step * batch, len(self.crops))
        mine = [index for index in rest if index % batch // share == rank]
        pinned = self.processes.device.type == "cuda"
        return DataLoader(
            Subset(self.crops, mine),
            share,
            num_workers=self.config.workers,
            pin_memory=pinned,
            worker_init_fn=_ignore_signals,
        )

    def _epoch(self, log: SummaryWriter | None, show: Callable[[str], None]) -> None:
        """Trains on all remaining batches; `show` displays a one-line description of the loss."""
        began, saved, before = time.monotonic(), time.monotonic(), self.seconds
        for batch in self._loader():
            batch = {name: value.to(self.processes.device) for name, value in batch.items()}
            losses = self._update(batch)
            self.step += 1
            self.seconds = before + time.monotonic() - began
            if self.step % LOG_STEPS == 0 or self.step in (1, self.config.steps):
                means = self.processes.mean(losses)
                means["gain_db"] = 10 * math.log10(means.pop("received") / means["mse"])
                show(f"loss {means['loss']:.4f}, gain {means['gain_db']:.2f} dB")
                if log is not None:
                    for name, value in means.items():
                        log.add_scalar(name, value, self.step)
            if self.step % PICTURE_STEPS == 0 and log is not None:
                self._log_pictures(log, batch)
            if time.monotonic() - saved > 60 * self.config.checkpoint_minutes:
                self.save()
                saved = time.monotonic()
            if self.processes.any(self.stopping):
                return

    def _update(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Trains for one step and returns the losses, detached apart from `loss`."""
        learning_rate = self._learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad(set_to_none=True)
        restored, aligned = self._forward(batch)
        losses = self.objective.losses(batch, restored, aligned)
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_gradient)
        self.optimizer.step()
        if self.adversary is not None:
            losses["discriminator"] = self.adversary.learn(
                restored.detach(), batch["target"], learning_rate
            )
        self._average()
        return losses

    @torch.no_grad()
    def _average(self) -> None:
        """Moves the averaged weights towards the current ones and copies the buffers."""
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        weights = dict(self.network.named_parameters())
        for name, value in self.network.state_dict().items():
            if name in weights:
                self.ema[name].lerp_(value, 1.0 - decay)
            else:
                self.ema[name].copy_(value)

    def _forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Returns the restored and the aligned pictures, Nx3xSxS float32."""
        inputs = (batch[name].to(memory_format=torch.channels_last) for name in CHANNELS)
        device = self.processes.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.config.bfloat16):
            restored, aligned = self._aligned(*inputs)
        return restored.float(), aligned.float()

    def _learning_rate(self) -> float:
        """Returns the rate of this step.

        It rises linearly during the warm-up; then it is halved at the configured steps, or follows
        half a cosine down to a hundredth.
        """
        config = self.config
        if self.step < config.warmup:
            return config.learning_rate * (self.step + 1) / config.warmup
        if config.halve_at:
            return config.learning_rate * 0.5 ** sum(self.step >= at for at in config.halve_at)
        done = (self.step - config.warmup) / max(1, config.steps - config.warmup)
        return config.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))

    @torch.no_grad()
    def _log_pictures(self, log: SummaryWriter, batch: dict[str, Tensor]) -> None:
        # In training mode, batch normalisation would wait for the other processes.
        self.network.eval()
        restored, aligned = self.network.forward_aligned(*(batch[name] for name in CHANNELS))
        self.network.train()
        rows = [batch["degraded"], batch["reference"], aligned, restored, batch["target"]]
        sheet = torch.cat([torch.cat(list(row[:6]), dim=2) for row in rows], dim=1)
        log.add_image("degraded reference aligned restored target", sheet.clamp(0, 1), self.step)


def _ignore_signals(_: int) -> None:
    """Keeps a loading worker alive until the end of the step; the trainer decides when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class _Aligned(nn.Module):
    """Makes `forward_aligned` callable: gradients are averaged for calls only."""

    def __init__(self, network: GeneratorNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, degraded: Tensor, reference: Tensor, landmarks: Tensor
    ) -> tuple[Tensor, Tensor]:
        return self.network.forward_aligned(degraded, reference, landmarks)
