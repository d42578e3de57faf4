"""Sums of samples give the scores that the evaluation records, for every metric and protocol."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.confusion import semantic_scores
from harness.metrics import referring_scores
from reports.intervals import draw_weights, resample
from reports.sample_statistics import additive, unit_names


def masks(rng: np.random.Generator, n: int = 40) -> pd.DataFrame:
    union = rng.integers(0, 5, n) * rng.integers(1, 900, n)
    return pd.DataFrame(
        {
            "key": [f"{i // 3}/{i}" for i in range(n)],
            "intersection": (union * rng.random(n)).astype(int),
            "union": union,
        }
    )


def matrices(rng: np.random.Generator, *, classes: int, tiles: int = 12) -> list[np.ndarray]:
    found = [rng.integers(0, 50, (classes, classes)) + np.diag(rng.integers(0, 90, classes)) for _ in range(tiles)]
    for m in found:
        m[1] = 0  # a class that never occurs
        m[:, 2] = 0  # one that is never predicted
    return found


@pytest.mark.parametrize("empty", ["zero", "one", "skip"])
def test_referring_scores_are_those_of_the_evaluation(empty: Any) -> None:
    table = masks(np.random.default_rng(1))
    counted = table[table["union"] > 0] if empty == "skip" else table
    found = additive(counted, protocol={"empty": empty})
    assert found is not None
    expected = referring_scores(table["intersection"].to_numpy(), table["union"].to_numpy(), empty=empty)
    sums = found.components.sum(axis=0)
    assert {name: float(score(sums)) for name, score in found.scores.items()} == pytest.approx(expected)


@pytest.mark.parametrize("classes", [6, 15])
@pytest.mark.parametrize("protocol", ["default", "mmseg", "solc"])
def test_semantic_scores_are_those_of_the_evaluation(protocol: Any, classes: int) -> None:
    check_semantic(protocol, classes=classes)


def test_semantic_scores_of_the_isprs_sets_are_those_of_the_evaluation() -> None:
    check_semantic("ssrs", classes=6)


def check_semantic(protocol: Any, *, classes: int) -> None:
    found_matrices = matrices(np.random.default_rng(2), classes=classes)
    table = pd.DataFrame(
        {"key": [f"t{i}" for i in range(12)], "confusion": [m.ravel().tolist() for m in found_matrices]}
    )
    found = additive(table, protocol={"protocol": protocol})
    assert found is not None
    expected = semantic_scores(np.sum(found_matrices, axis=0), protocol=protocol)
    sums = found.components.sum(axis=0)
    assert {name: float(score(sums)) for name, score in found.scores.items()} == pytest.approx(expected)


def test_a_draw_scores_what_the_evaluation_scores_on_the_samples_it_took() -> None:
    table = masks(np.random.default_rng(3)).assign(key=[f"image{i}" for i in range(40)])
    found = additive(table, protocol={})
    assert found is not None
    drawn = resample(found.components[None], draws=3)
    order = [int(np.flatnonzero(table["key"] == name)[0]) for name in found.units]
    for draw, counts in enumerate(draw_weights(40, draws=3)):
        taken = table.iloc[np.repeat(order, counts.astype(int))]
        expected = referring_scores(taken["intersection"].to_numpy(), taken["union"].to_numpy())
        assert {n: float(s(drawn[draw, 0])) for n, s in found.scores.items()} == pytest.approx(expected)


def test_what_belongs_together_is_one_unit() -> None:
    table = masks(np.random.default_rng(1), n=7)
    found = additive(table, protocol={})
    assert found is not None
    assert found.units == ("0", "1", "2")
    assert found.components[:, 0].tolist() == [3, 3, 1]
    assert found.components[:, 2].tolist() == table.groupby(np.arange(7) // 3)["union"].sum().tolist()
    blocked = additive(table.assign(block=["a", "b"] * 3 + ["a"]), protocol={})
    assert blocked is not None
    assert (blocked.units, blocked.components[:, 0].tolist()) == (("a", "b"), [4, 3])
    keys = pd.DataFrame({"key": ["12/7#0", "12/7#1", "ship#2", "a/b/c"]})
    assert unit_names(keys).tolist() == ["12", "12", "ship", "a/b"]
    tiles = pd.DataFrame({"key": ["city/val", "city/test"], "confusion": [[1], [1]]})
    assert unit_names(tiles).tolist() == ["city/val", "city/test"]


def test_tables_that_hold_no_counts_or_no_rows_give_nothing() -> None:
    assert additive(pd.DataFrame({"key": ["a"]}), protocol={}) is None
    assert additive(masks(np.random.default_rng(1)).iloc[:0], protocol={}) is None


def test_nothing_is_divided_by_nothing() -> None:
    found = additive(pd.DataFrame({"key": ["a"], "confusion": [[4, 0, 0, 0]]}), protocol={})
    assert found is not None
    sums = found.components.sum(axis=0)
    assert float(found.scores["kappa"](sums)) == 0.0
    assert float(found.scores["oa"](sums)) == 1.0
