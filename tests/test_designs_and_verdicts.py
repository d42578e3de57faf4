"""Factorial effects, Shapley shares, ranks and verdicts: against statsmodels, SciPy, enumeration and printed tables."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats
from statsmodels.stats.weightstats import DescrStatsW

from reports.equivalence import Verdict, equivalence
from reports.factorial import Effect, Factorial, Setting
from reports.intervals import Replicated, interval
from reports.ranks import mean_ranks
from reports.significance import p_value

FACTORS = {"kernel": (1, 3, 5), "noise": (False, True), "fusion": ("sum", "corr")}
SETTINGS = list(itertools.product(*FACTORS.values()))
Scores = dict[tuple[object, ...], list[float]]


def full(scores: Scores, factors: Mapping[str, Sequence[object]] = FACTORS) -> Factorial:
    return Factorial(factors, {setting: Replicated(np.array(values)) for setting, values in scores.items()})


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
    for effect in (*full(scores).main_effects(), *full(scores).interactions()):
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
    found = full(drawn(1, replicates=5)).interactions()
    strong = [(e.name, e.levels) for e in found if e.p is not None and e.p < 0.001]
    assert strong == [(("kernel", "noise"), (5, True))]
    effect = next(e for e in found if e.levels == (5, True))
    assert effect.value == pytest.approx(0.03, abs=0.008)


def test_main_effects_are_differences_of_marginal_means() -> None:
    scores = drawn(2)
    frame = as_frame(scores)
    means = frame.groupby("noise")["score"].mean()
    assert named(full(scores).main_effects(), "noise").value == pytest.approx(means[True] - means[False])


def on_samples(factors: Mapping[str, Sequence[int]], *, moved: float, seed: int = 6) -> dict[Setting, Replicated]:
    """Three replicates and draws of 50 test samples, which move what the first factor adds by `moved`."""
    rng = np.random.default_rng(seed)
    both, of_first = rng.normal(0, 0.05, (2000, 1)), rng.normal(0, moved, (2000, 1))
    return {
        setting: Replicated(
            rng.normal(0.6 + 0.03 * setting[0], 0.004, 3),
            0.6 + both + of_first * setting[0] + rng.normal(0, 0.001, (2000, 3)),
            50,
        )
        for setting in itertools.product(*factors.values())
    }


def test_the_effect_of_one_factor_of_two_levels_is_the_paired_difference() -> None:
    scores = on_samples({"a": (0, 1)}, moved=0.02)
    (effect,) = Factorial({"a": (0, 1)}, scores).main_effects()
    between = scores[1,].minus(scores[0,])
    assert effect.interval == pytest.approx(interval(between))
    assert effect.p == pytest.approx(p_value(between))


def test_test_samples_widen_what_they_move_and_nothing_else() -> None:
    factors = {"a": (0, 1), "b": (0, 1)}
    scores = on_samples(factors, moved=0.02)
    found, bare = (Factorial(factors, of) for of in (scores, {s: Replicated(r.values) for s, r in scores.items()}))
    assert (found.on_samples, bare.on_samples) == (True, False)
    wider = {
        e.name: float(np.ptp(e.interval or ())) / float(np.ptp(without.interval or ()))
        for e, without in zip(
            [*found.main_effects(), *found.interactions(), *found.means(("b",))],
            [*bare.main_effects(), *bare.interactions(), *bare.means(("b",))],
            strict=True,
        )
    }
    assert wider.pop(("a",)) > 3
    assert wider == pytest.approx({("b",): 1.0, ("a", "b"): 1.0}, abs=0.05)


def test_no_interaction_of_many_levels_does_not_depend_on_their_order() -> None:
    factors = {"a": (0, 1, 2), "b": (0, 1)}
    scores = on_samples(factors, moved=0.02)
    scores |= {(2, 1): Replicated(scores[2, 1].values + 0.02, scores[2, 1].draws, 50)}
    of_samples = Factorial(factors, scores).interaction_p(("a", "b"))
    of_replicates = Factorial(factors, {s: Replicated(r.values) for s, r in scores.items()}).interaction_p(("a", "b"))
    assert of_replicates is not None
    assert of_samples is not None
    assert of_replicates < of_samples < 2 * of_replicates
    turned = Factorial({"a": (2, 0, 1), "b": (1, 0)}, scores).interaction_p(("a", "b"))
    assert turned == pytest.approx(of_samples)


def test_one_replicate_or_no_spread_has_no_interval() -> None:
    one = full({s: v[:1] for s, v in drawn(1).items()}).main_effects()
    assert {(e.interval, e.p) for e in one} == {(None, None)}
    same = full({s: [v[0]] * 2 for s, v in drawn(1).items()}).main_effects()
    assert {(e.interval, e.p) for e in same} == {(None, None)}
    assert [e.value for e in same] == pytest.approx([e.value for e in one])


def test_designs_that_are_not_full_are_refused() -> None:
    scores = drawn(1)
    with pytest.raises(ValueError, match="not two levels"):
        full(scores).shapley()
    with pytest.raises(ValueError, match=r"the same replicates, got \[2, 3\] of them"):
        full({**scores, SETTINGS[0]: [0.5, 0.6]})
    del scores[SETTINGS[3]]
    with pytest.raises(ValueError, match="1 are missing"):
        full(scores)


def test_shapley_shares_are_averages_over_all_orders_of_adding() -> None:
    rng = np.random.default_rng(4)
    parts = dict.fromkeys("abcd", (False, True))
    scores: Scores = {s: list(rng.random(3)) for s in itertools.product((False, True), repeat=4)}
    found = full(scores, parts).shapley()
    for place, effect in enumerate(found):
        gains = []
        for order in itertools.permutations(range(4)):
            before = set(order[: order.index(place)])
            off = tuple(i in before for i in range(4))
            on = tuple(i in before or i == place for i in range(4))
            gains.append(np.mean(scores[on]) - np.mean(scores[off]))
        assert effect.value == pytest.approx(np.mean(gains))
    whole = np.mean(scores[(True,) * 4]) - np.mean(scores[(False,) * 4])
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
    assert full(scores, parts).shapley()[0].interval == pytest.approx(tuple(fit.t_test(contrast).conf_int()[0]))


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
