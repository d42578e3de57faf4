"""Scores of a split as functions of sums over its samples, which is what resampling needs.

Of referring segmentation a sample contributes its count, intersection, union, IoU and whether it passes each threshold;
of semantic segmentation a tile contributes, per class, the pixels that are right, true and predicted. oIoU, mIoU, P@X
and every mean over classes are functions of such sums, so that one mechanism resamples them all.

The formulas of semantic segmentation are those of `harness.confusion`, here for many sums at once. Letters: `U` units,
`C` components, `K` classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.metrics import BLOCK, CONFUSION, METRICS, sample_iou
from reports.intervals import Floats, Score

_COUNT, _INTERSECTION, _UNION, _IOU, _FIRST_HIT = range(5)
_THRESHOLDS = {m.name: m.threshold for m in METRICS.values() if m.threshold is not None}


class Additive(NamedTuple):
    """What a split's units contribute to its scores."""

    components: Floats
    """`(U, C)`."""
    units: tuple[str, ...]
    """Name of each, in the order of the components."""
    scores: Mapping[str, Score]
    """Metric -> its value as a function of sums `(..., C)`."""
    of_class: Mapping[str, tuple[Score, ...]]
    """Measure of one class, such as `iou` -> its value per class, in the order of the matrices."""
    blocked: bool = False
    """Whether a unit is a recorded block of several samples, for example the tiles of a scene."""


def additive(samples: pd.DataFrame, *, protocol: Mapping[str, Any]) -> Additive | None:
    """What the counted samples of a run contribute; None where the table holds neither masks nor matrices.

    Args:
        samples: Per-sample table of one run and split, without the samples that the protocol leaves out.
        protocol: The trial's resolved `evaluate`.
    """
    if samples.empty:
        return None
    if CONFUSION in samples:
        components, scores, of_class = _semantic(samples, str(protocol.get("protocol", "default")))
    elif {"intersection", "union"} <= set(samples):
        components, scores, of_class = _referring(samples, str(protocol.get("empty", "zero"))), REFERRING, {}
    else:
        return None
    names, place = np.unique(unit_names(samples).to_numpy(str), return_inverse=True)
    summed = np.zeros((len(names), components.shape[1]))
    np.add.at(summed, place, components)
    blocked = BLOCK in samples and len(names) < len(samples)
    return Additive(summed, tuple(names.tolist()), scores, of_class, blocked)


def unit_names(samples: pd.DataFrame) -> pd.Series[str]:
    """The unit that each sample belongs to: its block, the image of its sentence, or the sample itself.

    A referring key is `<image>/<reference>`, with `#<number>` behind it for one of several sentences.
    """
    if BLOCK in samples:
        return samples[BLOCK].astype(str)
    keys = samples["key"].astype(str)
    if CONFUSION in samples:
        return keys
    return keys.str.replace(r"#\d+$", "", regex=True).str.replace(r"/[^/]*$", "", regex=True)


def _referring(samples: pd.DataFrame, empty: str) -> Floats:
    i, u = (samples[name].to_numpy(np.int64) for name in ("intersection", "union"))
    iou = sample_iou(i, u, empty="one" if empty == "one" else "zero")
    hits = [iou >= threshold for threshold in _THRESHOLDS.values()]
    return np.stack([np.ones(len(i)), i, u, iou, *hits], axis=1).astype(np.float64)


def _share(column: int, of: int) -> Score:
    return lambda sums: _ratio(sums[..., column], sums[..., of])


REFERRING: Mapping[str, Score] = {
    "oiou": _share(_INTERSECTION, _UNION),
    "miou": _share(_IOU, _COUNT),
    **{name: _share(_FIRST_HIT + i, _COUNT) for i, name in enumerate(_THRESHOLDS)},
}


def _semantic(
    samples: pd.DataFrame, protocol: str
) -> tuple[Floats, Mapping[str, Score], Mapping[str, tuple[Score, ...]]]:
    flat = np.stack([np.asarray(m, np.float64) for m in samples[CONFUSION]])
    classes = round(flat.shape[1] ** 0.5)
    matrices = flat.reshape(len(flat), classes, classes)
    parts = (np.diagonal(matrices, axis1=1, axis2=2), matrices.sum(2), matrices.sum(1))

    def mean_over_classes(name: str) -> Score:
        return lambda sums: _averaged(name, *_thirds(sums), protocol=protocol)

    def of_class(name: str, place: int) -> Score:
        return lambda sums: _measured(name, *_thirds(sums))[..., place]

    means = {metric: mean_over_classes(measure) for metric, measure in CLASS_MEANS.items()}
    single = {name: tuple(of_class(name, place) for place in range(classes)) for name in CLASS_MEANS.values()}
    return np.concatenate(parts, axis=1), {**means, **PIXEL_SCORES}, single


CLASS_MEANS = {"miou": "iou", "mpa": "recall", "mf1": "f1"}
"""Metric -> the measure of one class that it averages."""


def _whole(measure: str, hits: Floats, truth: Floats, predicted: Floats) -> Floats:
    """What a class's pixels that are right are a share of."""
    return {"iou": truth + predicted - hits, "recall": truth, "f1": (truth + predicted) / 2}[measure]


def _measured(measure: str, hits: Floats, truth: Floats, predicted: Floats) -> Floats:
    return _ratio(hits, _whole(measure, hits, truth, predicted))


def _averaged(measure: str, hits: Floats, truth: Floats, predicted: Floats, *, protocol: str) -> Floats:
    whole = _whole(measure, hits, truth, predicted)
    scores = _ratio(hits, whole)
    classes = scores.shape[-1]
    if protocol == "solc":
        total: Floats = scores.sum(axis=-1) / (classes + 1)
        return total
    counted = truth > 0 if protocol == "default" else whole > 0
    if protocol == "mmseg" and measure == "f1":
        counted = hits > 0
    if protocol == "ssrs":
        counted = counted & (np.arange(classes) < classes - 1)
    return _ratio(np.where(counted, scores, 0.0).sum(axis=-1), counted.sum(axis=-1).astype(np.float64))


def _accuracy(hits: Floats, truth: Floats, predicted: Floats) -> Floats:  # noqa: ARG001 -- one form for all three
    return _ratio(hits.sum(axis=-1), truth.sum(axis=-1))


def _weighted_iou(hits: Floats, truth: Floats, predicted: Floats) -> Floats:
    iou = _ratio(hits, truth + predicted - hits)
    return _ratio((truth * iou).sum(axis=-1), truth.sum(axis=-1))


def _kappa(hits: Floats, truth: Floats, predicted: Floats) -> Floats:
    pixels = truth.sum(axis=-1)
    chance = _ratio((truth * predicted).sum(axis=-1), pixels**2)
    return _ratio(_accuracy(hits, truth, predicted) - chance, 1 - chance)


def _on_thirds(score: Callable[[Floats, Floats, Floats], Floats]) -> Score:
    return lambda sums: score(*_thirds(sums))


PIXEL_SCORES: Mapping[str, Score] = {
    "oa": _on_thirds(_accuracy),
    "fwiou": _on_thirds(_weighted_iou),
    "kappa": _on_thirds(_kappa),
}


def _thirds(sums: Floats) -> tuple[Floats, Floats, Floats]:
    classes = sums.shape[-1] // 3
    return sums[..., :classes], sums[..., classes : 2 * classes], sums[..., 2 * classes :]


def _ratio(part: Floats, whole: NDArray[np.float64]) -> Floats:
    found = np.zeros(np.broadcast_shapes(part.shape, whole.shape))
    np.divide(part, whole, out=found, where=whole > 0)
    return found
