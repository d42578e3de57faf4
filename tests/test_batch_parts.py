"""A batch in parts gives the gradient of the whole batch: losses, random draws, models, workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.batch_parts import BatchParts, rows_of_share
from harness.distributed import rank, total, world_size
from harness.losses import labelled_cross_entropy, segmentation_loss, weighted_cross_entropy
from harness.records import Resources, Trial
from models.base import SegmentationModel
from models.layers.stochastic import Dropout, DropPath, seed_model_noise
from tests.tiny import Context, build, double_precision, tiny_trial, trainer_of
from tests.tiny_semantic import semantic_trial
from tests.workers import run_workers

BATCH = 10
Loss = Callable[[Tensor, Tensor], Tensor]


def both(ce: str, reduction: str) -> Loss:
    def loss(logits: Tensor, target: Tensor) -> Tensor:
        parts = segmentation_loss(logits, target, class_weights=(0.3, 3.0), reduction=reduction, ce_reduction=ce)
        return 0.9 * parts.cross_entropy + 0.1 * parts.dice

    return loss


LOSSES: dict[str, Loss] = {
    **{f"{ce} {dice}": both(ce, dice) for ce in ("mean", "pixel_sum") for dice in ("sum", "mean", "sum_at_2")},
    "small mean": lambda x, y: weighted_cross_entropy(x[:, :, ::2, ::2], y, (0.3, 3.0)),
    "small pixel_sum": lambda x, y: weighted_cross_entropy(x[:, :, ::2, ::2], y, (0.3, 3.0), reduction="pixel_sum"),
}
LABELLED: dict[str, Loss] = {
    "labelled": labelled_cross_entropy,
    "labelled weighted": lambda x, y: labelled_cross_entropy(x, y, (0.3, 3.0)),
}


def gradients(most: int | None) -> dict[str, tuple[float, Tensor]]:
    """Value and gradient of every loss on this worker's share of a batch whose samples differ much in their targets."""
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(BATCH, 2, 6, 8, generator=generator, dtype=torch.float64)
    target = (torch.rand(BATCH, 6, 8, generator=generator) < 0.1 * torch.arange(BATCH).view(-1, 1, 1)).long()
    unlabelled = torch.rand(BATCH, 6, 8, generator=generator) < 0.1 * torch.arange(BATCH, 0, -1).view(-1, 1, 1)
    share = BATCH // world_size()
    mine = slice(rank() * share, (rank() + 1) * share)
    found = {}
    for name, loss in {**LOSSES, **LABELLED}.items():
        truth = target.masked_fill(unlabelled, 255) if name in LABELLED else target
        whole = logits[mine].clone().requires_grad_()
        parts = BatchParts({"logits": whole, "target": truth[mine]}, most=most)
        value = torch.zeros((), dtype=torch.float64)
        for n in range(len(parts)):
            with parts.enter(n) as part:
                lost = loss(part["logits"], part["target"])
                lost.backward()  # type: ignore[no-untyped-call]
            value += lost.detach()
        assert whole.grad is not None
        found[name] = (float(total(value)) / world_size(), whole.grad / world_size())
    return found


def gradients_in_64_bits(most: int | None) -> dict[str, tuple[float, Tensor]]:
    with double_precision():
        return gradients(most)


@pytest.fixture(scope="module")
def undivided() -> dict[str, tuple[float, Tensor]]:
    return gradients_in_64_bits(None)


