"""Numbers of a paper's figures against NumPy, SciPy and enumeration; when they are not drawn; equal bytes twice."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.multitest import multipletests

from reports.artifacts import NotDrawn
from reports.cost_figure import on_front
from reports.delta_figure import differences, draw_delta
from reports.drawing import Drawing, latex_float
from reports.factors import full_factorial, level_text
from reports.figures import FIGURES, draw_figures
from reports.rank_figure import alike
from reports.results import Results
from reports.style import fills, house_style, points
from reports.tables import build_table
from tests.designed_study import make_designed
from tests.drawn_study import make_request
from tests.judged_study import CHANGES, make_judged
from tests.report_frame import Change
from tests.semantic_frame import make_semantic_request

Floats = NDArray[np.float64]

PARTS: dict[str, Change] = {"full": {}, "w/o noise": {"noise": False}, "w/o fusion": {"fusion": "sum"}}
SCORES = {
    "full": (0.60, 0.62, 0.61),
    "w/o noise": (0.598, 0.623, 0.607),
    "w/o fusion": (0.50, 0.53, 0.515),
}


def recorded(label: str, replicate: int) -> float | None:
    return SCORES[label][replicate]


def drawn(request: Results, name: str) -> Drawing:
    """The first figure of that name."""
    return FIGURES[name].draw(request, request.plan.tables[0])[0]


def test_delta_shows_the_numbers_of_the_table() -> None:
    plan, table, frame, sources = make_judged()
    request = Results(plan, frame, sources)
    model = build_table(Results(plan, frame, sources), table)
    cells = {row.label: row.cells[-1] for block in model.blocks for row in block.rows}
    found = differences(request, table)
    assert len(found) == 3
    for line in found:
        cell = cells[line.row.label]
        assert np.mean(line.values) == pytest.approx(cell.value)
        assert line.interval == cell.interval
        assert line.judged is not None
        assert line.judged.p == cell.p
    (drawing,) = draw_delta(request, table)
    assert "Student's t over replicates and test samples" in drawing.caption
    assert "Holm's correction over all differences of the table" in drawing.caption


def test_delta_intervals_and_tests_by_hand() -> None:
    drawing = drawn(make_designed(PARTS, recorded), "delta")
    full, noise, fusion = (np.array(v) for v in SCORES.values())
    pairs = [full - noise, full - fusion, noise - fusion]
    pooled = np.mean([d.var(ddof=1) for d in pairs])
    excess = np.mean([d.var(ddof=1) for d in pairs[:2]]) - pooled  # of the reference, which varies more here
    assert excess > 0
    # (rows - 1) x (replicates - 1) of the pool, replicates - 1 of the reference
    df = min(4, (pooled + excess) ** 2 / (pooled**2 / 4 + excess**2 / 2))
    raw = []
    for label, d in (("w/o noise", noise - full), ("w/o fusion", fusion - full)):
        se = np.sqrt(max(d.var(ddof=1), pooled + excess) / 3)
        raw.append(2 * stats.t.sf(abs(d.mean()) / se, df))
        lines = drawing.data[drawing.data.variant == label]
        assert lines["delta"].tolist() == pytest.approx(d.tolist())
        reach = stats.t.ppf(0.975, df) * se
        assert lines[["mean", "low", "high"]].iloc[0].tolist() == pytest.approx(
            [d.mean(), d.mean() - reach, d.mean() + reach]
        )
    assert drawing.data.groupby("variant", sort=False)["p"].first().tolist() == pytest.approx(
        [max(raw[0], 2 * raw[1]), 2 * raw[1]]
    )


def test_delta_of_one_replicate_has_no_interval_and_a_missing_one_is_counted() -> None:
    one = drawn(make_designed(PARTS, recorded, replicates=1), "delta")
    assert one.data[["low", "high", "p"]].isna().all(axis=None)
    assert one.caption.endswith("No row has two pairs, so there is no interval and no test.")
    lost = make_designed(PARTS, lambda label, r: None if (label, r) == ("w/o noise", 1) else recorded(label, r))
    drawing = drawn(lost, "delta")
    assert drawing.data[drawing.data.variant == "w/o noise"]["replicate"].tolist() == [0, 2]
    labels = [text.get_text() for text in drawing.figure.axes[0].get_yticklabels()]
    assert labels == ["w/o noise (n=2/3)", "w/o fusion"]


def test_a_row_without_a_pair_says_so() -> None:
    lost = make_designed(PARTS, lambda label, r: None if label == "w/o noise" else recorded(label, r))
    drawing = drawn(lost, "delta")
    assert [text.get_text() for text in drawing.figure.axes[0].texts] == ["no pair"]
    assert drawing.data["variant"].unique().tolist() == ["w/o fusion"]
    assert drawing.figure.axes[0].get_yticklabels()[0].get_text() == "w/o noise (n=0/3)"


def test_points_and_bars_of_many_variants_differ() -> None:
    assert len(set(points(49))) == 49
    assert len(set(fills(42))) == 42
    for a, b in itertools.pairwise(fills(42)):
        assert a.facecolor != b.facecolor
        assert a.hatch != b.hatch


# Costs


def cost_of(label: str) -> dict[str, float]:
    return {
        "full": {"gmacs": 300.0, "parameters": 2e8, "gpu_hours": 0.0},
        "w/o noise": {"gmacs": 290.0, "parameters": 2e8, "gpu_hours": 0.0},
        "w/o fusion": {"gmacs": 20.0, "parameters": 2.1e8, "gpu_hours": 0.0},
    }[label]


def test_cost_shows_means_spreads_and_the_front() -> None:
    request = make_designed(PARTS, recorded, costs=cost_of)
    (drawing,) = FIGURES["cost"].draw(request, request.plan.tables[0])  # GPU-hours are 0 and no axis
    data = drawing.data.set_index(["cost", "variant"])
    for label, scores in SCORES.items():
        line = data.loc[("gmacs", label)]
        assert (line["mean"], line["std"]) == pytest.approx((np.mean(scores), np.std(scores, ddof=1)))
        assert line["value"] == cost_of(label)["gmacs"]
    assert data.loc["gmacs"]["on_front"].tolist() == [True, True, True]
    assert data.loc["parameters"]["on_front"].tolist() == [True, False, False]
    left, right = drawing.figure.axes
    assert (left.get_xscale(), right.get_xscale()) == ("log", "linear")
    assert "The front goes by means and is no test" in drawing.caption


def test_times_are_a_figure_of_their_own() -> None:
    request = make_designed(PARTS, recorded, costs=lambda label: {"latency_ms": 10.0 + len(label)}, replicates=1)
    (drawing,) = FIGURES["cost"].draw(request, request.plan.tables[0])
    assert drawing.name == "cost_time_parts"
    assert "A point is one replicate: no spread is known." in drawing.caption
    assert drawing.caption.endswith("compare them only where those were the same.")


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=8))
def test_the_front_is_what_the_definition_says(places: list[tuple[int, int]]) -> None:
    for higher in (True, False):
        found = on_front(places, higher_is_better=higher)
        for (cost, score), on in zip(places, found, strict=True):
            at_most = [s for c, s in places if c <= cost]
            best = max(at_most) if higher else min(at_most)
            cheapest = min(c for c, s in places if s == score)
            assert on == (score == best and cost == cheapest)


# Ranks


def test_ranks_are_over_classes_of_splits_and_match_scipy() -> None:
    request = make_semantic_request()
    drawing = drawn(request, "ranks")
    table = drawing.data.pivot(index="block", columns="variant", values="score")
    assert len(table) == 5  # two classes of val, three of test
    means = request.frame.query("split == 'test' and metric == 'iou.water'").groupby("variant")["value"].mean()
    assert table.loc["test, water"].to_dict() == pytest.approx(means.to_dict())
    ranks = stats.rankdata(-table.to_numpy(), axis=1).mean(axis=0)
    by_variant = drawing.data.groupby("variant")["mean_rank"].first()
    assert by_variant[table.columns].tolist() == pytest.approx(ranks.tolist())
    assert drawing.data["friedman_p"][0] == pytest.approx(stats.friedmanchisquare(*table.to_numpy().T).pvalue)
    # Demšar (2006), table 5: q of three classifiers at 0.05 is 2.343
    assert drawing.data["critical_difference"][0] == pytest.approx(2.343 * np.sqrt(3 * 4 / (6 * 5)), abs=1e-3)
    assert "over 5 blocks: the classes of validation and test of whu_opt_sar." in drawing.caption
    assert "are not independent" in drawing.caption
    texts = [text.get_text() for text in drawing.figure.axes[0].texts]
    assert "CMX (n=2/3)" in texts


def test_ranks_of_referring_studies_are_over_categories_without_controls() -> None:
    request = make_request()
    drawing = drawn(request, "ranks")
    assert drawing.data["block"].unique().tolist() == ["validation, harbor", "validation, ship"]
    samples = pd.concat(
        [request.sources.artifacts.samples(f"MAFN|{r}", "val").assign(r=r) for r in range(2)]  # type: ignore[union-attr]
    )
    iou = (samples["intersection"] / samples["union"]).fillna(0.0)
    expected = iou.groupby([samples["category"], samples["r"]]).mean().groupby("category").mean()
    found = drawing.data[drawing.data.variant == "MAFN"]["score"]
    assert found.tolist() == pytest.approx(expected.tolist())


def test_incomplete_blocks_and_rows_without_scores_are_left_out_and_said() -> None:
    request = make_semantic_request()
    frame = request.frame
    lost = frame[~((frame.metric == "iou.water") & (frame.split == "test") & (frame.variant == "DF2RQ"))]
    drawing = drawn(replace(request, frame=lost), "ranks")
    assert "over 4 blocks" in drawing.caption
    assert "; 1 more, in which a row has no score, are left out." in drawing.caption
    with pytest.raises(NotDrawn, match="rows: 2, such blocks: 5"):
        drawn(replace(request, frame=frame[frame.variant != "CMX"]), "ranks")
    four = make_designed({**PARTS, "never": {"decoder": "arc"}}, score_of_most, splits=("val", "test", "other"))
    assert drawn(four, "ranks").caption.endswith("Not ranked, without a score: never.")


def score_of_most(label: str, replicate: int) -> float | None:
    return None if label == "never" else recorded(label, replicate)


def test_bars_join_what_cannot_be_told_apart() -> None:
    assert alike([1.0, 2.0, 3.5, 4.0], critical_difference=1.2) == [(0, 1), (2, 3)]
    assert alike([4.0, 2.0, 3.0, 1.0], critical_difference=2.0) == [(3, 1, 2), (1, 2, 0)]
    assert alike([1.0, 2.0], critical_difference=0.5) == []
    assert alike([1.5, 1.5], critical_difference=0.5) == [(0, 1)]


# Classes


def test_class_bars_are_means_and_spreads_of_every_class() -> None:
    request = make_semantic_request()
    drawing = drawn(request, "class_bars")
    assert drawing.data["class"].unique().tolist() == ["farmland", "low vegetation", "water", "mean"]
    scores = request.frame[request.frame.split == "test"]
    for line in drawing.data.itertuples():
        values = scores[(scores.variant == line.variant) & (scores.metric == line.metric)]["value"]
        assert (line.mean, line.std, line.n) == (pytest.approx(values.mean()), pytest.approx(values.std()), len(values))
    handles = drawing.figure.legends[0].get_texts()
    assert [text.get_text() for text in handles] == ["DF2RQ", "CMX (n=2/3)", "Late concat"]
    heights = sorted(bar.get_height() for bar in drawing.figure.axes[0].patches)
    assert heights == pytest.approx(sorted(100 * drawing.data["mean"]))


def test_many_classes_stand_on_several_lines_within_one_range() -> None:
    request = make_semantic_request()
    frame = request.frame
    done = frame[(frame.split == "test") & (frame.metric == "miou")]
    more = [done.assign(metric=f"iou.class_{i}", value=0.02 * i) for i in range(40)]
    drawing = drawn(replace(request, frame=pd.concat([frame, *more])), "class_bars")
    assert len(drawing.figure.axes) > 1
    assert len({axes.get_ylim() for axes in drawing.figure.axes}) == 1
    assert sum(len(axes.patches) for axes in drawing.figure.axes) == 3 * 44
    bare = frame[~frame.metric.fillna("").str.contains(".", regex=False)]
    with pytest.raises(NotDrawn, match="scores of single classes on test"):
        drawn(replace(request, frame=bare), "class_bars")


# Factorial designs

FACTORS = {"fusion": ("sum", "correlation"), "noise": (False, True), "kernels": ((1,), (1, 3), (1, 3, 5))}


def changes(setting: tuple[object, ...], factors: dict[str, tuple[object, ...]]) -> Change:
    """What a setting changes in the reference, whose levels are the last ones."""
    return {name: level for (name, of), level in zip(factors.items(), setting, strict=True) if level != of[-1]}


def factorial(names: Sequence[str], *, replicates: int = 3, without: int | None = None) -> tuple[Results, Floats]:
    """A grid of some factors, a label being the setting's number, and its scores `(levels, ..., replicates)`."""
    factors = {name: FACTORS[name] for name in names}
    settings = list(itertools.product(*factors.values()))
    rng = np.random.default_rng(3)
    scores = rng.normal(0.6, 0.02, (len(settings), 1)) + rng.normal(0, 0.004, (len(settings), replicates))
    scores += rng.normal(0, 0.02, replicates)
    rows = {str(i): changes(setting, factors) for i, setting in enumerate(settings) if i != without}
    request = make_designed(rows, lambda label, r: float(scores[int(label), r]), replicates=replicates)
    return request, scores.reshape(*(len(of) for of in factors.values()), replicates)


