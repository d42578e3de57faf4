"""Losses that mean the same for one worker and for many, and for a batch in one part and in many.

A loss returns the share of the samples at hand times the number of workers: DDP averages gradients over workers, and
the gradients of a worker's parts are added up, so the result is the loss of the whole batch. What a loss divides by is
counted over the whole batch (`harness.batch_parts`).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.batch_parts import over_batch, rows_of_share
from harness.data.base import IGNORED
from harness.distributed import world_size

CrossEntropyReduction = Literal["mean", "pixel_sum"]
DiceReduction = Literal["sum", "mean", "sum_at_2"]


class LossParts(NamedTuple):
    """Shares of the samples at hand, see the module's first lines."""

    cross_entropy: Tensor
    dice: Tensor


def target_for(logits: Tensor, target: Tensor) -> Tensor:
    """`target (B, H, W)` itself for logits of its size, else each class's bilinear share `(B, K, h, w)` of a cell."""
    if logits.shape[2:] == target.shape[1:]:
        return target
    truth = F.one_hot(target, logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    return F.interpolate(truth, size=logits.shape[2:], mode="bilinear", align_corners=False)


def weighted_cross_entropy(
    logits: Tensor,
    target: Tensor,
    class_weights: tuple[float, ...],
    *,
    reduction: CrossEntropyReduction = "mean",
) -> Tensor:
    """Class-weighted cross entropy over all pixels of the whole batch.

    Args:
        logits: `(B, K, h, w)`; at another size than the target's they are compared with the target's bilinear shares.
        target: `(B, H, W)` int64 classes.
        class_weights: One weight per class.
        reduction: `mean` is `sum w[y] * nll / sum w[y]`; `pixel_sum` is `sum w[y] * nll / number of samples`.
    """
    weight = torch.tensor(class_weights, device=logits.device)
    truth = target_for(logits, target)
    summed = F.cross_entropy(logits, truth, weight=weight, reduction="sum")
    if reduction == "pixel_sum":
        return summed / rows_of_share(len(logits)).share

    def weigh(rows: Tensor) -> Tensor:
        found = truth if rows is target else target_for(logits, rows)
        hard = found.dim() == rows.dim()
        counts = torch.bincount(found.flatten(), minlength=weight.numel()) if hard else found.sum((0, 2, 3))
        return (weight * counts).sum()

    key = ("weights of pixels", class_weights, logits.shape[2:])
    return summed * world_size() / over_batch(weigh, target, key=key)


def labelled_cross_entropy(logits: Tensor, target: Tensor, class_weights: tuple[float, ...] | None = None) -> Tensor:
    """Class-weighted cross entropy over the labelled pixels of the whole batch, in 32-bit precision.

    Args:
        logits: `(B, K, H, W)`.
        target: `(B, H, W)` int64 classes, 255 where there is none.
        class_weights: One weight per class; None for equal ones.

    Returns:
        `sum w[y] * nll / sum w[y]`; 0 for a batch without labelled pixels.
    """
    weight = None if class_weights is None else torch.tensor(class_weights, device=logits.device)
    summed = F.cross_entropy(logits.float(), target, weight=weight, reduction="sum", ignore_index=IGNORED)

    def weigh(rows: Tensor) -> Tensor:
        labelled = rows[rows != IGNORED]
        if weight is None:
            return torch.tensor(float(labelled.numel()), device=logits.device)
        return weight[labelled].sum()

    counted = over_batch(weigh, target, key=("weights of labelled pixels", class_weights))
    return summed * world_size() / counted.clamp(min=1e-6)


def dice(logits: Tensor, target: Tensor, *, reduction: DiceReduction, smooth: float = 1e-6) -> Tensor:
    """`1 - (2 I + s) / (P + T + s)` per sample and class on softmax scores, reduced over the whole batch.

    `sum` adds over samples and classes, so it grows with the batch: the published RMSIN and MAFN loss. `mean` averages.
    `sum_at_2` is what RMSIN's documented command (2 images per GPU) makes of `sum`: the mean times 2 samples and K
    classes.
    """
    scores = logits.softmax(1)
    num_classes = logits.shape[1]
    truth = target_for(logits, target)
    if truth.dim() == target.dim():
        truth = F.one_hot(truth, num_classes).movedim(-1, 1).to(scores.dtype)
    both = (scores * truth).sum((2, 3))
    either = scores.sum((2, 3)) + truth.sum((2, 3))
    losses = 1 - (2 * both + smooth) / (either + smooth)  # (B, K)
    if reduction == "sum":
        return losses.sum() * world_size()
    mean = losses.sum() / (rows_of_share(len(logits)).share * num_classes)
    return mean * (2 * num_classes if reduction == "sum_at_2" else 1)


def segmentation_loss(
    logits: Tensor,
    target: Tensor,
    *,
    class_weights: tuple[float, ...],
    reduction: DiceReduction,
    ce_reduction: CrossEntropyReduction = "mean",
) -> LossParts:
    """Both terms in 32-bit precision, whatever autocast made of the logits."""
    exact = logits.float()
    return LossParts(
        weighted_cross_entropy(exact, target, class_weights, reduction=ce_reduction),
        dice(exact, target, reduction=reduction),
    )
