"""Scores of semantic segmentation from one matrix of pixel counts per split, by the rules that publications use.

Row i, column j of the matrix is the number of pixels of class i that were predicted as class j, over all valid pixels
of a split; matrices of tiles, workers and scenes add up. With t and p its row and column sums, d its diagonal and N its
sum: OA = sum d / N, recall = d / t, IoU = d / (t + p - d), F1 = 2 d / (t + p); mPA, mIoU and mF1 are means of the last
three over classes; FWIoU = sum t IoU / N; kappa = (OA - e) / (1 - e) with e = sum t p / N^2. Letters: `K` classes.

Which classes a mean is over is the protocol's business:

* `default`: the classes that the split has.
* `mmseg`: the classes whose score is defined (https://github.com/open-mmlab/mmsegmentation, `IoUMetric`): a class that
  only predictions have counts as IoU 0. Its F1 is computed from precision and recall and undefined where both are 0, so
  that a class of which no pixel is found drops out of mF1 and raises it.
* `ssrs`: the first five of the six classes of the ISPRS sets, not the clutter, where the score is defined; OA, kappa
  and FWIoU over all six (https://github.com/sstary/SSRS).
* `solc`: K + 1 classes, the ignored background being one that scores 0 (https://github.com/yisun98/SOLC); what is not
  defined scores 0 too.
"""

from __future__ import annotations

import re
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from harness.data.base import IGNORED

SemanticProtocol = Literal["default", "ssrs", "solc", "mmseg"]

MAX_CLASSES = 254
"""Most classes: 255 is the ignored label, 254 stands for every other label that is no class."""

_NO_CLASS = 254
_BLOCK = 1 << 18
NUM_ISPRS_CLASSES = 6
"""What `ssrs` is for; the last one, clutter, is outside its means."""