def test_interactions_of_two_factors_by_hand() -> None:
    request, scores = factorial(("fusion", "noise"))
    data = drawn(request, "interaction").data
    contrast = scores[1, 1] - scores[1, 0] - scores[0, 1] + scores[0, 0]  # per replicate
    (line,) = data[data.what == "interaction"].itertuples()
    assert (line.factor, line.other) == ("fusion", "noise")
    assert line.value == pytest.approx(contrast.mean())
    cells = scores.reshape(4, 3)
    residual = cells - cells.mean(0) - cells.mean(1, keepdims=True) + cells.mean()
    variance = (residual**2).sum() / 6
    reach = stats.t.ppf(0.975, 6) * np.sqrt(4 * variance / 3)
    assert (line.low, line.high) == pytest.approx((contrast.mean() - reach, contrast.mean() + reach))
    assert line.p_panel == pytest.approx(2 * stats.t.sf(abs(contrast.mean()) / np.sqrt(4 * variance / 3), 6))
    means = data[data.what == "mean"]
    assert means["value"].tolist() == pytest.approx(cells.mean(1).tolist())
    assert means[["level", "other_level"]].to_numpy().tolist() == [
        *(["sum", "off"], ["sum", "on"], ["correlation", "off"], ["correlation", "on"])
    ]
    # Loftus and Masson (1994): the half width of every mean
    half = stats.t.ppf(0.975, 6) * np.sqrt(variance / 3)
    assert (means["high"] - means["value"]).tolist() == pytest.approx([half] * 4)


