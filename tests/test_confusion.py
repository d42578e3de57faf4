"""Confusion matrices and their scores against scikit-learn, loops over pixels and what other code computes."""

from __future__ import annotations

import tracemalloc
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as oracle

from harness.confusion import (
    SemanticProtocol,
    class_scores,
    class_slug,
    confusion_matrix,
    num_averaged,
    semantic_scores,
)
from harness.metrics import CLASS_MEASURES, metric, task_metrics

PROTOCOLS: tuple[SemanticProtocol, ...] = get_args(SemanticProtocol)
UNIT = np.array([[3, 1], [2, 4]])

Matrix = NDArray[np.int64]


@st.composite
def matrices(draw: st.DrawFn, *, num_classes: int | None = None) -> Matrix:
    """Counts `(K, K)` with many zeros; at least one valid pixel."""
    k = num_classes or draw(st.integers(1, 7))
    cells = draw(st.lists(st.sampled_from((0, 0, 0, 1, 2, 5, 40)), min_size=k * k, max_size=k * k))
    matrix = np.array(cells, np.int64).reshape(k, k)
    matrix[0, draw(st.integers(0, k - 1))] += 1
    return matrix


@st.composite
def maps(draw: st.DrawFn) -> tuple[int, NDArray[np.uint8], NDArray[np.uint8]]:
    """K, labels `(h, w)` with ignored pixels, predictions `(h, w)`."""
    k = draw(st.integers(1, 6))
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    truth = rng.integers(0, k, shape, np.uint8)
    truth[rng.random(shape) < 0.2] = 255
    return k, truth, rng.integers(0, k, shape, np.uint8)


def naive_matrix(truth: NDArray[Any], predicted: NDArray[Any], num_classes: int) -> Matrix:
    """One pixel at a time."""
    found = np.zeros((num_classes, num_classes), np.int64)
    for t, p in zip(truth.ravel().tolist(), predicted.ravel().tolist(), strict=True):
        if t != 255:
            found[t, p] += 1
    return found


def pixels(matrix: Matrix) -> tuple[NDArray[Any], NDArray[Any]]:
    """Labels and predictions `(N,)` that have this matrix."""
    truth, predicted = np.indices(matrix.shape).reshape(2, -1)
    return np.repeat(truth, matrix.ravel()), np.repeat(predicted, matrix.ravel())


# Counting


@given(case=maps())
def test_counts_equal_a_loop_over_pixels(case: tuple[int, Any, Any]) -> None:
    k, truth, predicted = case
    found = confusion_matrix(truth, predicted, num_classes=k)
    assert (found.dtype, found.shape) == (np.int64, (k, k))
    np.testing.assert_array_equal(found, naive_matrix(truth, predicted, k))


@given(case=maps(), dtype=st.sampled_from(["int16", "int32", "int64", "uint16"]))
def test_the_type_of_integers_does_not_matter(case: tuple[int, Any, Any], dtype: str) -> None:
    k, truth, predicted = case
    found = confusion_matrix(truth.astype(dtype), predicted.astype(dtype), num_classes=k)
    np.testing.assert_array_equal(found, confusion_matrix(truth, predicted, num_classes=k))


@given(case=maps(), order=st.permutations(range(12)))
def test_rows_of_a_tile_add_up_in_any_order(case: tuple[int, Any, Any], order: list[int]) -> None:
    k, truth, predicted = case
    rows = [r for r in order if r < len(truth)]
    parts = [confusion_matrix(truth[r], predicted[r], num_classes=k) for r in rows]
    np.testing.assert_array_equal(sum(parts), confusion_matrix(truth, predicted, num_classes=k))


@given(case=maps(), value=st.sampled_from([0, 200, 254, 255]))
def test_predictions_at_ignored_pixels_change_nothing(case: tuple[int, Any, Any], value: int) -> None:
    k, truth, predicted = case
    other = np.where(truth == 255, np.uint8(value), predicted)
    np.testing.assert_array_equal(
        confusion_matrix(truth, other, num_classes=k), confusion_matrix(truth, predicted, num_classes=k)
    )