def confusion_matrix(truth: NDArray[Any], predicted: NDArray[Any], *, num_classes: int) -> NDArray[np.int64]:
    """Pixels by true class (rows) and predicted class (columns), `(K, K)`.

    Blocks of 2^18 pixels are counted one after the other, so that beside arrays that are contiguous (others are copied)
    about 4 MB are needed, whatever their size.

    Args:
        truth: Integer classes of any shape, 255 where there is none; what is predicted there does not matter.
        predicted: Integer classes, the same shape.
        num_classes: K, 1..254.

    Raises:
        ValueError: The arrays have different shapes or are no integers, or a pixel has another class than 0..K-1.
    """
    if not 1 <= num_classes <= MAX_CLASSES:
        raise ValueError(f"num_classes must be 1..{MAX_CLASSES}, got {num_classes}")
    if truth.shape != predicted.shape:
        raise ValueError(f"truth and predicted must have the same shape, got {truth.shape} and {predicted.shape}")
    for name, classes in (("truth", truth), ("predicted", predicted)):
        if not np.issubdtype(classes.dtype, np.integer):
            raise ValueError(f"{name} must hold integers, got {classes.dtype}")
    flat_truth, flat_predicted = truth.reshape(-1), predicted.reshape(-1)
    counts = np.zeros(1 << 16, np.int64)
    for start in range(0, flat_truth.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        codes = _as_bytes(flat_truth[block]).astype(np.uint16) << 8 | _as_bytes(flat_predicted[block])
        counts += np.bincount(codes, minlength=counts.size)
    square = counts.reshape(256, 256)[:IGNORED]
    if square[num_classes:].any() or square[:, num_classes:].any():
        raise ValueError(_outside(flat_truth, flat_predicted, num_classes))
    return square[:num_classes, :num_classes].copy()


def _as_bytes(classes: NDArray[Any]) -> NDArray[np.uint8]:
    """The same classes as uint8; what does not fit becomes `_NO_CLASS`."""
    if classes.dtype == np.uint8:
        return classes
    fits = (classes >= 0) & (classes <= IGNORED)
    return np.where(fits, classes, _NO_CLASS).astype(np.uint8)


def _outside(truth: NDArray[Any], predicted: NDArray[Any], num_classes: int) -> str:
    valid = truth != IGNORED
    wrong = {
        name: np.unique(classes[valid & ((classes < 0) | (classes >= num_classes))])[:5].tolist()
        for name, classes in (("truth", truth), ("predicted", predicted))
    }
    found = " and ".join(f"{values} in {name}" for name, values in wrong.items() if values)
    return f"classes of pixels whose truth is not {IGNORED} must be 0..{num_classes - 1}, got {found}"


def class_scores(matrix: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """`iou`, `recall` and `f1` of every class, `(K,)` fractions each; NaN where the denominator is 0.

    Raises:
        ValueError: The matrix is not square, or has negative or no counts.
    """
    _require_counts(matrix)
    hits, truth, predicted = _sums(matrix)
    return {
        "iou": _ratio(hits, truth + predicted - hits),
        "recall": _ratio(hits, truth),
        "f1": _ratio(2 * hits, truth + predicted),
    }


def num_averaged(matrix: NDArray[np.int64], protocol: SemanticProtocol) -> int:
    """How many classes the mean of mIoU is over; those of mPA and mF1 may have fewer under `mmseg` and `ssrs`.

    Raises:
        ValueError: See `semantic_scores`.
    """
    return len(_averaged(matrix, protocol)["iou"])


def semantic_scores(matrix: NDArray[np.int64], *, protocol: SemanticProtocol = "default") -> dict[str, float]:
    """Every metric of semantic segmentation as a fraction: 0..1, kappa -1..1.

    Args:
        matrix: Pixel counts `(K, K)`, see `confusion_matrix`.
        protocol: Which classes the means are over.

    Raises:
        ValueError: The matrix is not square, has no valid pixel (under `ssrs`, none of the first five classes), or has
            another K than 6 under `ssrs`.
    """
    averaged = _averaged(matrix, protocol)
    hits, truth, predicted = _sums(matrix)
    num_pixels = int(truth.sum())
    # Where no class is right, mmsegmentation has no F1 to average and prints nan.
    means = {name: float(values.mean()) if len(values) else 0.0 for name, values in averaged.items()}
    return {
        "miou": means["iou"],
        "mpa": means["recall"],
        "oa": int(hits.sum()) / num_pixels,
        "fwiou": float((truth / num_pixels) @ np.nan_to_num(class_scores(matrix)["iou"])),
        "mf1": means["f1"],
        "kappa": _kappa(hits.tolist(), truth.tolist(), predicted.tolist()),
    }


def class_slug(name: str) -> str:
    """A class name as the second part of a metric's: lower case letters and digits, `_` for anything between them.

    Raises:
        ValueError: Nothing is left of the name.
    """
    slug = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    if not slug:
        raise ValueError(f"a class name must have a letter a-z or a digit, got {name!r}")
    return slug


def _require_counts(matrix: NDArray[np.int64]) -> None:
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"a confusion matrix must be square, got {matrix.shape}")
    if not np.issubdtype(matrix.dtype, np.integer):
        raise ValueError(f"a confusion matrix must hold integers, got {matrix.dtype}")
    if (matrix < 0).any():
        raise ValueError(f"a confusion matrix must hold counts of at least 0, got {matrix.min()}")
    if not matrix.any():
        raise ValueError("at least one pixel must have a valid label, got none")


def _averaged(matrix: NDArray[np.int64], protocol: SemanticProtocol) -> dict[str, NDArray[np.float64]]:
    """Measure -> the scores of the classes that its mean is over."""
    scores = class_scores(matrix)
    if protocol == "default":
        has_truth = matrix.sum(1) > 0
        return {name: values[has_truth] for name, values in scores.items()}
    if protocol == "solc":
        return {name: np.append(np.nan_to_num(values), 0.0) for name, values in scores.items()}
    if protocol == "ssrs":
        if len(matrix) != NUM_ISPRS_CLASSES:
            raise ValueError(
                f"the protocol ssrs is for the {NUM_ISPRS_CLASSES} classes of the ISPRS sets, got {len(matrix)}"
            )
        if not matrix[:-1].any():
            raise ValueError(f"at least one pixel must be of the first {NUM_ISPRS_CLASSES - 1} classes, got none")
        scores = {name: values[:-1] for name, values in scores.items()}
    elif protocol == "mmseg":
        scores["f1"] = np.where(np.diagonal(matrix) > 0, scores["f1"], np.nan)
    else:
        raise ValueError(f"the protocol must be one of {', '.join(get_args(SemanticProtocol))}, got {protocol!r}")
    return {name: values[~np.isnan(values)] for name, values in scores.items()}


def _sums(matrix: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Diagonal, row sums and column sums, `(K,)` each."""
    return np.diagonal(matrix), matrix.sum(1), matrix.sum(0)


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    ratio = np.full(len(whole), np.nan)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio


def _kappa(hits: list[int], truth: list[int], predicted: list[int]) -> float:
    """Cohen's kappa times N^2 above and below, in Python's integers: N^2 may exceed 64 bits. 0 where e is 1."""
    total = sum(truth)
    chance = sum(t * p for t, p in zip(truth, predicted, strict=True))
    return (total * sum(hits) - chance) / (total * total - chance) if chance < total * total else 0.0