def test_interactions_of_many_levels_are_the_f_test_of_statsmodels() -> None:
    request, scores = factorial(tuple(FACTORS))
    drawing = drawn(request, "interaction")
    names = ("fusion", "noise", "kernels", "replicate")
    frame = pd.DataFrame([(*at, v) for at, v in np.ndenumerate(scores)], columns=[*names, "score"])
    terms = " * ".join(f"C({name}, Sum)" for name in names[:3])
    table = anova_lm(smf.ols(f"score ~ {terms} + C(replicate)", frame).fit(), typ=3)
    pairs = list(itertools.combinations(names[:3], 2))
    raw = [table["PR(>F)"][f"C({a}, Sum):C({b}, Sum)"] for a, b in pairs]
    found = drawing.data.groupby(["factor", "other"], sort=False)["p_panel"].first()
    assert list(found.index) == pairs
    assert found.tolist() == pytest.approx(multipletests(raw, method="holm")[1].tolist())
    means = drawing.data[(drawing.data.what == "mean") & (drawing.data.other == "kernels")]
    assert means[means.factor == "noise"]["value"].tolist() == pytest.approx(scores.mean(axis=(0, 3)).ravel().tolist())
    assert [axes.get_title().splitlines()[0] for axes in drawing.figure.axes] == [
        *("fusion × noise", "fusion × kernels", "noise × kernels")
    ]


