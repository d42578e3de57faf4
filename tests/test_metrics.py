"""Metrics against a naive loop over pixels, scikit-learn and the published evaluation script; their properties."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import jaccard_score

from harness.errors import UnknownNameError
from harness.metrics import METRICS, metric, referring_scores, sample_iou
from tests.conftest import ROOT

PARITY = ROOT.parent / "shared" / "data" / "parity" / "metrics_rrsis480.npz"

Masks = NDArray[np.uint8]
count_pairs = st.integers(0, 99).flatmap(lambda u: st.tuples(st.integers(0, u), st.just(u)))
splits = st.lists(count_pairs, min_size=1, max_size=20)


def draw_masks(num: int, side: int = 7) -> tuple[Masks, Masks]:
    """Predictions and masks `(num, side, side)` from few to many pixels; the first pair is empty."""
    rng = np.random.default_rng(0)
    share = np.linspace(0, 1, num)[:, None, None]
    prediction, mask = (rng.random((num, side, side)) < share for _ in range(2))
    mask = np.where(rng.random((num, 1, 1)) < 0.5, prediction, mask)
    return prediction.astype(np.uint8), mask.astype(np.uint8)


def naive_counts(prediction: Masks, mask: Masks) -> tuple[list[int], list[int]]:
    """Intersection and union per sample, one pixel at a time."""
    intersections, unions = [], []
    for p, m in zip(prediction, mask, strict=True):
        pixels = [(int(a), int(b)) for a, b in zip(p.ravel(), m.ravel(), strict=True)]
        intersections.append(sum(1 for a, b in pixels if a == 1 and b == 1))
        unions.append(sum(1 for a, b in pixels if a == 1 or b == 1))
    return intersections, unions


def naive_scores(intersections: list[int], unions: list[int]) -> dict[str, float]:
    """The published script's sums, one sample at a time."""
    ious = [i / u if u else 0.0 for i, u in zip(intersections, unions, strict=True)]
    found = {f"p{x}": sum(1 for v in ious if v >= x / 100) / len(ious) for x in (50, 60, 70, 80, 90)}
    found["oiou"] = sum(intersections) / sum(unions) if sum(unions) else 0.0
    found["miou"] = sum(ious) / len(ious)
    return found


def test_scores_equal_the_naive_loop() -> None:
    counts = naive_counts(*draw_masks(40))
    assert referring_scores(*counts) == pytest.approx(naive_scores(*counts), abs=1e-12)


def test_iou_equals_scikit_learn() -> None:
    prediction, mask = draw_masks(40)
    intersection, union = (np.array(c) for c in naive_counts(prediction, mask))
    expected = [jaccard_score(m.ravel(), p.ravel(), zero_division=0.0) for p, m in zip(prediction, mask, strict=True)]
    assert sample_iou(intersection, union) == pytest.approx(np.array(expected), abs=1e-12)
    overall = jaccard_score(mask.ravel(), prediction.ravel())
    assert referring_scores(intersection, union)["oiou"] == pytest.approx(overall, abs=1e-12)


def test_scores_equal_the_published_script() -> None:
    if not PARITY.is_file():
        pytest.skip(f"{PARITY.name} is not at hand: it lies outside the repository")
    with np.load(PARITY, allow_pickle=False) as kept:
        data: dict[str, Any] = dict(kept)
    counts = naive_counts(data["in/pred"], data["in/true"])
    assert counts == (data["out/intersection"].tolist(), data["out/union"].tolist())
    assert np.array_equal(sample_iou(*(np.array(c) for c in counts)), data["out/iou"])
    found = referring_scores(*counts)
    assert (found["miou"], found["oiou"]) == (float(data["out/mIoU"]), float(data["out/oIoU"]))
    assert [found[f"p{round(100 * t)}"] for t in data["out/thresholds"]] == data["out/precision"].tolist()
    printed = " ".join(json.loads(str(data["meta/config"]))["printed"])
    for name in ("p50", "p60", "p70", "p80", "p90", "oiou", "miou"):
        assert f"{metric(name).scale * found[name]:.{metric(name).decimals}f}" in printed


def test_exactly_at_the_threshold_counts() -> None:
    found = referring_scores([5, 6, 7, 8, 9, 3, 49], [10, 10, 10, 10, 10, 5, 100])
    assert [round(7 * found[f"p{x}"]) for x in (50, 60, 70, 80, 90)] == [6, 5, 3, 2, 1]


def test_empty_masks() -> None:
    assert referring_scores([0, 1], [0, 1], empty="zero")["miou"] == 0.5
    assert referring_scores([0, 1], [0, 1], empty="one")["miou"] == 1.0
    assert referring_scores([0, 1], [0, 2], empty="skip")["miou"] == 0.5
    assert referring_scores([0], [0])["oiou"] == 0.0


@given(pairs=splits)
def test_scores_stay_in_range_and_fall_with_the_threshold(pairs: list[tuple[int, int]]) -> None:
    found = referring_scores(*map(list, zip(*pairs, strict=True)))
    assert set(found) == {m.name for m in METRICS.values() if "referring" in m.tasks}
    assert all(0 <= v <= 1 for v in found.values())
    assert found["p50"] >= found["p60"] >= found["p70"] >= found["p80"] >= found["p90"]


@given(pairs=splits, seed=st.randoms(use_true_random=False))
def test_order_of_samples_does_not_matter(pairs: list[tuple[int, int]], seed: Any) -> None:
    mixed = list(pairs)
    seed.shuffle(mixed)
    one, two = (referring_scores(*map(list, zip(*p, strict=True))) for p in (pairs, mixed))
    assert one == pytest.approx(two, abs=1e-12)


@given(pairs=splits)
def test_repeating_every_sample_changes_nothing(pairs: list[tuple[int, int]]) -> None:
    one, two = (referring_scores(*map(list, zip(*p, strict=True))) for p in (pairs, pairs * 3))
    assert one == pytest.approx(two, abs=1e-12)


@pytest.mark.parametrize(
    ("intersection", "union", "message"),
    [
        ([1], [1, 2], r"must be \(N,\) of the same N, got \(1,\) and \(2,\)"),
        ([[1]], [[1]], r"must be \(N,\) of the same N"),
        ([2], [1], "0 <= intersection <= union must hold for every sample"),
        ([-1], [1], "0 <= intersection <= union must hold for every sample"),
        ([], [], "at least one sample must be scored"),
    ],
)
def test_arrays_that_cannot_be_counts(intersection: Any, union: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        referring_scores(intersection, union)


def test_split_of_which_nothing_counts() -> None:
    with pytest.raises(ValueError, match="at least one sample must be scored"):
        referring_scores([0], [0], empty="skip")


def test_unknown_metric() -> None:
    with pytest.raises(UnknownNameError, match=r"^unknown metric 'miuo'; did you mean 'miou'\?$"):
        metric("miuo")
