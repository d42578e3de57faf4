"""Two workers with half a batch each compute what one worker computes with the whole batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.distributed import SharedBatchNorm, broadcast, gather, rank, share_batch_norm, total, world_size
from harness.losses import segmentation_loss, weighted_cross_entropy
from tests.workers import run_workers

BATCH = 4


def batch_normed() -> dict[str, Tensor]:
    """Outputs, gradients and running statistics of a normalised batch, of which each worker holds its part."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (
        torch.randn(BATCH, 3, 5, 6, generator=generator) * 2 + 1,
        torch.randn(BATCH, 3, 5, 6, generator=generator),
    )
    share = BATCH // world_size()
    mine = slice(rank() * share, (rank() + 1) * share)
    model = nn.Sequential(nn.BatchNorm2d(3))
    nn.init.uniform_(model[0].weight, generator=torch.Generator().manual_seed(1))
    share_batch_norm(model, torch.device("cpu"))
    part = x[mine].clone().requires_grad_()
    out = model(part)
    (out * weight[mine]).sum().backward()
    assert isinstance(model[0], nn.modules.batchnorm._BatchNorm)
    assert part.grad is not None
    return {
        "out": out.detach(),
        "grad": part.grad,
        "weight_grad": total(model[0].weight.grad),
        "mean": model[0].running_mean,
        "var": model[0].running_var,
    }


def losses() -> dict[str, Tensor]:
    """The loss and its gradient, averaged over workers as DDP averages gradients."""
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(BATCH, 2, 7, 8, generator=generator)
    target = (torch.rand(BATCH, 7, 8, generator=generator) < 0.3 * torch.arange(BATCH).view(-1, 1, 1)).long()
    share = BATCH // world_size()
    mine = slice(rank() * share, (rank() + 1) * share)
    found: dict[str, Tensor] = {}
    for reduction in ("sum", "mean", "sum_at_2"):
        part = logits[mine].clone().requires_grad_()
        parts = segmentation_loss(part, target[mine], class_weights=(0.9, 1.1), reduction=reduction)
        loss = 0.9 * parts.cross_entropy + 0.1 * parts.dice
        loss.backward()
        assert part.grad is not None
        found[f"{reduction} loss"] = total(loss) / world_size()
        found[f"{reduction} grad"] = part.grad / world_size()
    for ce_reduction in ("mean", "pixel_sum"):
        part = logits[mine, :, ::2, ::2].clone().requires_grad_()  # smaller than the target, so compared with shares
        loss = weighted_cross_entropy(part, target[mine], (0.9, 1.1), reduction=ce_reduction)
        loss.backward()
        assert part.grad is not None
        found[f"small {ce_reduction} loss"] = total(loss) / world_size()
        found[f"small {ce_reduction} grad"] = part.grad / world_size()
    return found


def objects() -> dict[str, Any]:
    """What workers hand to each other."""
    return {"gathered": gather([rank(), 10 + rank()]), "first": broadcast({"rank": rank()})}


def everything() -> dict[str, Any]:
    """All of the above in one start of the workers."""
    return {"norm": batch_normed(), "losses": losses(), "objects": objects()}


@pytest.fixture(scope="module")
def two() -> list[dict[str, Any]]:
    return run_workers(everything, num_workers=2)


def test_batch_norm_covers_all_workers(two: list[dict[str, Any]]) -> None:
    one = batch_normed()
    for name in ("out", "grad"):
        joined = torch.cat([worker["norm"][name] for worker in two])
        torch.testing.assert_close(joined, one[name], atol=1e-5, rtol=1e-5, msg=name)
    for name in ("weight_grad", "mean", "var"):
        for worker in two:
            torch.testing.assert_close(worker["norm"][name], one[name], atol=1e-5, rtol=1e-5, msg=name)


def test_loss_covers_all_workers(two: list[dict[str, Any]]) -> None:
    for name, expected in losses().items():
        parts = [worker["losses"][name] for worker in two]
        joined = torch.cat(parts) if name.endswith("grad") else parts[0]
        torch.testing.assert_close(joined, expected, atol=1e-6, rtol=1e-5, msg=name)


def test_objects_travel_in_rank_order(two: list[dict[str, Any]]) -> None:
    assert [worker["objects"]["gathered"] for worker in two] == [[0, 10, 1, 11]] * 2
    assert [worker["objects"]["first"] for worker in two] == [{"rank": 0}] * 2
    assert objects() == {"gathered": [0, 10], "first": {"rank": 0}}


def test_shared_batch_norm_is_batch_norm_alone() -> None:
    x = torch.randn(3, 4, 5)
    shared, plain = SharedBatchNorm(4), nn.BatchNorm1d(4)
    torch.testing.assert_close(shared(x), plain(x))
    torch.testing.assert_close(shared.eval()(x), plain.eval()(x))
    with pytest.raises(ValueError, match="at least 2 dimensions"):
        shared(torch.zeros(4))


def test_statistics_of_half_precision_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in `BatchNorm2d`; two workers are pretended, of which this one holds everything."""
    monkeypatch.setattr("harness.distributed.world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.all_reduce", lambda value: value)
    x = (torch.randn(3, 4, 64, 64, generator=torch.Generator().manual_seed(0)) + 5).bfloat16()
    shared, plain = SharedBatchNorm(4), nn.BatchNorm2d(4)
    found, expected = shared(x), plain(x)
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(shared.running_mean, plain.running_mean)
    torch.testing.assert_close(shared.running_var, plain.running_var)