def test_designs_that_are_not_full_factorials_have_no_interactions_and_no_shares() -> None:
    missing = factorial(("fusion", "noise"), without=1)[0]
    for name in ("interaction", "shapley"):
        with pytest.raises(NotDrawn, match="rows differ in fusion and noise, and 3 of 4 combinations are there"):
            drawn(missing, name)
    one = make_designed({"a": {}, "b": {"noise": False}}, lambda _, r: 0.5 + 0.01 * r)
    with pytest.raises(NotDrawn, match="at least 2 factors; the rows differ in noise only"):
        drawn(one, "interaction")
    with pytest.raises(NotDrawn, match="the rows do not differ"):
        drawn(make_designed({"full": {}}, recorded), "interaction")
    with pytest.raises(NotDrawn, match="kernels has more than two levels"):
        drawn(factorial(("noise", "kernels"))[0], "shapley")
    request, _ = factorial(("fusion", "noise"))
    failed = replace(request, frame=request.frame[request.frame["variant"] != "parts/2"])
    with pytest.raises(NotDrawn, match="no replicate is complete in every row"):
        drawn(failed, "interaction")


def test_paths_that_change_together_are_one_factor() -> None:
    both = {"fusion": "sum", "decoder": "arc"}
    rows: dict[str, Change] = {"a": {}, "b": both, "c": {"noise": False}, "d": {**both, "noise": False}}
    request = make_designed(rows, lambda label, r: 0.5 + 0.01 * r + 0.02 * (label == "a"))
    design = full_factorial(request.plan, request.plan.tables[0])
    assert design.factors == {"fusion": ('"sum"', '"correlation"'), "noise": ("false", "true")}
    assert [row.label for row in design.rows.values()] == ["a", "b", "c", "d"]


