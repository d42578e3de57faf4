"""The loss against tensors computed with the published implementation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from harness.losses import segmentation_loss

FILE = Path(__file__).resolve().parents[3] / "shared/data/parity/loss_ce_dice.npz"

pytestmark = pytest.mark.skipif(not FILE.exists(), reason="reference tensors are not beside this checkout")


@pytest.fixture(scope="module")
def stored() -> dict[str, np.ndarray]:
    with np.load(FILE, allow_pickle=False) as file:
        return dict(file)


def total_loss(logits: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    parts = segmentation_loss(logits, target, class_weights=(0.9, 1.1), reduction="sum")
    return 0.9 * parts.cross_entropy + 0.1 * parts.dice, parts.cross_entropy, parts.dice


def test_values_and_gradients(stored: dict[str, np.ndarray]) -> None:
    logits = torch.from_numpy(stored["in/logits"]).requires_grad_()
    target = torch.from_numpy(stored["in/target"])
    loss, ce, dice = total_loss(logits, target)
    for name, value in (("loss", loss), ("ce", ce), ("dice", dice)):
        assert value.item() == pytest.approx(stored[f"out/{name}"].item(), abs=1e-5), name
    ce_only = torch.autograd.grad(ce, logits, retain_graph=True)[0]
    (gradient,) = torch.autograd.grad(loss, logits)
    np.testing.assert_allclose(gradient, stored["grad/logits"], atol=1e-7)
    np.testing.assert_allclose(ce_only, stored["grad/logits_ce_only"], atol=1e-7)


def test_dice_sums_over_the_batch(stored: dict[str, np.ndarray]) -> None:
    logits, target = torch.from_numpy(stored["in/logits"]), torch.from_numpy(stored["in/target"])
    first, _, _ = total_loss(logits[:1], target[:1])
    assert first.item() == pytest.approx(stored["out/loss_first_sample_only"].item(), abs=1e-5)
