"""Losses against plain sums, for logits of the target's size and of a smaller one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.losses import segmentation_loss, target_for, weighted_cross_entropy


@pytest.fixture
def target() -> Tensor:
    return (torch.rand(3, 16, 24, generator=torch.Generator().manual_seed(0)) < 0.3).long()


@pytest.fixture
def score() -> Tensor:
    return torch.randn(3, 1, 16, 24, generator=torch.Generator().manual_seed(1))


def two_classes(score: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(score), score], dim=1)


def test_pixel_sum_is_the_published_sigmoid_loss(score: Tensor, target: Tensor) -> None:
    found = weighted_cross_entropy(two_classes(score), target, (1.0, 1.0), reduction="pixel_sum")
    plain = F.binary_cross_entropy_with_logits(score[:, 0], target.float(), reduction="none")
    torch.testing.assert_close(found, plain.sum((1, 2)).mean())


def test_mean_is_weighted_by_class(score: Tensor, target: Tensor) -> None:
    logits = two_classes(score)
    expected = F.cross_entropy(logits, target, weight=torch.tensor([0.9, 1.1]))
    torch.testing.assert_close(weighted_cross_entropy(logits, target, (0.9, 1.1)), expected)


@pytest.mark.parametrize("reduction", ["mean", "pixel_sum"])
def test_smaller_logits_meet_bilinear_shares(score: Tensor, target: Tensor, reduction: str) -> None:
    small = score[:, :, ::4, ::4]
    share = F.interpolate(target[:, None].float(), size=(4, 6), mode="bilinear", align_corners=False)
    assert 0 < share[share > 0].min() < 1
    plain = -(share * F.logsigmoid(small) * 1.1 + (1 - share) * F.logsigmoid(-small) * 0.9)
    over = (share * 1.1 + (1 - share) * 0.9).sum() if reduction == "mean" else 3
    found = weighted_cross_entropy(two_classes(small), target, (0.9, 1.1), reduction=reduction)
    torch.testing.assert_close(found, plain.sum() / over)


def test_shares_are_of_all_classes_and_only_for_another_size(score: Tensor, target: Tensor) -> None:
    assert target_for(two_classes(score), target) is target
    shares = target_for(two_classes(score[:, :, ::2, ::2]), target)
    torch.testing.assert_close(shares.sum(1), torch.ones(3, 8, 12))


def test_dice_of_smaller_logits(score: Tensor, target: Tensor) -> None:
    small = two_classes(score[:, :, ::2, ::2])
    parts = segmentation_loss(small, target, class_weights=(1.0, 1.0), reduction="mean", ce_reduction="pixel_sum")
    shares, scores = target_for(small, target), small.softmax(1)
    ratio = 2 * (shares * scores).sum((2, 3)) / (shares.sum((2, 3)) + scores.sum((2, 3)))
    torch.testing.assert_close(parts.dice, 1 - ratio.mean())