def test_levels_are_ordered_so_that_effects_are_those_of_switching_on() -> None:
    moved = {"decoder": "arc"}  # in every row, so that it is no factor; the reference is none of them
    rows: dict[str, Change] = {
        "a": {**moved, "noise": True, "aux": True},
        "b": {**moved, "noise": True, "aux": False},
        "c": {**moved, "noise": False, "aux": True},
        "d": {**moved, "noise": False, "aux": False},
    }
    request = make_designed(rows, lambda label, r: 0.5 + 0.01 * r + 0.02 * (label == "a"))
    design = full_factorial(request.plan, request.plan.tables[0])
    assert design.factors == {"aux": ("false", "true"), "noise": ("false", "true")}
    assert [level_text(level) for level in ("true", "false", "null", '"sum"', "[1,3]")] == [
        *("on", "off", "none", "sum", "[1, 3]")
    ]
    plain = {"a": {}, "b": {"fusion": "sum"}, "c": {"decoder": "arc"}, "d": {"fusion": "sum", "decoder": "arc"}}
    request = make_designed(plain, lambda _, r: 0.5 + 0.01 * r)
    design = full_factorial(request.plan, request.plan.tables[0])
    assert design.factors == {"fusion": ('"sum"', '"correlation"'), "decoder": ('"arc"', '"msrc"')}
    added = {"a": {}, "b": {"width": 3}, "c": {"fusion": "sum"}, "d": {"width": 3, "fusion": "sum"}}
    request = make_designed(added, lambda _, r: 0.5 + 0.01 * r)
    design = full_factorial(request.plan, request.plan.tables[0])  # the reference is the plain method here
    assert design.factors == {"width": ("null", "3"), "fusion": ('"correlation"', '"sum"')}
    elsewhere = {"a": {}, "b": {"x.lr": 1}, "c": {"y.lr": 1}, "d": {"x.lr": 1, "y.lr": 1}}
    request = make_designed(elsewhere, lambda _, r: 0.5 + 0.01 * r)
    assert list(full_factorial(request.plan, request.plan.tables[0]).factors) == ["model.x.lr", "model.y.lr"]


