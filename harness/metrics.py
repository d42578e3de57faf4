"""Metrics of segmentation: name, tasks and how each is shown, declared once; the formulas of referring segmentation.

Referring metrics follow the evaluation script shared by LAVT, RMSIN and MAFN: per sample the intersection I and union U
of prediction and mask in pixels, IoU = I / U and 0 where U is 0; mIoU is the mean of the IoU over samples, oIoU the sum
of I over the sum of U, P@X the share of samples with IoU >= X. The formulas of semantic segmentation, where mIoU is a
mean over classes, are in `harness.confusion`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.errors import UnknownNameError, nearest

EmptyPolicy = Literal["zero", "one", "skip"]
Counts = NDArray[np.int64]

CONFUSION = "confusion"
"""Column of per-sample results with a tile's matrix of pixel counts, row by row, rows being the truth."""
BLOCK = "block"
"""Column of per-sample results that says which samples belong together, as the tiles of a scene: reports draw those of
one block together. Without it, as in older runs, sentences of one image are together, and each tile stands alone."""


@dataclass(frozen=True)
class Metric:
    """A metric and how it is shown; scores are stored as fractions."""

    name: str
    """Name in studies and stored scores."""
    label: str
    """Column head, plain text."""
    tasks: tuple[str, ...]
    """Tasks that it is a score of: `referring`, `semantic`."""
    threshold: float | None = None
    """The X of P@X, a fraction; None for other metrics."""
    higher_is_better: bool = True
    scale: float = 100.0
    """Factor from the stored fraction to the shown figure."""
    decimals: int = 2
    unit: str = "%"

    @property
    def delta_unit(self) -> str:
        """Unit of a difference."""
        return "points" if self.unit == "%" else self.unit


METRICS: Mapping[str, Metric] = {
    m.name: m
    for m in (
        *(Metric(f"p{x}", f"P@0.{x // 10}", ("referring",), threshold=x / 100) for x in (50, 60, 70, 80, 90)),
        Metric("oiou", "oIoU", ("referring",)),
        Metric("miou", "mIoU", ("referring", "semantic")),
        Metric("mpa", "mPA", ("semantic",)),
        Metric("oa", "OA", ("semantic",)),
        Metric("fwiou", "FWIoU", ("semantic",)),
        Metric("mf1", "mF1", ("semantic",)),
        Metric("kappa", "\N{GREEK SMALL LETTER KAPPA}", ("semantic",)),
    )
}
"""Metrics of a whole split; those of one class are not listed, `metric` knows them by the form of their names."""

CLASS_MEASURES: Mapping[str, str] = {"iou": "IoU", "recall": "Recall", "f1": "F1"}
"""Measures of one class, the first part of names such as `iou.low_vegetation`, and their labels."""

_CLASS_SCORE = re.compile(rf"({'|'.join(CLASS_MEASURES)})\.([a-z0-9]+(?:_[a-z0-9]+)*)")


def metric(name: str) -> Metric:
    """The metric of that name, also of one class: `iou.water` is shown as `IoU water`.

    Raises:
        UnknownNameError: There is none; the message has the nearest names.
    """
    if found := _CLASS_SCORE.fullmatch(name):
        return Metric(name, f"{CLASS_MEASURES[found[1]]} {found[2].replace('_', ' ')}", ("semantic",))
    if name not in METRICS:
        raise UnknownNameError(f"unknown metric {name!r}; {nearest(name, METRICS)}")
    return METRICS[name]


def task_metrics(task: str) -> tuple[str, ...]:
    """Names of the metrics of a task in the order of `METRICS`.

    Raises:
        UnknownNameError: No metric is of that task.
    """
    names = tuple(m.name for m in METRICS.values() if task in m.tasks)
    if not names:
        tasks = [known for m in METRICS.values() for known in m.tasks]
        raise UnknownNameError(f"unknown task {task!r}; {nearest(task, tasks)}")
    return names


def sample_iou(intersection: Counts, union: Counts, *, empty: EmptyPolicy = "zero") -> NDArray[np.float64]:
    """IoU per sample.

    Args:
        intersection: `(N,)` pixels in both prediction and mask.
        union: `(N,)` pixels in either; 0 where both are empty.
        empty: IoU of a sample whose union is 0: 0, 1, or left out.

    Returns:
        `(N,)` fractions in 0..1, shorter than N only with `empty="skip"`.
    """
    valid = union > 0
    if empty == "skip":
        return intersection[valid] / union[valid]
    fill = 1.0 if empty == "one" else 0.0
    return np.where(valid, intersection / np.maximum(union, 1), fill)


def referring_scores(
    intersection: Sequence[int] | Counts, union: Sequence[int] | Counts, *, empty: EmptyPolicy = "zero"
) -> dict[str, float]:
    """Every referring metric of a split, as fractions in 0..1.

    Args:
        intersection: `(N,)` pixels in both prediction and mask, per sample.
        union: `(N,)` pixels in either, per sample.
        empty: See `sample_iou`.

    Raises:
        ValueError: No sample, or arrays that cannot be counts of the same samples.
    """
    i, u = np.asarray(intersection, np.int64), np.asarray(union, np.int64)
    if i.shape != u.shape or i.ndim != 1:
        raise ValueError(f"intersection and union must be (N,) of the same N, got {i.shape} and {u.shape}")
    if ((i < 0) | (i > u)).any():
        raise ValueError("0 <= intersection <= union must hold for every sample")
    iou = sample_iou(i, u, empty=empty)
    if iou.size == 0:
        raise ValueError(f"at least one sample must be scored, got {i.size} of which {iou.size} count")
    precisions = {m.name: float((iou >= m.threshold).mean()) for m in METRICS.values() if m.threshold is not None}
    total = int(u.sum())
    return {**precisions, "oiou": int(i.sum()) / total if total else 0.0, "miou": float(iou.mean())}
