"""One process, or several that torchrun started, each with its share of every batch."""

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Processes:
    """This process among those of the training."""

    rank: int
    count: int
    device: torch.device

    @classmethod
    def join(cls, on_cpu: bool = False) -> "Processes":
        """Meets the others of torchrun's environment: NCCL where there is CUDA, else gloo."""
        rank, count, local = (
            int(os.environ.get(name, default))
            for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
        )
        device = torch.device("cpu")
        if torch.cuda.is_available() and not on_cpu:
            device = torch.device("cuda", local)
            torch.cuda.set_device(device)
        if count > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(rank, count, device)

    def leave(self) -> None:
        """Parts from the others, when all have come so far: one that only goes may end in abort."""
        if self.count > 1:
            dist.barrier()
            dist.destroy_process_group()

    def wrap(self, module: nn.Module) -> nn.Module:
        """The same module, its gradients averaged over the processes; call it, not the module."""
        if self.count == 1:
            return module
        for part in module.modules():
            if type(part) is nn.BatchNorm2d:
                part.__class__ = SharedBatchNorm2d
        # Buffers follow from what all processes share.
        return DistributedDataParallel(module, forward_sync_buffers=False)

    def mean(self, values: dict[str, Tensor]) -> dict[str, float]:
        """Each scalar's mean over the processes."""
        stacked = torch.stack([value.detach().float() for value in values.values()])
        if self.count > 1:
            dist.all_reduce(stacked)
        return dict(zip(values, (stacked / self.count).tolist(), strict=True))

    def any(self, flag: bool) -> bool:
        """Whether it is set in any process."""
        if self.count == 1:
            return flag
        flags = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(flags)
        return bool(flags > 0)


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Normalises by the statistics of all processes' shares, as one process would of the batch.

    `nn.SyncBatchNorm` does so on GPUs alone.
    """

    def forward(self, x: Tensor) -> Tensor:
        """NxCxHxW; the same shape and type. In training every process has the same N, H and W."""
        if not self.training:
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mean = _mean(wide.mean(dim=(0, 2, 3)))
        variance = _mean((wide - mean[:, None, None]).square().mean(dim=(0, 2, 3)))
        self._remember(mean.detach(), variance.detach(), x.numel() // x.shape[1])
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return ((wide - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]).to(
            x.dtype
        )

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, share: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        count = share * dist.get_world_size()
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * count / (count - 1), self.momentum)


def _mean(x: Tensor) -> Tensor:
    """Over the processes, with a gradient."""
    summed: Tensor = _Sum.apply(x)
    return summed / dist.get_world_size()


class _Sum(torch.autograd.Function):
    """Over the processes; so is its gradient, since each process's result depends on all."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total