def test_one_replicate_of_a_factorial_is_shown_and_not_tested() -> None:
    request, scores = factorial(("fusion", "noise"), replicates=1)
    drawing = drawn(request, "interaction")
    contrast = float((scores[1, 1] - scores[1, 0] - scores[0, 1] + scores[0, 0])[0])
    assert drawing.figure.axes[0].get_title().endswith(f"{100 * contrast:+.2f} points, not tested".replace("-", "−"))
    assert drawing.caption.endswith("One replicate: no spread is known, and nothing is tested.")
    assert drawing.data[["low", "high", "p", "p_panel"]].isna().all(axis=None)
    shares = drawn(request, "shapley")
    assert shares.data[["low", "high", "p"]].isna().all(axis=None)


def test_effects_of_a_factorial_rest_on_test_samples_where_all_rows_left_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CHANGES, "other decoder", {"noise": False, "fusion": "sum"})

    def studied(*lost: str) -> Results:
        plan, _, frame, sources = make_judged(lost=lost)
        return Results(plan, frame, sources)

    shares, pair, alone = (
        drawn(studied(), "shapley"),
        drawn(studied(), "interaction"),
        drawn(studied("full"), "shapley"),
    )
    assert "95 % intervals over replicates and test samples: least squares" in shares.caption
    assert "95 % intervals over replicates and test samples for comparing points" in pair.caption
    assert "95 % intervals over replicates alone (no results of at least 10 test samples" in alone.caption
    wider = (shares.data["high"] - shares.data["low"]) - (alone.data["high"] - alone.data["low"])
    assert wider.min() >= 0 < wider.max()  # rows like the same samples, so the part of the samples is about 0
    assert shares.data["value"].tolist() == pytest.approx(alone.data["value"].tolist())


def test_shares_are_averages_over_all_orders_and_add_up_to_the_gain() -> None:
    pair, scores = factorial(("fusion", "noise"))
    drawing = drawn(pair, "shapley")
    means = scores.mean(axis=-1)
    fusion = ((means[1, 0] - means[0, 0]) + (means[1, 1] - means[0, 1])) / 2
    noise = ((means[0, 1] - means[0, 0]) + (means[1, 1] - means[1, 0])) / 2
    gain = means[1, 1] - means[0, 0]
    assert drawing.data["label"].tolist() == ["fusion: sum → correlation", "noise", "all components"]
    assert drawing.data["value"].tolist() == pytest.approx([fusion, noise, gain])
    assert fusion + noise == pytest.approx(gain)
    cells = scores.reshape(4, 3)
    residual = cells - cells.mean(0) - cells.mean(1, keepdims=True) + cells.mean()
    se = np.sqrt((residual**2).sum() / 6 / 3)
    raw = [2 * stats.t.sf(abs(share) / se, 6) for share in (fusion, noise)]
    assert drawing.data["p"][:2].tolist() == pytest.approx(multipletests(raw, method="holm")[1].tolist())
    assert drawing.data["low"].tolist()[:2] == pytest.approx(
        [share - stats.t.ppf(0.975, 6) * se for share in (fusion, noise)]
    )
    assert "off, or at the left of their arrow, to all on" in drawing.caption
    assert "from all 4 subsets, n = 3 replicates" in drawing.caption


# Ladders

LADDER: dict[str, Change] = {
    "start": {"fusion": "sum", "noise": False, "decoder": "arc"},
    "+ fusion": {"noise": False, "decoder": "arc"},
    "+ noise": {"decoder": "arc"},
    "+ decoder": {},
}
RUNGS = np.array([[0.60, 0.61, 0.605], [0.63, 0.638, 0.637], [0.625, 0.645, 0.63], [0.65, 0.66, 0.659]])


def rung(label: str, replicate: int) -> float:
    return float(RUNGS[list(LADDER).index(label), replicate])


