"""Scores of segmentation models, computed from integer counts: name, direction, range and formula, declared once.

Referring metrics follow the evaluation script shared by LAVT, RMSIN and MAFN: per sample the intersection I and union U
of prediction and mask in pixels, IoU = I / U and 0 where U is 0; mIoU is the mean of the IoU over samples, oIoU the sum
of I over the sum of U, P@X the share of samples with IoU >= X.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.errors import UnknownNameError, nearest

EmptyPolicy = Literal["zero", "one", "skip"]
Counts = NDArray[np.int64]


def _no_samples(_iou: NDArray[np.float64], _intersection: Counts, _union: Counts) -> float:
    raise ValueError("this metric must be computed from the confusion matrix of a split, not from samples")


@dataclass(frozen=True)
class Metric:
    """A metric and how it is shown."""

    name: str
    """Name in studies and stored scores."""
    label: str
    """Column head, plain text."""
    tasks: tuple[str, ...]
    """`referring`, `semantic` or both."""
    compute: Callable[[NDArray[np.float64], Counts, Counts], float] = _no_samples
    """`(iou, intersection, union)`, each `(N,)` with N >= 1 -> fraction in 0..1."""
    higher_is_better: bool = True
    scale: float = 100.0
    """Factor from the stored fraction to the shown figure."""
    decimals: int = 2
    unit: str = "%"


def _mean_iou(iou: NDArray[np.float64], _intersection: Counts, _union: Counts) -> float:
    return float(iou.mean())


def _overall_iou(_iou: NDArray[np.float64], intersection: Counts, union: Counts) -> float:
    total = int(union.sum())
    return int(intersection.sum()) / total if total else 0.0


def _precision(iou: NDArray[np.float64], _intersection: Counts, _union: Counts, *, threshold: float) -> float:
    return float((iou >= threshold).mean())


METRICS: Mapping[str, Metric] = {
    m.name: m
    for m in (
        *(
            Metric(f"p{x}", f"P@0.{x // 10}", ("referring",), partial(_precision, threshold=x / 100))
            for x in (50, 60, 70, 80, 90)
        ),
        Metric("oiou", "oIoU", ("referring",), _overall_iou),
        Metric("miou", "mIoU", ("referring", "semantic"), _mean_iou),
        *(Metric(label.lower(), label, ("semantic",)) for label in ("OA", "mPA", "FWIoU", "mF1", "kappa")),
    )
}


CLASS_MEASURES = {"iou": "IoU", "recall": "recall", "f1": "F1"}
"""Measures of one class: `iou.water` is the IoU of water."""


def metric(name: str) -> Metric:
    """Return the metric of that name; `UnknownNameError` with the nearest names otherwise."""
    measure, _, of_class = name.partition(".")
    if of_class and measure in CLASS_MEASURES:
        return Metric(name, f"{CLASS_MEASURES[measure]} {of_class.replace('_', ' ')}", ("semantic",))
    if name not in METRICS:
        raise UnknownNameError(f"unknown metric {name!r}; {nearest(name, METRICS)}")
    return METRICS[name]


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
    return {m.name: m.compute(iou, i, u) for m in METRICS.values() if "referring" in m.tasks}
