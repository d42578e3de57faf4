"""Factorial effects, Shapley shares, ranks and verdicts: against statsmodels, SciPy, enumeration and printed tables."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats
from statsmodels.stats.weightstats import DescrStatsW

from reports.equivalence import Verdict, equivalence
from reports.factorial import Effect, Factorial
from reports.ranks import mean_ranks

FACTORS = {"kernel": (1, 3, 5), "noise": (False, True), "fusion": ("sum", "corr")}
SETTINGS = list(itertools.product(*FACTORS.values()))
Scores = dict[tuple[object, ...], list[float | None]]


def drawn(seed: int, *, replicates: int = 3) -> Scores:
    rng = np.random.default_rng(seed)
    level = rng.normal(0, 0.02, replicates)
    return {
        s: [float(v) for v in 0.6 + 0.02 * s[1] + 0.03 * (s[0] == 5) * s[1] + level + rng.normal(0, 0.005, replicates)]
        for s in SETTINGS
    }


def as_frame(scores: Scores) -> pd.DataFrame:
    rows = [(*s, i, v) for s, values in scores.items() for i, v in enumerate(values)]
    frame = pd.DataFrame(rows, columns=[*FACTORS, "replicate", "score"])
    return frame.assign(cell=frame[list(FACTORS)].astype(str).agg("|".join, axis=1))


def named(effects: list[Effect], *name: str) -> Effect:
    return next(e for e in effects if e.name == name)


def test_effects_are_those_of_least_squares() -> None:
    scores = drawn(1)
    frame = as_frame(scores)
    fit = smf.ols("score ~ C(cell) + C(replicate)", frame).fit()
    for effect in (*Factorial(FACTORS, scores).main_effects(), *Factorial(FACTORS, scores).interactions()):
        signs = {
            cell: math.prod(
                {str(level): 1, str(FACTORS[n][0]): -1}.get(cell.split("|")[list(FACTORS).index(n)], 0)
                for n, level in zip(effect.name, effect.levels, strict=True)
            )
            for cell in frame["cell"].unique()
        }
        share = math.prod(len(v) for n, v in FACTORS.items() if n not in effect.name)
        names = [f"C(cell)[T.{c}]" for c in signs]
        contrast = [dict(zip(names, signs.values(), strict=True)).get(name, 0) / share for name in fit.params.index]
        test = fit.t_test(contrast)
        assert effect.value == pytest.approx(test.effect[0])
        assert effect.interval == pytest.approx(tuple(test.conf_int()[0]))
        assert effect.p == pytest.approx(test.pvalue)


def test_an_interaction_is_found_where_it_is_and_only_there() -> None:
    found = Factorial(FACTORS, drawn(1, replicates=5)).interactions()
    strong = [(e.name, e.levels) for e in found if e.p is not None and e.p < 0.001]
    assert strong == [(("kernel", "noise"), (5, True))]
    effect = next(e for e in found if e.levels == (5, True))
    assert effect.value == pytest.approx(0.03, abs=0.008)


def test_main_effects_are_differences_of_marginal_means() -> None:
    scores = drawn(2)
    frame = as_frame(scores)
    means = frame.groupby("noise")["score"].mean()
    assert named(Factorial(FACTORS, scores).main_effects(), "noise").value == pytest.approx(means[True] - means[False])


def test_a_replicate_that_a_setting_lacks_is_left_out() -> None:
    scores = drawn(1)
    whole = Factorial(FACTORS, {s: v[:2] for s, v in scores.items()})
    scores[SETTINGS[0]] = scores[SETTINGS[0]][:2]
    scores[SETTINGS[1]] = [*scores[SETTINGS[1]][:2], None]
    found = Factorial(FACTORS, scores)
    assert (found.replicates, found.left_out) == (2, 1)
    assert found.main_effects() == whole.main_effects()


def test_one_replicate_or_no_spread_has_no_interval() -> None:
    one = Factorial(FACTORS, {s: v[:1] for s, v in drawn(1).items()}).main_effects()
    assert {(e.interval, e.p) for e in one} == {(None, None)}
    same = Factorial(FACTORS, {s: [v[0] or 0.0] * 2 for s, v in drawn(1).items()}).main_effects()
    assert {(e.interval, e.p) for e in same} == {(None, None)}
    assert [e.value for e in same] == pytest.approx([e.value for e in one])


def test_designs_that_are_not_full_are_refused() -> None:
    scores = drawn(1)
    with pytest.raises(ValueError, match="not two levels"):
        Factorial(FACTORS, scores).shapley()
    with pytest.raises(ValueError, match="at least one replicate"):
        Factorial(FACTORS, {s: [None] for s in SETTINGS})
    del scores[SETTINGS[3]]
    with pytest.raises(ValueError, match="1 are missing"):
        Factorial(FACTORS, scores)


def test_shapley_shares_are_averages_over_all_orders_of_adding() -> None:
    rng = np.random.default_rng(4)
    parts = dict.fromkeys("abcd", (False, True))
    scores: Scores = {s: list(rng.random(3)) for s in itertools.product((False, True), repeat=4)}
    found = Factorial(parts, scores).shapley()
    for place, effect in enumerate(found):
        gains = []
        for order in itertools.permutations(range(4)):
            before = set(order[: order.index(place)])
            off = tuple(i in before for i in range(4))
            on = tuple(i in before or i == place for i in range(4))
            gains.append(np.mean(scores[on]) - np.mean(scores[off]))  # type: ignore[arg-type]
        assert effect.value == pytest.approx(np.mean(gains))
    whole = np.mean(scores[(True,) * 4]) - np.mean(scores[(False,) * 4])  # type: ignore[arg-type]
    assert sum(e.value for e in found) == pytest.approx(whole)
    assert all(e.interval is not None and e.interval.low < e.value < e.interval.high for e in found)


def test_shapley_intervals_are_those_of_least_squares() -> None:
    parts = dict.fromkeys("ab", (False, True))
    scores: Scores = {s: list(np.random.default_rng(9).random(4)) for s in itertools.product((False, True), repeat=2)}
    scores = {s: [float(v or 0) + i * 0.1 * sum(map(int, s)) for i, v in enumerate(x)] for s, x in scores.items()}  # type: ignore[call-overload]
    frame = pd.DataFrame([(f"{s}", i, v) for s, x in scores.items() for i, v in enumerate(x)], columns=["c", "r", "y"])
    fit = smf.ols("y ~ C(c) + C(r)", frame).fit()
    weights = {"(True, False)": 0.5, "(True, True)": 0.5, "(False, True)": -0.5, "(False, False)": -0.5}
    contrast = [weights.get(name[7:-1], 0.0) for name in fit.params.index]
    assert Factorial(parts, scores).shapley()[0].interval == pytest.approx(tuple(fit.t_test(contrast).conf_int()[0]))


def test_two_one_sided_tests_are_those_of_statsmodels() -> None:
    values = [0.652, 0.661, 0.657, 0.655]
    found = equivalence(values, 0.66, margin=0.01)
    assert found.p == pytest.approx(DescrStatsW(np.array(values)).ttost_mean(0.65, 0.67)[0])
    assert found.difference == pytest.approx(np.mean(values) - 0.66)


@pytest.mark.parametrize(
    ("ours", "published", "verdict"),
    [
        ([0.660, 0.661, 0.662], 0.6612, Verdict.REPRODUCED),
        ([0.640, 0.661, 0.672], 0.665, Verdict.WITHIN_NOISE),
        ([0.600, 0.603, 0.601], 0.660, Verdict.NOT_REPRODUCED),
        ([0.660, 0.660], 0.6612, Verdict.REPRODUCED),
        ([0.600, 0.600], 0.660, Verdict.NOT_REPRODUCED),
        ([0.66], 0.66, Verdict.UNDECIDED),
        ([], 0.66, Verdict.UNDECIDED),
    ],
)
def test_verdicts(ours: list[float], published: float, verdict: Verdict) -> None:
    assert equivalence(ours, published).verdict is verdict


def test_figures_of_another_protocol_are_not_compared() -> None:
    found = equivalence([0.66, 0.66, 0.66], 0.66, comparable=False)
    assert (found.verdict, found.p) == (Verdict.NOT_COMPARABLE, None)


def test_a_further_replicate_is_within_noise_as_often_as_promised() -> None:
    rng = np.random.default_rng(5)
    drawn_scores = rng.normal(0.6, 0.05, (2000, 4))
    verdicts = [equivalence(list(row[:3]), row[3], margin=1e-6).verdict for row in drawn_scores]
    assert np.mean([v is Verdict.WITHIN_NOISE for v in verdicts]) == pytest.approx(0.95, abs=0.015)


def test_a_method_that_differs_by_the_margin_is_called_reproduced_in_one_of_twenty() -> None:
    rng = np.random.default_rng(5)
    drawn_scores = rng.normal(0.6, 0.004, (2000, 3))
    verdicts = [equivalence(list(row), 0.61, margin=0.01).verdict for row in drawn_scores]
    assert np.mean([v is Verdict.REPRODUCED for v in verdicts]) == pytest.approx(0.05, abs=0.015)


def test_ranks_and_friedman_are_scipys() -> None:
    table = np.random.default_rng(7).random((9, 4))
    found = mean_ranks(table.tolist())
    assert found is not None
    assert found.mean == pytest.approx(tuple(stats.rankdata(-table, axis=1).mean(axis=0)))
    assert found.p == pytest.approx(stats.friedmanchisquare(*table.T).pvalue)
    lower = mean_ranks(table.tolist(), higher_is_better=False)
    assert lower is not None
    assert lower.mean == pytest.approx(tuple(5 - np.array(found.mean)))


@pytest.mark.parametrize(("variants", "q"), [(3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)])
def test_critical_difference_has_the_printed_quantiles(variants: int, q: float) -> None:
    """Demšar 2006, table 5 (a), Nemenyi at 0.05."""
    found = mean_ranks(np.random.default_rng(0).random((14, variants)).tolist())
    assert found is not None
    assert found.critical_difference == pytest.approx(q * math.sqrt(variants * (variants + 1) / (6 * 14)), abs=1e-3)


def test_incomplete_blocks_are_left_out_and_counted() -> None:
    table: list[list[float | None]] = [list(row) for row in np.random.default_rng(7).random((5, 3))]
    whole = mean_ranks(table)
    found = mean_ranks([*table, [0.1, None, 0.3]])
    assert whole is not None
    assert found is not None
    assert (found.blocks, found.left_out, found.mean) == (5, 1, whole.mean)


def test_too_little_to_rank() -> None:
    assert mean_ranks([[0.1, 0.2], [0.1, 0.2]]) is None
    assert mean_ranks([[0.1, 0.2, 0.3]]) is None
    assert mean_ranks([]) is None
    tied = mean_ranks([[0.1, 0.1, 0.1], [0.2, 0.2, 0.2]])
    assert tied is not None
    assert (tied.p, tied.mean) == (1.0, (2.0, 2.0, 2.0))