@pytest.mark.parametrize("most", [1, 3, 4, 9])
def test_losses_of_parts_add_up(undivided: dict[str, tuple[float, Tensor]], most: int) -> None:
    for name, (value, grad) in gradients_in_64_bits(most).items():
        assert value == pytest.approx(undivided[name][0], rel=1e-12), name
        torch.testing.assert_close(grad, undivided[name][1], atol=1e-14, rtol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


def test_parts_differ_by_one_sample_at_most() -> None:
    batch = {"x": torch.arange(BATCH), "target": torch.arange(BATCH)}
    for most, sizes in ((4, [3, 3, 4]), (9, [5, 5]), (10, [10]), (99, [10]), (None, [10]), (1, [1] * 10)):
        parts = BatchParts(batch, most=most)
        seen = []
        for n in range(len(parts)):
            with parts.enter(n) as part:
                seen.append(part["x"])
        assert [len(x) for x in seen] == sizes
        assert torch.equal(torch.cat(seen), batch["x"])


def test_a_failed_part_leaves_no_trace() -> None:
    parts = BatchParts({"target": torch.zeros(4, 2, 2)}, most=2)

    def run_out() -> None:
        with parts.enter(1):
            assert rows_of_share(2) == (2, 4)
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        run_out()
    assert rows_of_share(2) == (0, 2)


def test_draws_are_rows_of_the_whole_batchs_draws() -> None:
    x = torch.ones(BATCH, 6)
    path, dropout = DropPath(0.5), Dropout(0.4)

    def run(most: int | None) -> Tensor:
        parts, found = BatchParts({"x": x}, most=most), []
        for n in range(len(parts)):
            with parts.enter(n) as part:
                seed_model_noise(3)
                found.append(path.add(part["x"], lambda y: 2 * y) + path(dropout(part["x"])))
        return torch.cat(found)

    whole = run(None)
    assert len(whole.unique()) > 2
    for most in (1, 3, 7):
        assert torch.equal(run(most), whole)


# Training


def keep_statistics(model: SegmentationModel) -> None:
    """Batch norms as in evaluation: the statistics of a part are the one thing that a part changes."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
            module.train = lambda mode=True, norm=module: norm  # type: ignore[method-assign, misc]  # noqa: ARG005


def two_steps(trial: Trial, storage: Path, most: int | None) -> tuple[list[float], dict[str, Tensor]]:
    """Losses of two steps, and the gradients of the second."""
    model, task = build(trial, storage)
    trainer = trainer_of(trial, Context(storage, trial), model, task)
    keep_statistics(model)
    trainer._resources = Resources(micro_batch=most)
    batches = iter(torch.utils.data.DataLoader(trainer._samples, batch_sampler=trainer._batches))
    trainer._wrapped.train()
    losses = [float(total(trainer._step(next(batches), step))) / world_size() for step in range(2)]
    return losses, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


REGION = (
    (
        "name: late_concat",
        "name: df2rq\n    region_loss: 0.5\n    query_width: 16\n    query_heads: 2\n    region: 2\n    points: 2",
    ),
    ("axes: {model.modalities: [[], [optical], [sar]]}", "axes: {model.modalities: [[]]}"),
)


def stepped(folder: str, task: str, most: int | None) -> tuple[list[float], dict[str, Tensor]]:
    with double_precision():
        if task == "referring":
            trial = tiny_trial(Path(folder), global_batch=5, lr=1e-4)
        else:
            trial = semantic_trial(Path(folder), *REGION, global_batch=4, lr=1e-4, warmup_steps=0, clip_norm=None)
            weights = {**trial.train["loss"], "class_weights": [0.3, 3.0]}
            trial = replace(trial, train={**trial.train, "loss": weights})
        return two_steps(trial, Path(folder), most)


def assert_same_steps(found: Any, expected: Any) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-9)
    assert found[1].keys() == expected[1].keys()
    for name, grad in expected[1].items():
        torch.testing.assert_close(found[1][name], grad, atol=1e-9, rtol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(("task", "most"), [("referring", 1), ("referring", 2), ("semantic", 1), ("semantic", 3)])
def test_steps_do_not_depend_on_the_parts(tmp_path: Path, task: str, most: int) -> None:
    """Drop path, ARC's dropout and Dice; class weights, unlabelled pixels, auxiliary heads and a model's penalty."""
    assert_same_steps(stepped(str(tmp_path), task, most), stepped(str(tmp_path), task, None))


def stepped_on_workers(folder: str) -> dict[str, Any]:
    """Two steps of the semantic trial in parts, and every loss in parts, on this worker."""
    return {"steps": stepped(folder, "semantic", 1), "losses": gradients_in_64_bits(2)}


def test_workers_and_parts_together(tmp_path: Path, undivided: dict[str, tuple[float, Tensor]]) -> None:
    two = run_workers(stepped_on_workers, str(tmp_path))
    alone = stepped(str(tmp_path), "semantic", None)
    for worker in two:
        assert_same_steps(worker["steps"], alone)
    for name, (value, grad) in undivided.items():
        assert two[0]["losses"][name][0] == pytest.approx(value, rel=1e-12)
        joined = torch.cat([worker["losses"][name][1] for worker in two])
        torch.testing.assert_close(joined, grad, atol=1e-14, rtol=1e-10, msg=lambda m, n=name: f"{n}: {m}")
