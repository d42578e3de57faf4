"""Intervals: against SciPy's bootstrap, an analysis of variance, and coverage on data whose truth is known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from reports.intervals import (
    Replicated,
    bootstrap_interval,
    draw_weights,
    interval,
    precision,
    replicate_influence,
    replicated,
    resample,
    shared_covariance,
    unit_influence,
)
from reports.significance import p_value

RNG = np.random.default_rng(3)


def mean_of(sums: np.ndarray) -> np.ndarray:
    """Mean of the first component; the second counts samples."""
    return sums[..., 0] / sums[..., 1]


def with_count(values: np.ndarray) -> np.ndarray:
    return np.stack([values, np.ones_like(values)], axis=-1)


def crossed(
    rng: np.random.Generator, *, replicates: int, units: int, between: float, shared: float, own: float
) -> np.ndarray:
    """Values `(N, U)` with an effect of each replicate, one of each sample, and noise of both."""
    return (
        rng.normal(0, between, (replicates, 1))
        + rng.normal(0, shared, (1, units))
        + rng.normal(0, own, (replicates, units))
    )


def test_draws_are_repeated_by_their_seed_and_take_as_many_units_as_there_are() -> None:
    weights = draw_weights(7, draws=50, seed=1)
    assert weights.shape == (50, 7)
    assert (weights.sum(axis=1) == 7).all()
    draw_weights.cache_clear()
    assert (draw_weights(7, draws=50, seed=1) == weights).all()
    assert (draw_weights(7, draws=50, seed=2) != weights).any()


def test_resampled_sums_are_those_of_a_plain_loop() -> None:
    components = RNG.integers(0, 9, (2, 5, 3)).astype(float)
    sums = resample(components, draws=4, seed=9)
    for draw, counts in enumerate(draw_weights(5, draws=4, seed=9)):
        taken = [unit for unit, times in enumerate(counts) for _ in range(int(times))]
        for replicate in range(2):
            assert sums[draw, replicate].tolist() == components[replicate, taken].sum(axis=0).tolist()


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_bootstrap_of_replicates_alone_is_scipys(method: str) -> None:
    values = np.random.default_rng(5).lognormal(0, 1, 12)
    found = Replicated(values, np.broadcast_to(values, (100_000, 12)), 1)
    mine = bootstrap_interval(found, method=method, influences=[replicate_influence(found)])  # type: ignore[arg-type]
    theirs = stats.bootstrap((values,), np.mean, method=method, n_resamples=100_000, rng=np.random.default_rng(1))
    assert mine == pytest.approx(tuple(theirs.confidence_interval), abs=0.02)
    assert replicate_influence(found).sum() == pytest.approx(0)


def test_bca_over_samples_of_a_ratio_is_scipys() -> None:
    rng = np.random.default_rng(11)
    union = rng.lognormal(0, 1, 60)
    parts = np.stack([union * rng.beta(2, 1, 60), union], axis=-1)[None].repeat(2, axis=0)
    found = replicated(parts, mean_of, draws=40_000)
    mine = bootstrap_interval(found, method="bca", influences=[unit_influence(parts, mean_of)])
    pairs = (parts[0, :, 0], parts[0, :, 1])
    theirs = stats.bootstrap(
        pairs, lambda i, u, axis: i.sum(axis) / u.sum(axis), paired=True, method="BCa", n_resamples=40_000,
        rng=np.random.default_rng(1),
    )  # fmt: skip
    assert mine == pytest.approx(tuple(theirs.confidence_interval), abs=0.003)


def test_replicates_alone_give_the_t_interval() -> None:
    values = np.array([0.61, 0.64, 0.62, 0.66])
    found = interval(Replicated(values))
    assert found == pytest.approx(stats.ttest_1samp(values, 0).confidence_interval(0.95))


@pytest.mark.parametrize("sample_se", [0.0005, 0.001, 0.002, 0.01])
def test_test_samples_make_no_claim_that_replicates_cannot_make(sample_se: float) -> None:
    values = np.array([0.010, 0.012])
    draws = 0.011 + np.random.default_rng(1).normal(0, sample_se, (2000, 1)).repeat(2, axis=1)
    alone, both = Replicated(values), Replicated(values, draws, 1000)
    assert precision(both).sample_variance == pytest.approx(sample_se**2, rel=0.1)
    (low, high), (low_both, high_both) = interval(alone) or (), interval(both) or ()
    assert low_both <= low < high <= high_both
    p = p_value(both)
    assert p is not None
    assert p >= stats.ttest_1samp(values, 0).pvalue - 1e-12 > 0.05


def test_one_unit_says_nothing_of_others() -> None:
    draws = np.random.default_rng(1).random((3, 50, 2))
    assert not shared_covariance(draws, 1).any()
    assert shared_covariance(draws, 2).any()


def test_one_replicate_or_no_spread_has_no_interval() -> None:
    one = Replicated(np.array([0.5]), np.full((10, 1), 0.5), 4)
    assert interval(one) is None
    assert bootstrap_interval(one, method="percentile") is None
    assert interval(Replicated(np.array([0.5, 0.5]))) is None
    without = bootstrap_interval(Replicated(np.array([0.5, 0.7])), method="percentile")
    assert without == pytest.approx((0.5, 0.7))


def test_standard_error_is_that_of_the_analysis_of_variance() -> None:
    """Of a mean over replicates x samples: the expected squares of a crossed design, both effects random."""
    values = crossed(np.random.default_rng(2), replicates=4, units=400, between=0.3, shared=2.0, own=1.0)
    known = precision(replicated(with_count(values), mean_of, draws=20_000))
    n, u = values.shape
    rows, columns = values.mean(1, keepdims=True), values.mean(0, keepdims=True)
    ms_rows = u * ((rows - values.mean()) ** 2).sum() / (n - 1)
    ms_columns = n * ((columns - values.mean()) ** 2).sum() / (u - 1)
    ms_rest = ((values - rows - columns + values.mean()) ** 2).sum() / ((n - 1) * (u - 1))
    assert known.replicate_variance == pytest.approx(ms_rows / (n * u))
    assert known.sample_variance == pytest.approx((ms_columns - ms_rest) / (n * u), rel=0.05)
    assert known.se == pytest.approx(math.sqrt((ms_rows + ms_columns - ms_rest) / (n * u)), rel=0.03)
    a, b = known.replicate_variance, known.sample_variance
    assert known.df == pytest.approx((a + b) ** 2 / (a**2 / 3 + b**2 / 399))


def test_few_units_are_no_reason_for_a_narrow_interval() -> None:
    values = np.array([1.0, 2.0, 4.0])
    same = replicated(with_count(np.stack([values, values])), mean_of, draws=50_000)
    known = precision(same)
    assert known.sample_variance == pytest.approx(values.var(ddof=1) / 3, rel=0.03)
    assert known.df == pytest.approx(2)


@pytest.mark.parametrize(("between", "shared", "own"), [(1.0, 0.0, 1.0), (0.1, 4.0, 4.0), (0.3, 3.0, 3.0)])
def test_ninety_five_per_cent_of_intervals_hold_the_truth(between: float, shared: float, own: float) -> None:
    rng = np.random.default_rng(8)
    hits = []
    for _ in range(300):
        values = crossed(rng, replicates=3, units=60, between=between, shared=shared, own=own)
        found = interval(replicated(with_count(values), mean_of, draws=300))
        assert found is not None
        hits.append(found.low <= 0 <= found.high)
    assert np.mean(hits) >= 0.92  # 95 % less two and a half standard errors of 300 trials


def test_both_sides_of_a_difference_see_the_same_draws() -> None:
    values = crossed(np.random.default_rng(4), replicates=3, units=50, between=0.1, shared=5.0, own=0.1)
    ours, twin = (replicated(with_count(v), mean_of) for v in (values, values + 1))
    difference = ours.minus(twin)
    assert difference.draws is not None
    assert np.ptp(difference.draws) < 1e-9
    other = Replicated(twin.values, None, 0)
    assert (ours.minus(other).draws, ours.minus(other).units) == (None, 0)
    assert other.take([0, 2]).values.tolist() == twin.values[[0, 2]].tolist()
    part = ours.take([1])
    assert part.draws is not None
    assert part.draws.shape == (2000, 1)


def test_percentile_interval_of_two_levels_is_that_of_all_their_combinations() -> None:
    """3 replicates x 2 samples: 27 x 4 equally likely draws, listed one by one."""
    values = np.array([[0.0, 3.1], [1.0, 4.3], [2.2, 3.7]])
    found = replicated(with_count(values), mean_of, draws=60_000)
    means = [
        values[np.ix_(rows, columns)].mean()
        for rows in itertools.product(range(3), repeat=3)
        for columns in itertools.product(range(2), repeat=2)
    ]
    for level in (0.5, 0.9):
        expected = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
        assert bootstrap_interval(found, method="percentile", level=level) == pytest.approx(tuple(expected), abs=0.35)
