"""Dropout whose random draws do not depend on how a batch is split over workers and into parts.

Every draw is made for the rows of the whole batch (all workers together) from one generator that each worker seeds
alike for each step and again for each part of its batch, and the rows at hand are kept: row `r` of the batch is treated
the same on one worker as on eight. Workers hold equal numbers of rows, worker 0 the first ones.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from harness.batch_parts import rows_of_share

_GENERATOR = torch.Generator(device="cpu")


def seed_model_noise(seed: int) -> None:
    """Restart the draws; call it with the same seed on every worker before each part of a training step."""
    _GENERATOR.manual_seed(seed)


def draw_kept(rows: int, *, features: int, keep: float) -> Tensor:
    """Draw which features of the rows at hand are kept.

    Args:
        rows: Rows of this worker's batch, or of the part of it that is being computed.
        features: Independent draws per row.
        keep: Probability of keeping, 0 to 1.

    Returns:
        `(rows, features)` bool on the CPU.
    """
    distributed = dist.is_available() and dist.is_initialized()
    rank, num_workers = (dist.get_rank(), dist.get_world_size()) if distributed else (0, 1)
    first, share = rows_of_share(rows)
    draws = torch.rand(num_workers * share, features, generator=_GENERATOR, device="cpu")
    return draws[rank * share + first :][:rows] < keep


class DropPath(nn.Module):
    """Drop a residual branch for whole samples (stochastic depth, Huang et al. 2016).

    Args:
        probability: Of dropping, 0 to below 1; kept branches are divided by the probability of keeping.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """Return `x (B, ...)` with the rows of some samples zeroed, in training mode only."""
        if not self.training or self.probability == 0.0:
            return x
        keep = 1.0 - self.probability
        kept = draw_kept(x.shape[0], features=1, keep=keep).to(device=x.device, dtype=x.dtype)
        return x * (kept / keep).view(-1, *[1] * (x.dim() - 1))

    def add(self, x: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:
        """Return `x + self(branch(x))` for a branch that treats the samples of `x (B, ...)` one by one.

        On a CPU the branch is not computed for the samples that drop it. One is, with weight 0, if all do: every
        parameter has a gradient, as DDP expects.
        """
        if not self.training or self.probability == 0.0:
            return x + branch(x)
        keep = 1.0 - self.probability
        kept = draw_kept(x.shape[0], features=1, keep=keep)[:, 0]
        factors = kept.to(x.dtype).view(-1, *[1] * (x.dim() - 1)) / keep
        if x.device.type != "cpu" or bool(kept.all()):
            return torch.addcmul(x, branch(x), factors.to(x.device))
        rows = kept.nonzero()[:, 0] if bool(kept.any()) else torch.zeros(1, dtype=torch.long)
        return x.index_add(0, rows, branch(x[rows]) * factors[rows])


class Dropout(nn.Module):
    """Drop single features of a batch of vectors.

    Args:
        probability: Of dropping, 0 to below 1; kept features are divided by the probability of keeping.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """Return `x (B, C)` with some features zeroed, in training mode only."""
        if not self.training or self.probability == 0.0:
            return x
        keep = 1.0 - self.probability
        kept = draw_kept(x.shape[0], features=x.shape[1], keep=keep).to(device=x.device, dtype=x.dtype)
        return x * (kept / keep)
