"""Tests, corrections, effect sizes and power: against SciPy, statsmodels and enumeration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from reports.effect_size import hedges_dz, rank_biserial
from reports.intervals import Pooled, Replicated, replicated
from reports.power import MAX_REPLICATES, power_of, replicates_needed, smallest_resolvable
from reports.significance import FLIPS, compare, holm, p_value, p_values, sign_flip_test
from tests.test_intervals import crossed, mean_of, with_count

DIFFERENCES = st.lists(st.integers(-50, 50).map(lambda i: i / 100), min_size=1, max_size=8)


@given(DIFFERENCES)
@settings(max_examples=60)
def test_all_signs_are_counted_as_a_plain_loop_counts_them(values: list[float]) -> None:
    seen = abs(math.fsum(values))
    sums = [abs(math.fsum(s * v for s, v in zip(signs, values, strict=True))) for signs in _signs(len(values))]
    found = sign_flip_test(values)
    assert found.p == sum(s >= seen - 1e-9 for s in sums) / len(sums)
    assert found.exact
    assert found.smallest == min(1.0, 2 ** (1 - len(values)))
    assert found.p >= found.smallest


def _signs(n: int) -> list[tuple[int, ...]]:
    return list(itertools.product((1, -1), repeat=n))


def test_sign_flips_are_scipys() -> None:
    values = np.array([0.3, 0.1, -0.05, 0.4, 0.25])
    theirs = stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_test(values).p == pytest.approx(theirs.pvalue)


def test_three_replicates_cannot_give_less_than_a_quarter() -> None:
    assert sign_flip_test([0.1, 0.2, 0.3]) == (0.25, 0.25, True)
    with pytest.raises(ValueError, match="at least one difference"):
        sign_flip_test([])


def test_many_replicates_are_tested_with_random_signs() -> None:
    values = np.random.default_rng(0).normal(0.4, 1.0, 30)
    found = sign_flip_test(values)
    assert (found.exact, found.smallest) == (False, 1 / (FLIPS + 1))
    assert found.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.01)
    assert sign_flip_test(values) == found


@pytest.mark.parametrize("count", [1, 2, 5, 30])
def test_holm_is_that_of_statsmodels(count: int) -> None:
    p_values = np.random.default_rng(count).beta(0.3, 3, count).tolist()
    p_values[-1] = p_values[0]
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_nothing_to_correct() -> None:
    assert holm([]) == []


def test_replicates_alone_are_compared_by_the_paired_t_test() -> None:
    ours, theirs = np.array([0.61, 0.64, 0.66, 0.65]), np.array([0.60, 0.62, 0.65, 0.61])
    found = compare(Replicated(ours - theirs))
    assert found.p == pytest.approx(stats.ttest_rel(ours, theirs).pvalue)
    assert found.sign_flip == (0.125, 0.125, True)
    assert (found.replicates, found.on_samples) == (4, False)
    assert found.interval == pytest.approx(stats.ttest_rel(ours, theirs).confidence_interval())


def test_one_replicate_is_not_tested() -> None:
    found = compare(Replicated(np.array([0.1])))
    assert (found.difference, found.p, found.interval, found.sign_flip, found.effect) == (0.1, None, None, None, None)


def test_differences_that_do_not_vary_are_judged_by_their_signs_alone() -> None:
    found = compare(Replicated(np.array([0.02, 0.02, 0.02])))
    assert (found.p, found.interval, found.effect) == (0.25, None, None)
    assert compare(Replicated(np.zeros(3))).p == 1.0


@pytest.mark.parametrize(("between", "shared"), [(1.0, 0.5), (0.0, 2.0), (0.3, 2.0)])
def test_equal_variants_are_rarely_told_apart(between: float, shared: float) -> None:
    rng = np.random.default_rng(6)
    wrong = 0
    for _ in range(300):
        difference = crossed(rng, replicates=3, units=60, between=between, shared=shared, own=shared)
        p = compare(replicated(with_count(difference), mean_of, draws=300)).p
        wrong += p is not None and p < 0.05
    assert wrong / 300 <= 0.08  # 5 % and two and a half standard errors of 300 trials


def test_samples_find_what_three_replicates_alone_cannot() -> None:
    rng = np.random.default_rng(6)
    found = 0
    for _ in range(100):
        difference = 0.5 + crossed(rng, replicates=3, units=60, between=0.02, shared=1.0, own=1.0)
        p = compare(replicated(with_count(difference), mean_of, draws=300)).p
        found += p is not None and p < 0.05
    assert found >= 60


def test_effect_size_has_hedges_correction() -> None:
    values = np.array([0.2, 0.4, 0.1, 0.3, 0.5])
    plain = values.mean() / values.std(ddof=1)
    assert hedges_dz(values) == pytest.approx(plain * (1 - 3 / (4 * 4 - 1)), rel=0.005)  # his approximation
    draws = np.random.default_rng(1).normal(0.8, 1.0, (40_000, 5))
    assert np.mean([hedges_dz(d) for d in draws]) == pytest.approx(0.8, abs=0.02)
    assert hedges_dz([0.1, 0.2]) is None
    assert hedges_dz([0.1, 0.1, 0.1]) is None


def test_rank_biserial_is_the_signed_share_of_wilcoxons_rank_sum() -> None:
    values = np.random.default_rng(2).normal(0.3, 1.0, 40)
    smaller = stats.wilcoxon(values).statistic
    total = 40 * 41 / 2
    assert rank_biserial(values) == pytest.approx((total - 2 * smaller) / total)
    assert rank_biserial(-values) == pytest.approx(-(total - 2 * smaller) / total)
    assert rank_biserial([0.1, 0.2, 0.0]) == 1.0
    assert rank_biserial([0.0, 0.0]) is None


@pytest.mark.parametrize("replicates", [2, 3, 5, 12])
@pytest.mark.parametrize("difference", [0.004, 0.02, 5.0])
def test_power_is_that_of_statsmodels(replicates: int, difference: float) -> None:
    theirs = TTestPower().power(difference / 0.01, nobs=replicates, alpha=0.05)
    mine = power_of(difference, std=0.01, replicates=replicates)
    if math.isnan(theirs):  # SciPy's noncentral t has no value there
        theirs = 1.0
    assert mine == pytest.approx(theirs, abs=2e-5)


@pytest.mark.parametrize("replicates", [2, 3, 5, 12])
def test_smallest_resolvable_difference_is_that_of_statsmodels(replicates: int) -> None:
    theirs = TTestPower().solve_power(nobs=replicates, alpha=0.05, power=0.8) * 0.01
    assert smallest_resolvable(std=0.01, replicates=replicates) == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize("difference", [0.03, 0.01, 0.004])
def test_replicates_needed_are_those_of_statsmodels(difference: float) -> None:
    theirs = TTestPower().solve_power(effect_size=difference / 0.01, alpha=0.05, power=0.8)
    assert replicates_needed(difference, std=0.01) == math.ceil(theirs)
    assert replicates_needed(-difference, std=0.01) == math.ceil(theirs)


def test_what_no_number_of_replicates_resolves() -> None:
    assert replicates_needed(0.0, std=0.01) is None
    assert replicates_needed(0.01, std=0.0) is None
    assert replicates_needed(1e-5, std=0.01) is None
    assert replicates_needed(0.01, std=0.01, sample_se=0.006) is None
    assert smallest_resolvable(std=0.01, replicates=1) is None
    assert smallest_resolvable(std=0.0, replicates=3) is None
    assert MAX_REPLICATES >= 100


def test_power_with_a_test_set_of_finite_size_is_that_of_simulated_studies() -> None:
    rng = np.random.default_rng(12)
    found = 0
    for _ in range(1500):
        values = 0.9 + rng.normal(0, 1.0, 10) + rng.normal(0, 0.1)
        between = values.var(ddof=1) / 10
        df = 9 * ((between + 0.01) / between) ** 2
        found += 2 * stats.t.sf(abs(values.mean()) / math.sqrt(between + 0.01), df) < 0.05
    assert power_of(0.9, std=1.0, replicates=10, sample_se=0.1) == pytest.approx(found / 1500, abs=0.035)


def test_many_differences_at_once_are_those_one_by_one() -> None:
    differences = np.random.default_rng(0).normal(0.1, 0.2, (40, 3))
    differences[3] = 0.0
    differences[4] = 0.25
    for pooled in (None, Pooled(0.03, 12.0)):
        found = p_values(differences, pooled)
        assert found == pytest.approx([p_value(Replicated(d), pooled) for d in differences], rel=1e-12)
