"""The processes of a training: one, or several that torchrun started and that share each batch."""

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Processes:
    """This process and the number of processes in the training."""

    rank: int
    count: int
    device: torch.device

    @classmethod
    def join(cls, on_cpu: bool = False) -> "Processes":
        """Joins the group that torchrun's environment describes, through NCCL on CUDA, else gloo.

        Args:
            on_cpu: use the CPU even if CUDA is available.
        """
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
        """Leaves the group after all processes have arrived here; leaving early can abort them."""
        if self.count > 1:
            dist.barrier()
            dist.destroy_process_group()

    def wrap(self, module: nn.Module) -> nn.Module:
        """Returns a module that averages its gradients over the processes.

        Call the returned module, not the one passed in.
        """
        if self.count == 1:
            return module
        for part in module.modules():
            if type(part) is nn.BatchNorm2d:
                part.__class__ = SharedBatchNorm2d
        # SharedBatchNorm2d keeps the buffers of all processes equal.
        return DistributedDataParallel(module, forward_sync_buffers=False)

    def mean(self, values: dict[str, Tensor]) -> dict[str, float]:
        """Returns the mean of each scalar over the processes."""
        stacked = torch.stack([value.detach().float() for value in values.values()])
        if self.count > 1:
            dist.all_reduce(stacked)
        return dict(zip(values, (stacked / self.count).tolist(), strict=True))

    def any(self, flag: bool) -> bool:
        """Returns whether the flag is set in any process."""
        if self.count == 1:
            return flag
        flags = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(flags)
        return bool(flags > 0)


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Normalises with the statistics of the whole batch, over all processes.

    `nn.SyncBatchNorm` does the same on GPUs only.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Maps NxCxHxW to the same shape and type.

        In training, N, H and W must be equal in all processes.
        """
        if not self.training:
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mean = _mean(wide.mean(dim=(0, 2, 3)))
        variance = _mean((wide - mean[:, None, None]).square().mean(dim=(0, 2, 3)))
        self._update_running(mean.detach(), variance.detach(), x.numel() // x.shape[1])
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return ((wide - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]).to(
            x.dtype
        )

    @torch.no_grad()
    def _update_running(self, mean: Tensor, variance: Tensor, values: int) -> None:
        """Updates the running statistics; `values` is this process's number a channel."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        count = values * dist.get_world_size()
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * count / (count - 1), self.momentum)


def _mean(x: Tensor) -> Tensor:
    """Returns the mean over the processes, with a gradient."""
    summed: Tensor = _Sum.apply(x)  # type: ignore[no-untyped-call]
    return summed / dist.get_world_size()


class _Sum(torch.autograd.Function):
    """Sums over the processes. Its gradient is summed too: each result depends on all inputs."""

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
