"""What a trial needs of its process group, so that a result does not depend on how many workers share a batch.

Every function works in a single process without a process group. The group itself is made by whoever starts the trial.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from harness.errors import HarnessError, TrialError, TrialStopped

T = TypeVar("T")


def rank() -> int:
    """This worker's index, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of workers, at least 1."""
    return dist.get_world_size() if dist.is_initialized() else 1


def total(value: Tensor) -> Tensor:
    """Sum of `value` over all workers, without gradient."""
    found = value.detach().clone()
    if world_size() > 1:
        dist.all_reduce(found)
    return found


def gather(values: list[T]) -> list[T]:
    """The lists of all workers, joined in the order of their ranks, on every worker."""
    if world_size() == 1:
        return values
    parts: list[list[T]] = [[] for _ in range(world_size())]
    dist.all_gather_object(parts, values)
    return [value for part in parts for value in part]


def broadcast(value: T) -> T:
    """The value that worker 0 holds, on every worker."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def on_worker_0(action: Callable[[], T]) -> T:
    """What `action()` returns on worker 0, on every worker; what it raises there is raised on every worker.

    So that no worker waits for others that have ended: what worker 0 alone does with files is done in here.
    """
    if world_size() == 1:
        return action()
    found: Any = None
    failed: Exception | None = None
    if rank() == 0:
        try:
            found = action()
        except Exception as error:  # noqa: BLE001 -- raised below, once the others know
            failed = error
    kind, text, value = broadcast((_kind_of(failed), str(failed), found))
    if failed is not None:
        raise failed
    if kind is not None:
        raise kind(text)
    result: T = value
    return result


def _kind_of(error: Exception | None) -> type[Exception] | None:
    """What the other workers raise: an exception of ours keeps its type, whatever else may not survive the journey."""
    if error is None or isinstance(error, (HarnessError, TrialError, TrialStopped)):
        return None if error is None else type(error)
    return TrialError


class _SumOverWorkers(torch.autograd.Function):
    """Sum over workers whose gradient is the sum of the workers' gradients."""

    @staticmethod
    def forward(_ctx: Any, value: Tensor) -> Tensor:
        summed = value.clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(_ctx: Any, *grads: Tensor) -> Tensor:
        summed = grads[0].clone()
        dist.all_reduce(summed)
        return summed


class SharedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation with the statistics of the whole batch over all workers, on any device.

    `torch.nn.SyncBatchNorm` does this on GPUs only. Parameters, buffers and evaluation are those of `BatchNorm1d/2d`.
    """

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 -- the name is torch's
        if input.dim() < 2:
            raise ValueError(f"batch norm input must have at least 2 dimensions, got {input.dim()}")

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `(B, C, ...)` over all axes but the second; statistics are 32-bit, as in `BatchNorm2d`."""
        if not self.training or world_size() == 1:
            return super().forward(x)
        dtype, x = x.dtype, x.float()
        axes = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        count = total(torch.tensor(float(x.numel() // x.shape[1]), device=x.device))
        mean = _SumOverWorkers.apply(x.sum(axes)) / count
        centred = x - mean.view(shape)
        var = _SumOverWorkers.apply(centred.square().sum(axes)) / count
        self._update_running(mean.detach(), var.detach() * count / (count - 1))
        out = centred * (var + self.eps).rsqrt().view(shape)
        scaled: Tensor = out * self.weight.view(shape) + self.bias.view(shape) if self.affine else out
        return scaled.to(dtype)

    def _update_running(self, mean: Tensor, unbiased_var: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(unbiased_var, momentum)


def share_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Replace every batch norm by one over the batches of all workers; the state dict keeps its names."""
    if world_size() == 1:
        return model
    if device.type == "cuda":
        synced: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]  # torch's
        return synced
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.modules.batchnorm._BatchNorm) and not isinstance(child, SharedBatchNorm):
                shared = SharedBatchNorm(
                    child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
                )
                shared.load_state_dict(child.state_dict())
                setattr(module, name, shared.to(device))
    return model