def test_a_waterfall_goes_from_start_to_end_by_paired_steps() -> None:
    drawing = drawn(make_designed(LADDER, rung, design="cumulative"), "waterfall")
    steps = np.diff(RUNGS, axis=0)
    data = drawing.data
    assert data["label"].tolist() == [*LADDER, "all"]
    assert data["value"].tolist() == pytest.approx([RUNGS[0].mean(), *steps.mean(1), RUNGS[-1].mean()])
    assert data["value"][:4].sum() == pytest.approx(data["value"][4])
    pooled = np.mean([(b - a).var(ddof=1) for a, b in itertools.combinations(RUNGS, 2)])
    se = np.sqrt(np.maximum(steps.var(axis=1, ddof=1), pooled) / 3)
    reach = stats.t.ppf(0.975, 6) * se
    assert data["low"][1:4].tolist() == pytest.approx((steps.mean(1) - reach).tolist())
    raw = 2 * stats.t.sf(abs(steps.mean(1)) / se, 6)
    assert data["p"][1:4].tolist() == pytest.approx(multipletests(raw, method="holm")[1].tolist())
    texts = [text.get_text() for text in drawing.figure.axes[0].texts]
    assert [text.rpartition(" ")[2] for text in texts[1:4]] == ["*", "n.s.", "*"]


def test_a_waterfall_keeps_replicates_that_every_row_has() -> None:
    lost = make_designed(LADDER, lambda x, r: None if (x, r) == ("+ noise", 1) else rung(x, r), design="cumulative")
    drawing = drawn(lost, "waterfall")
    kept = RUNGS[:, [0, 2]].mean(1)
    assert drawing.data["value"].tolist() == pytest.approx([kept[0], *np.diff(kept), kept[-1]])
    assert "(n=2/3: replicates that not every row has are left out)" in drawing.caption
    one = drawn(make_designed(LADDER, rung, design="cumulative", replicates=1), "waterfall")
    assert one.data[["low", "high", "p"]].isna().all(axis=None)
    assert one.caption.endswith("The axis does not begin at 0.")


def test_only_ladders_have_a_waterfall() -> None:
    with pytest.raises(NotDrawn, match="each add to the one before"):
        drawn(make_designed(LADDER, rung, design="explicit"), "waterfall")
    gone = make_designed(LADDER, lambda x, r: None if x == "+ noise" else rung(x, r), design="cumulative")
    with pytest.raises(NotDrawn, match="no replicate is complete in every row"):
        drawn(gone, "waterfall")


def test_tables_of_another_design_are_passed_over_where_one_fits(tmp_path: Path) -> None:
    request = make_designed(LADDER, rung, design="cumulative")
    table = request.plan.tables[0]
    other = replace(table, name="other", rows=table.rows[1:], design="explicit")
    plan = replace(request.plan, tables=(other, table), figures=("waterfall",))
    found = draw_figures(replace(request, plan=plan), tmp_path / "a")
    assert ([p.stem for p in found.paths], found.notes) == (["waterfall_parts"] * 4, ())
    found = draw_figures(replace(request, plan=replace(plan, tables=(other,))), tmp_path / "b")
    assert found.notes == (
        "figure waterfall of table other: it takes rows that each add to the one before (design: cumulative)",
    )


# All of them

REQUESTS: dict[str, Callable[[], Results]] = {
    "delta": lambda: make_designed(PARTS, recorded),
    "cost": lambda: make_designed(PARTS, recorded, costs=cost_of),
    "ranks": make_semantic_request,
    "class_bars": make_semantic_request,
    "interaction": lambda: factorial(tuple(FACTORS))[0],
    "waterfall": lambda: make_designed(LADDER, rung, design="cumulative"),
    "shapley": lambda: factorial(("fusion", "noise"))[0],
}


@pytest.mark.parametrize("name", REQUESTS)
def test_equal_results_give_equal_bytes(name: str) -> None:
    found = []
    for _ in range(2):
        with house_style():
            drawing = drawn(REQUESTS[name](), name)
            pdf = io.BytesIO()
            drawing.figure.savefig(pdf, format="pdf", metadata={"CreationDate": None, "Creator": None})
            found.append((pdf.getvalue(), drawing.data.to_csv(), latex_float(drawing)))
    assert found[0] == found[1]
    assert len(drawing.data) > 0