def test_many_blocks_equal_scikit_learn_and_need_little_memory() -> None:
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 15, (2, 1100, 1200), np.uint8)
    expected = oracle.confusion_matrix(truth.ravel(), predicted.ravel(), labels=range(15))
    tracemalloc.start()
    found = confusion_matrix(truth, predicted, num_classes=15)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(found, expected)
    assert peak < 6e6
    flipped = confusion_matrix(truth[:, ::-2], predicted[:, ::-2], num_classes=15)
    np.testing.assert_array_equal(flipped, confusion_matrix(truth[:, 1::2], predicted[:, 1::2], num_classes=15))


def test_most_classes_and_no_pixels() -> None:
    every = np.arange(254, dtype=np.uint8)
    np.testing.assert_array_equal(confusion_matrix(every, every[::-1], num_classes=254), np.fliplr(np.eye(254)))
    assert confusion_matrix(np.zeros((0, 3), np.uint8), np.zeros((0, 3), np.uint8), num_classes=2).sum() == 0


@pytest.mark.parametrize(
    ("truth", "predicted", "num_classes", "message"),
    [
        ([0, 3, 255], [0, 1, 0], 3, r"whose truth is not 255 must be 0\.\.2, got \[3\] in truth$"),
        ([0, 1, 255], [0, 9, 9], 3, r"must be 0\.\.2, got \[9\] in predicted$"),
        ([0, 1, 1], [0, 255, 1], 3, r"must be 0\.\.2, got \[255\] in predicted$"),
        ([-1, 7], [5, 300], 2, r"must be 0\.\.1, got \[-1, 7\] in truth and \[5, 300\] in predicted$"),
        ([254, 0], [0, 254], 254, r"must be 0\.\.253, got \[254\] in truth and \[254\] in predicted$"),
        ([0, 1], [0], 2, r"must have the same shape, got \(2,\) and \(1,\)"),
        ([0.0], [0], 2, "truth must hold integers, got float64"),
        ([0], [True], 2, "predicted must hold integers, got bool"),
        ([0], [0], 0, r"num_classes must be 1\.\.254, got 0"),
        ([0], [0], 255, r"num_classes must be 1\.\.254, got 255"),
    ],
)
def test_what_cannot_be_counted(truth: Any, predicted: Any, num_classes: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        confusion_matrix(np.array(truth), np.array(predicted), num_classes=num_classes)


# Scores


def test_scores_of_a_small_matrix() -> None:
    found = semantic_scores(UNIT)
    assert {name: round(value, 4) for name, value in found.items()} == {
        **{"oa": 0.7, "mpa": 0.7083, "miou": 0.5357, "fwiou": 0.5429, "mf1": 0.697, "kappa": 0.4}
    }
    assert tuple(found) == task_metrics("semantic")
    scores = class_scores(UNIT)
    assert scores["recall"] == pytest.approx(np.array([0.75, 0.6667]), abs=1e-4)
    assert scores["iou"] == pytest.approx(np.array([0.5, 0.5714]), abs=1e-4)
    assert scores["f1"] == pytest.approx(np.array([0.6667, 0.7273]), abs=1e-4)
    assert tuple(scores) == tuple(CLASS_MEASURES)


@given(matrix=matrices())
def test_scores_equal_scikit_learn(matrix: Matrix) -> None:
    truth, predicted = pixels(matrix)
    present = np.flatnonzero(matrix.sum(1))
    given = {"labels": present, "average": "macro", "zero_division": 0.0}
    weighted = {"labels": present, "average": "weighted", "zero_division": 0.0}
    expected = {
        "miou": oracle.jaccard_score(truth, predicted, **given),
        "mpa": oracle.recall_score(truth, predicted, **given),
        "oa": oracle.accuracy_score(truth, predicted),
        "fwiou": oracle.jaccard_score(truth, predicted, **weighted),
        "mf1": oracle.f1_score(truth, predicted, **given),
    }
    found = semantic_scores(matrix)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    if len(set(truth) | set(predicted)) > 1:  # scikit-learn divides 0 by 0
        assert found["kappa"] == pytest.approx(oracle.cohen_kappa_score(truth, predicted), abs=1e-12)
    assert num_averaged(matrix, "default") == len(present)


@given(matrix=matrices())
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:Mean of empty slice:RuntimeWarning")
def test_mmseg_follows_its_formulas(matrix: Matrix) -> None:
    hits, truth, predicted = (x.astype(float) for x in (np.diagonal(matrix), matrix.sum(1), matrix.sum(0)))
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = hits / predicted, hits / truth
        iou, f1 = hits / (truth + predicted - hits), 2 * precision * recall / (precision + recall)
    found = semantic_scores(matrix, protocol="mmseg")
    assert found["miou"] == pytest.approx(np.nanmean(iou), abs=1e-12)
    assert found["mpa"] == pytest.approx(np.nanmean(recall), abs=1e-12)
    assert found["mf1"] == pytest.approx(np.nan_to_num(np.nanmean(f1)), abs=1e-12)
    assert num_averaged(matrix, "mmseg") == np.isfinite(iou).sum()


@given(matrix=matrices(num_classes=6))
def test_ssrs_leaves_clutter_out_of_means_only(matrix: Matrix) -> None:
    found, plain, scores = semantic_scores(matrix, protocol="ssrs"), semantic_scores(matrix), class_scores(matrix)
    for name, measure in (("miou", "iou"), ("mpa", "recall"), ("mf1", "f1")):
        assert found[name] == pytest.approx(np.nanmean(scores[measure][:5]), abs=1e-12)
    for name in ("oa", "kappa", "fwiou"):
        assert found[name] == plain[name]
    assert 1 <= num_averaged(matrix, "ssrs") <= 5


@given(matrix=matrices(num_classes=7))
def test_solc_counts_the_background_as_0(matrix: Matrix) -> None:
    np.fill_diagonal(matrix, 1)  # every class is there
    found, plain = semantic_scores(matrix, protocol="solc"), semantic_scores(matrix)
    for name in ("miou", "mpa", "mf1"):
        assert found[name] * 8 / 7 == pytest.approx(plain[name], abs=1e-12)
    for name in ("oa", "kappa", "fwiou"):
        assert found[name] == plain[name]
    assert (num_averaged(matrix, "solc"), num_averaged(matrix, "default")) == (8, 7)


def test_absent_classes_by_every_protocol() -> None:
    matrix = np.zeros((6, 6), np.int64)
    matrix[0] = [6, 2, 0, 0, 0, 0]  # right for the most part
    matrix[2] = [2, 0, 0, 0, 0, 0]  # never found; class 1 is only predicted, classes 3, 4 and 5 are nowhere
    iou = class_scores(matrix)["iou"]
    np.testing.assert_allclose(iou, [0.6, 0, 0, np.nan, np.nan, np.nan])
    np.testing.assert_allclose(class_scores(matrix)["recall"], [0.75, np.nan, 0, np.nan, np.nan, np.nan])
    np.testing.assert_allclose(class_scores(matrix)["f1"], [0.75, 0, 0, np.nan, np.nan, np.nan])
    expected = {
        "default": (0.6 / 2, 0.75 / 2, 0.75 / 2, 2),
        "mmseg": (0.6 / 3, 0.75 / 2, 0.75 / 1, 3),
        "ssrs": (0.6 / 3, 0.75 / 2, 0.75 / 3, 3),
        "solc": (0.6 / 7, 0.75 / 7, 0.75 / 7, 7),
    }
    for protocol in PROTOCOLS:
        found = semantic_scores(matrix, protocol=protocol)
        means = (found["miou"], found["mpa"], found["mf1"], num_averaged(matrix, protocol))
        assert means == pytest.approx(expected[protocol])


def test_mmseg_without_any_hit_scores_0() -> None:
    assert semantic_scores(np.array([[0, 3], [2, 0]]), protocol="mmseg")["mf1"] == 0.0


def test_kappa_without_chance_and_of_huge_counts() -> None:
    assert semantic_scores(np.array([[5, 0], [0, 0]]))["kappa"] == 0.0
    assert semantic_scores(np.array([[0, 5], [5, 0]]))["kappa"] == -1.0
    assert semantic_scores(UNIT * 10**15)["kappa"] == pytest.approx(0.4, abs=1e-12)


@given(matrix=matrices(), seed=st.randoms(use_true_random=False))
def test_relabelling_permutes_classes_and_leaves_means(matrix: Matrix, seed: Any) -> None:
    order = list(range(len(matrix)))
    seed.shuffle(order)
    mixed = matrix[np.ix_(order, order)]
    for protocol in ("default", "mmseg", "solc"):
        assert semantic_scores(mixed, protocol=protocol) == pytest.approx(
            semantic_scores(matrix, protocol=protocol), abs=1e-12
        )
    for name, values in class_scores(matrix).items():
        np.testing.assert_array_equal(class_scores(mixed)[name], values[order])


@given(matrix=matrices(num_classes=6), protocol=st.sampled_from(PROTOCOLS))
def test_scores_are_finite_and_in_range(matrix: Matrix, protocol: SemanticProtocol) -> None:
    found = semantic_scores(matrix, protocol=protocol)
    assert tuple(found) == task_metrics("semantic")
    assert -1 <= found.pop("kappa") <= 1
    assert all(0 <= value <= 1 + 1e-12 for value in found.values())


def test_a_perfect_prediction_scores_1() -> None:
    matrix = np.diag([3, 1, 4, 1, 5, 9])
    for protocol in ("default", "ssrs", "mmseg"):
        assert set(semantic_scores(matrix, protocol=protocol).values()) == {1.0}


@pytest.mark.parametrize(
    ("matrix", "protocol", "message"),
    [
        (np.zeros((2, 2), np.int64), "default", "at least one pixel must have a valid label, got none"),
        (np.ones((2, 3), np.int64), "default", r"a confusion matrix must be square, got \(2, 3\)"),
        (np.ones(4, np.int64), "default", r"a confusion matrix must be square, got \(4,\)"),
        (np.array([[1, -1], [0, 1]]), "default", "must hold counts of at least 0, got -1"),
        (np.ones((2, 2)), "default", "must hold integers, got float64"),
        (np.ones((7, 7), np.int64), "ssrs", "ssrs is for the 6 classes of the ISPRS sets, got 7"),
        (np.diag([0, 0, 0, 0, 0, 5]), "ssrs", "at least one pixel must be of the first 5 classes, got none"),
        (np.ones((2, 2), np.int64), "mmsec", "the protocol must be one of default, ssrs, solc, mmseg, got 'mmsec'"),
    ],
)
def test_matrices_without_scores(matrix: Any, protocol: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        semantic_scores(matrix, protocol=protocol)
    with pytest.raises(ValueError, match=message):
        num_averaged(matrix, protocol)


@pytest.mark.parametrize(
    ("name", "slug"),
    [("water", "water"), ("Low vegetation", "low_vegetation"), (" Road (paved)/2 ", "road_paved_2"), ("é-A", "a")],
)
def test_slugs_of_class_names(name: str, slug: str) -> None:
    assert class_slug(name) == slug
    assert metric(f"iou.{slug}").label == f"IoU {slug.replace('_', ' ')}"


def test_a_class_name_without_letters_is_refused() -> None:
    with pytest.raises(ValueError, match="a class name must have a letter a-z or a digit, got '水'"):
        class_slug("水")