def boxes(figure: Figure) -> list[tuple[str, Bbox]]:
    """Every text that is shown, with the rectangle that it takes in pixels."""
    figure.draw_without_rendering()
    hidden = {
        label
        for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis))
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        for label in (tick.label1, tick.label2)
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())  # type: ignore[attr-defined]
    }
    texts = [text for text in figure.findobj(Text) if text not in hidden and text.get_visible()]
    return [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text().strip()]


LONG: dict[str, Change] = {
    "the full method, all of its parts": {},
    **{f"without the rather long component, number {i}": {"extra": i} for i in range(11)},
}


def long_rows() -> Results:
    """Twelve rows with long labels, three splits, costs."""
    place = {label: i for i, label in enumerate(LONG)}
    return make_designed(
        LONG,
        lambda label, r: 0.7 - 0.015 * place[label] + 0.004 * r * (-1) ** len(label),
        splits=("val", "test", "other"),
        costs=lambda label: {"gmacs": 10.0 + 40 * place[label], "parameters": 1e6},
        design="cumulative",
    )


def very_long_rows(length: int) -> Results:
    """Four rows whose labels differ at their end only."""
    words = ("a method with a name of many words " * 5)[: length - 4]
    rows: dict[str, Change] = {f"{words} ({i})": {"extra": i} if i else {} for i in range(4)}
    return make_designed(
        rows,
        lambda label, r: 0.5 + 0.02 * list(rows).index(label) + 0.004 * r * (-1) ** int(label[-2]),
        splits=("val", "test", "other"),
        costs=lambda label: {"gmacs": 10.0 + int(label[-2]), "parameters": 1e6},
        design="cumulative",
    )


def long_levels() -> Results:
    """Three factors with long names of levels."""
    levels = {
        "fusion": ("the sum of both modalities", "a third way with a long name", "correlation"),
        "decoder": ("a decoder with an equally long name", "msrc"),
        "noise": (False, True),
    }
    settings = itertools.product(*levels.values())
    rows = {str(i): changes(setting, levels) for i, setting in enumerate(settings)}
    return make_designed(rows, lambda label, r: 0.5 + 0.01 * int(label) + 0.002 * r * (-1) ** int(label))


def many_classes() -> Results:
    """Twenty-three classes."""
    request = make_semantic_request()
    done = request.frame[(request.frame.split == "test") & (request.frame.metric == "miou")]
    more = [done.assign(metric=f"iou.impervious_surface_{i}", value=0.04 * i) for i in range(20)]
    return replace(request, frame=pd.concat([request.frame, *more]))


def long_semantic_rows(length: int) -> Results:
    """The semantic study with long labels."""
    request = make_semantic_request()
    (table, *others) = request.plan.tables
    words = ("a method with a name of many words " * 5)[: length - 4]
    rows = tuple(replace(row, label=f"{words} ({i})") for i, row in enumerate(table.rows))
    return replace(request, plan=replace(request.plan, tables=(replace(table, rows=rows), *others)))


OF_ROWS = ("delta", "cost", "ranks", "waterfall")
CROWDED: list[tuple[str, Callable[[], Results]]] = [
    *((name, long_rows) for name in OF_ROWS),
    *((name, partial(very_long_rows, length)) for name in OF_ROWS for length in (85, 150)),
    *(("robustness", partial(long_semantic_rows, length)) for length in (85, 150)),
    ("interaction", long_levels),
    ("class_bars", many_classes),
]


@pytest.mark.parametrize(("name", "request_of"), CROWDED)
def test_no_text_overlaps_another_or_is_cut_off(name: str, request_of: Callable[[], Results]) -> None:
    with house_style():
        figure = drawn(request_of(), name).figure
        found = boxes(figure)
    assert len(found) > 7
    assert_readable(figure, found)


def assert_readable(figure: Figure, found: Sequence[tuple[str, Bbox]]) -> None:
    """Every text is inside the figure, and none overlaps another."""
    for text, box in found:
        assert figure.bbox.x0 - 1 <= box.x0, text
        assert box.x1 <= figure.bbox.x1 + 1, text
        assert figure.bbox.y0 - 1 <= box.y0, text
        assert box.y1 <= figure.bbox.y1 + 1, text
    for (a, one), (b, other) in itertools.combinations(found, 2):
        assert not one.padded(-1.5).overlaps(other.padded(-1.5)), (a, b)
