"""Tables claim what tests support: a useless component is not told from the reference, a useful one is found."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats

from harness.records import Plan, Table
from reports.answer import answer
from reports.artifacts import Sources
from reports.breakdown import build_breakdown
from reports.comparisons import Standing, judge, pool, pool_of_deltas, standing
from reports.csv_table import render_csv
from reports.evidence import collect_evidence
from reports.intervals import Replicated
from reports.markdown import render_markdown
from reports.published import Published
from reports.results import Results
from reports.row_scores import RowScore, RowScores, difference
from reports.table_model import Cell, CellState, Emphasis, Flag, TableModel
from reports.tables import build_table
from reports.terminal import render_terminal
from tests.designed_study import make_designed
from tests.judged_study import GAINS, make_judged
from tests.report_frame import Change, make_frame, make_plan
from tests.test_tables import build, row_of, table_named

BEST, NONE = Emphasis.BEST, Emphasis.NONE


def built(**options: object) -> TableModel:
    plan, table, frame, sources = make_judged(**options)  # type: ignore[arg-type]
    return build_table(Results(plan, frame, sources), table)


def bold(model: TableModel, column: int = 1) -> list[str]:
    return [row.label for row in model.blocks[0].rows if row.cells[column].emphasis is BEST]


def delta(model: TableModel, label: str) -> Cell:
    return row_of(model, label).cells[-1]


def texts(model: TableModel) -> dict[str, str]:
    return {n.mark: n.text for n in model.footnotes if n.mark}


def test_a_useless_component_shares_the_bold_and_a_useful_one_is_found() -> None:
    model = built()
    assert bold(model) == ["full", "without noise"]
    assert delta(model, "without noise").flags == (Flag.NOT_SIGNIFICANT,)
    assert delta(model, "without noise").marks == ("n.s.",)
    for label in ("without fusion", "other decoder"):
        found = delta(model, label)
        assert (found.flags, found.marks) == ((Flag.DIFFERS,), ("*",))
        assert found.p is not None
        assert found.p < 0.05
        assert found.interval is not None
        assert found.interval[1] < 0
    assert (
        texts(model)["*"] == "Differs from the reference: p < 0.05 after Holm's correction for the 3 differences shown."
    )
    assert texts(model)["n.s."].startswith("Not significant: cannot be told from the reference")
    assert "paired t tests over replicates and test samples" in model.caption


def test_a_useless_component_alone_is_said_to_be_indistinguishable_and_nothing_is_bold() -> None:
    model = built(labels=("full", "without noise"))
    assert bold(model) == []
    assert {c.emphasis for _, c in model.cells()} == {NONE}
    assert "No row can be told from the best, and none is bold: oIoU and mIoU on validation." in [
        n.text for n in model.footnotes
    ]
    assert texts(model)["n.s."].endswith("p ≥ 0.05 after Holm's correction for the one difference shown.")


def test_one_replicate_has_no_interval_no_test_and_no_bold() -> None:
    model = built(replicates=1)
    assert {(c.emphasis, c.interval, c.p, c.marks, c.flags) for _, c in model.cells()} == {(NONE, None, None, (), ())}
    assert model.footnotes == ()
    assert "nothing is tested, and nothing is set in bold" in model.caption


@pytest.mark.parametrize(
    ("finished", "spreads"),
    [({}, 0), (dict.fromkeys(GAINS, 1), 0), ({**dict.fromkeys(GAINS, 1), "full": 2}, 2)],
    ids=["all failed", "one replicate each", "one row has both"],
)
def test_what_was_not_tested_is_not_said_to_be(finished: dict[str, int], spreads: int) -> None:
    plan, table, frame, sources = make_judged(replicates=2)
    kept = [
        r < finished.get(run_id.partition("|")[0], 0) for run_id, r in zip(frame.run_id, frame.replicate, strict=True)
    ]
    model = build_table(Results(plan, frame[kept], sources), table)
    assert sum(bool(cell.spread) for _, cell in model.cells()) == spreads
    expected = (
        "Mean over n = 2 replicates, with ± std where two are finished. No two rows have that many: nothing is tested, "
        "and nothing is set in bold."
    )
    assert expected in model.caption
    assert "test samples" not in model.caption
    if finished:
        groups = build_breakdown(Results(plan, frame[kept], sources), table, by="category", split="val").table
        assert expected.replace("rows", "columns") in groups.caption


def test_without_per_sample_results_replicates_decide_and_the_caption_says_so() -> None:
    plan, table, frame, _ = make_judged()
    alone = build_table(Results(plan, frame), table)
    assert "over replicates alone (no results of at least 10 test samples are at hand); pooled spread" in alone.caption
    assert Flag.REPLICATES_ONLY in alone.blocks[0].rows[0].cells[0].flags
    some = built(lost=["other decoder"])
    assert "over replicates and, where results of at least 10 of them are at hand, test samples" in some.caption
    assert Flag.REPLICATES_ONLY in delta(some, "other decoder").flags
    assert Flag.REPLICATES_ONLY not in delta(some, "without fusion").flags


def test_deltas_by_replicates_alone_have_the_spread_of_an_analysis_of_variance() -> None:
    """Twice the residual mean square of rows x replicates, or a difference's own variance where that is larger."""
    plan, table, frame, _ = make_judged()
    model = build_table(Results(plan, frame), table)
    long = frame[frame.metric == "miou"].assign(
        label=[r.partition("|")[0] for r in frame.run_id[frame.metric == "miou"]]
    )
    pooled = 2 * smf.ols("value ~ C(label) + C(replicate)", long).fit().mse_resid
    of = {label: group["value"].to_numpy() for label, group in long.groupby("label")}
    raw, half = {}, {}
    for label in list(GAINS)[1:]:
        seen = of[label] - of["full"]
        se = np.sqrt(max(pooled, seen.var(ddof=1)) / 3)
        raw[label] = 2 * stats.t.sf(abs(seen.mean()) / se, 6)
        half[label] = stats.t.ppf(0.975, 6) * se
    worst = 0.0
    for rank, label in enumerate(sorted(raw, key=lambda label: raw[label])):
        worst = max(worst, min(1.0, (3 - rank) * raw[label]))
        cell = delta(model, label)
        assert cell.p == pytest.approx(worst)
        assert cell.value is not None
        assert cell.interval == pytest.approx((cell.value - half[label], cell.value + half[label]))


def test_the_pool_of_complete_rows_is_that_of_statsmodels() -> None:
    rng = np.random.default_rng(5)
    table = rng.normal(0, 1, (4, 3))
    rows = [(i, j, v) for i, row in enumerate(table) for j, v in enumerate(row)]
    fit = smf.ols("y ~ C(a) + C(b)", pd.DataFrame(rows, columns=["a", "b", "y"])).fit()
    found = pool([row_score(list(row)) for row in table])
    assert found is not None
    assert (found.variance, found.df) == (pytest.approx(2 * fit.mse_resid), fit.df_resid)


def test_the_pool_of_incomplete_rows_has_the_degrees_of_freedom_of_least_squares() -> None:
    whole = [row_score([0.1, 0.4, 0.2]), row_score([0.2, 0.2, 0.5])]
    found = pool([*whole, row_score([0.3, 0.1], (0, 2)), row_score([0.9]), None])
    assert found is not None
    assert found.df == 8 - 3 - 3 + 1
    assert pool([row_score([0.1, 0.2], (0, 1)), row_score([0.1, 0.2], (1, 2))]) is None
    assert pool([]) is None


def test_one_row_that_varies_much_is_not_called_different_for_it() -> None:
    rng = np.random.default_rng(4)
    spread = [3.0, 3.0, 1.0, 1.0, 1.0]
    wrong = sum(
        bool(standing([row_score(list(rng.normal(0, s, 3))) for s in spread], higher_is_better=True).best)
        for _ in range(300)
    )
    assert wrong / 300 <= 0.08  # 5 % and two and a half standard errors of 300 columns


def test_per_sample_results_that_do_not_give_the_recorded_score_are_not_used() -> None:
    plan, table, frame, sources = make_judged()
    moved = frame.assign(value=frame["value"].where(frame["metric"] != "miou", frame["value"] + 1e-4))
    model = build_table(Results(plan, moved, sources), table)
    oiou, miou = model.blocks[0].rows[0].cells[:2]
    assert (oiou.flags, miou.flags) == ((), (Flag.REPLICATES_ONLY,))


def scores_of(plan: Plan, table: Table, frame: pd.DataFrame, sources: Sources | None) -> RowScores:
    ids = {t for row in table.rows for t in row.trial_ids}
    return RowScores(collect_evidence(frame, ids), Results(plan, frame, sources).samples if sources else None)


def test_runs_that_saw_other_samples_are_compared_by_replicates() -> None:
    plan, table, frame, sources = make_judged()
    kept = {**sources.artifacts.kept}  # type: ignore[attr-defined]
    for replicate in range(3):
        run = f"without noise|{replicate}"
        kept[run] = kept[run].assign(key=[f"x{i}/0" for i in range(len(kept[run]))])
    other = replace(sources, artifacts=replace(sources.artifacts, kept=kept))  # type: ignore[type-var]
    scores = scores_of(plan, table, frame, other)
    full, twin, fusion = (scores.of(row, split="val", metric_name="miou") for row in table.rows[:3])
    assert twin is not None
    assert twin.found.draws is not None
    alone, both = difference(twin, full), difference(fusion, full)
    assert alone is not None
    assert both is not None
    assert alone.draws is None
    assert both.draws is not None
    kept["full|1"] = kept["full|1"].iloc[1:]
    mixed = scores_of(plan, table, frame, other).of(table.rows[0], split="val", metric_name="oiou")
    assert mixed is not None
    assert mixed.found.draws is None


@pytest.mark.parametrize(("units", "drawn"), [(9, False), (10, True)])
def test_few_samples_are_not_drawn_from(units: int, drawn: bool) -> None:
    plan, table, frame, sources = make_judged(labels=("full",))
    whole = sources.artifacts.kept.items()  # type: ignore[attr-defined]
    kept = {run: samples.assign(block=np.arange(len(samples)) % units) for run, samples in whole}
    few = replace(sources, artifacts=replace(sources.artifacts, kept=kept))  # type: ignore[type-var]
    found = scores_of(plan, table, frame, few).of(table.rows[0], split="val", metric_name="miou")
    assert found is not None
    assert (found.found.draws is not None, found.found.units) == (drawn, units * drawn)


def row_score(values: list[float], replicates: tuple[int, ...] | None = None) -> RowScore:
    return RowScore(replicates or tuple(range(len(values))), Replicated(np.array(values)))


def test_rows_are_compared_on_the_replicates_they_share() -> None:
    a, b = row_score([0.5, 0.7], (0, 2)), row_score([0.4, 0.1], (2, 3))
    found = difference(a, b)
    assert found is not None
    assert found.values == pytest.approx([0.3])
    assert difference(a, row_score([0.1], (1,))) is None
    assert difference(None, a) is None


def test_the_best_of_a_column_depends_on_the_direction_of_its_metric() -> None:
    scores = [row_score([0.10, 0.11, 0.12]), row_score([0.30, 0.31, 0.325]), row_score([0.30, 0.31, 0.319]), None]
    assert standing(scores, higher_is_better=True).best == {1, 2}
    assert standing(scores, higher_is_better=False).best == {0}


def test_a_row_that_cannot_be_compared_with_the_best_does_not_stand_beside_it() -> None:
    best, apart = row_score([0.5, 0.51, 0.52], (0, 1, 2)), row_score([0.5, 0.51], (2, 3))
    worse = row_score([0.1, 0.111, 0.12], (0, 1, 2))
    assert standing([best, apart, worse, row_score([0.5])], higher_is_better=True).best == {0}
    assert standing([best, apart], higher_is_better=True) == Standing(frozenset(), alike=False)
    assert standing([], higher_is_better=True) == Standing(frozenset(), alike=False)


def test_all_pairs_of_a_column_are_one_family() -> None:
    """Of ten equal rows the highest is far from the lowest; the correction for all pairs keeps that from a claim."""
    rng = np.random.default_rng(3)
    wrong = sum(
        bool(standing([row_score(list(rng.normal(0, 1, 5))) for _ in range(10)], higher_is_better=True).best)
        for _ in range(200)
    )
    assert wrong / 200 <= 0.09  # 5 % and two and a half standard errors of 200 columns


def test_what_cannot_be_tested_is_not_judged() -> None:
    differences = [None, Replicated(np.array([0.1])), Replicated(np.array([0.1, 0.1001, 0.1002]))]
    found = judge([(d, None) for d in differences])
    assert found[0] is None
    assert found[1] is not None
    assert found[1].p is None
    assert not found[1].differs
    assert found[2] is not None
    assert found[2].differs


def test_groups_of_samples_are_compared_on_their_own_samples() -> None:
    plan, table, frame, sources = make_judged()
    request = Results(plan, frame, sources)
    found = build_breakdown(request, table, by="category", split="val").table
    assert "paired t tests over replicates and test samples" in found.caption
    for row in found.blocks[0].rows:
        assert [row.cells[i].emphasis for i in (0, 1, 3)] == [BEST, BEST, NONE]
        assert all(c.interval is not None and c.flags == () for c in row.cells)


def test_a_reference_that_varies_more_is_in_all_differences_to_it() -> None:
    rng = np.random.default_rng(7)
    wrong = {}
    for spread in (1.0, 3.0):
        told = {"pairs": 0, "deltas": 0}
        for _ in range(400):
            rows = [row_score(list(rng.normal(0, s, 3))) for s in (spread, *[1.0] * 9)]
            deltas = [difference(row, rows[0]) for row in rows[1:]]
            pools = {"pairs": pool(rows), "deltas": pool_of_deltas(pool(rows), deltas)}
            for name, pooled in pools.items():
                told[name] += any(j is not None and j.differs for j in judge([(d, pooled) for d in deltas]))
        wrong[spread] = {name: count / 400 for name, count in told.items()}
    assert max(wrong[1.0].values()) < 0.05
    assert wrong[3.0]["deltas"] < 0.09 < wrong[3.0]["pairs"]


def test_a_mean_over_easy_replicates_is_no_merit() -> None:
    lacking, best = row_score([0.800, 0.802], (0, 1)), row_score([0.811, 0.8125, 0.760])
    rest = [row_score([0.700, 0.7015, 0.650]), row_score([0.690, 0.692, 0.640])]
    found = standing([lacking, best, *rest], higher_is_better=True)
    assert (found.best, found.worse, found.untested) == ({1}, {0}, frozenset())
    losses = [row_score([-v for v in s.found.values], s.replicates) for s in (lacking, best, *rest)]
    assert standing(losses, higher_is_better=False) == found


def test_a_better_row_that_was_not_compared_is_named() -> None:
    values: dict[str, list[float | None]] = {"top": [None, 0.9, None], "middle": [0.80, 0.82, 0.79]}
    values["low"] = [0.5, 0.51, 0.49]
    scores = [row_score([0.9], (1,)), row_score([0.80, 0.82, 0.79]), row_score([0.5, 0.51, 0.49])]
    assert standing(scores, higher_is_better=True) == ({1}, False, {0}, frozenset())
    assert standing(scores, higher_is_better=False) == ({2}, False, frozenset(), frozenset())
    rows: dict[str, Change] = {"top": {}, "middle": {"fusion": "sum"}, "low": {"fusion": "none"}}
    results = make_designed(rows, lambda label, r: values[label][r])
    compared = replace(results.plan.tables[0], kind="comparison")
    table = build_table(results, compared)
    note = "A better mean than the best row's, and not compared with it for lack of replicates"
    assert f"{note}: “top” (mIoU on validation)." in [footnote.text for footnote in table.footnotes]
    said = answer(replace(results.plan, tables=(compared,)), [table], finished=7)
    assert "other row that was tested; “top” (90.00 %) has a better one and could not be compared" in said


def test_rows_of_the_same_trials_are_one_row() -> None:
    rng = np.random.default_rng(5)
    told = []
    for _ in range(300):
        a, b = (replace(row_score(list(rng.normal(0, 1, 3))), trial_ids=(name,)) for name in "ab")
        once = standing([a, b], higher_is_better=True)
        twice = standing([a, b, a, a], higher_is_better=True)
        assert twice.best == once.best | ({2, 3} if 0 in once.best else set())
        told.append(bool(once.best))
    assert 0.02 < np.mean(told) < 0.08


def test_csv_has_interval_p_and_standing() -> None:
    lines = list(csv.DictReader(io.StringIO(render_csv(built()))))
    found = next(x for x in lines if (x["row"], x["metric"]) == ("other decoder", "delta_miou"))
    assert float(found["low"]) < float(found["mean"]) < float(found["high"]) < 0
    assert float(found["p"]) < 0.05
    assert [x["best"] for x in lines if x["metric"] == "miou"] == ["true", "true", "", ""]


def test_marks_are_shown_by_every_renderer() -> None:
    model = built()
    assert "<sup>\\*</sup>" in render_markdown(model)
    assert "<sup>n.s.</sup>" in render_markdown(model)
    table = render_terminal(model)
    shown = [str(cell) for cell in table.columns[-1].cells]
    assert shown[0] == "ref."
    assert [text.rpartition(" ")[2] for text in shown[1:]] == ["n.s.", "*", "*"]


def test_many_differences_are_listed_in_the_csv_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert any(
        n.text.startswith("Δ mIoU on validation, corrected p, exact sign-flip p and effect size d: without noise: ")
        for n in built().footnotes
    )
    monkeypatch.setattr("reports.comparison_notes.MAX_LISTED", 2)
    assert not any(n.text.startswith("Δ mIoU on validation, corrected p") for n in built().footnotes)


@pytest.mark.parametrize(
    ("fault", "word", "sentence"),
    [
        ("out of memory", "OOM", "Replicates 1 and 2 ran out of memory: OutOfMemoryError"),
        ("diverged", "diverged", "Replicates 1 and 2 diverged: "),
        ("timed out", "timed out", "Replicates 1 and 2 timed out: "),
        ("infrastructure", "failed", "Replicates 1 and 2 failed: "),
        (None, "failed", "Replicates 1 and 2 failed: "),
    ],
)
def test_a_row_whose_replicates_all_failed_alike_says_how(fault: str | None, word: str, sentence: str) -> None:
    plan = make_plan()
    frame = make_frame(plan)
    frame = frame.assign(fault=[fault if state == "FAILED" else None for state in frame["state"]])
    model = build("comparison", plan=plan, frame=frame)
    row = row_of(model, "CMPC")
    assert {(c.state, c.failure) for c in row.cells} == {(CellState.FAILED, word)}
    assert any(n.text.startswith(sentence) for n in model.footnotes)
    assert f"| {word} |" in render_markdown(model)
    assert f",{word},false," in render_csv(model)


def test_rows_that_failed_in_several_ways_are_just_failed() -> None:
    plan = make_plan()
    frame = make_frame(plan)
    faults = ["diverged" if r else "timed out" for r in frame["replicate"]]
    model = build("comparison", plan=plan, frame=frame.assign(fault=faults))
    assert {c.failure for c in row_of(model, "CMPC").cells} == {"failed"}


def quoted(miou: dict[str, float], **options: object) -> Published:
    rows = [
        {"table": "comparison", "label": label, "match": {"model.name": label.lower()}, "split": "val"}
        | {"scores": {"miou": value}, "source": "s", "protocol": "p"}
        | ({"comparable": False} if label == "RMSIN" else {})
        for label, value in miou.items()
    ]
    conditions = {"data.image_size": 480, "evaluate.protocol": "rrsis480"}
    text = {"dataset": "D", "splits": {"val": None}, "sources": {"s": {"text": "S", "cite": "s"}}, "doubts": {}}
    return Published.model_validate({**text, "rows": rows, "conditions": conditions, **options})


def published_model(published: Published, *, replicates: int = 3) -> TableModel:
    plan = make_plan(replicates=replicates)
    table = replace(table_named(plan, "comparison"), splits=("val",), costs=False)
    return build_table(Results(plan, make_frame(plan)), table, published)


def test_published_figures_get_a_verdict() -> None:
    model = published_model(quoted({"LAVT": 38.6, "MAFN": 66.0, "RMSIN": 39.0, "BRINet": 50.0}))
    verdicts = {
        r.label: [c.verdict for c in r.cells if c.value is not None] for r, c in model.cells() if r.is_published
    }
    assert verdicts == {
        "LAVT": ["within replicate noise"],
        "MAFN": ["not reproduced"],
        "RMSIN": ["not comparable"],
        "BRINet": [""],
    }
    notes = [n.text for n in model.footnotes]
    assert (
        "Ours less published, mIoU on validation: within replicate noise: LAVT (+0.07); not reproduced: MAFN (−25.33); "
        "not comparable: RMSIN." in notes
    )
    assert any(note.startswith("Within replicate noise: not shown to be equal") for note in notes)
    lines = csv.DictReader(io.StringIO(render_csv(model)))
    assert {x["row"]: x["verdict"] for x in lines if x["published"] == "true"}["MAFN"] == "not reproduced"


def test_figures_of_an_unknown_or_another_protocol_are_not_compared() -> None:
    other = published_model(quoted({"MAFN": 66.0}, conditions={"data.image_size": 512}))
    unknown = published_model(quoted({"MAFN": 66.0}, conditions={}))
    for model in (other, unknown):
        assert any("not comparable: MAFN." in n.text for n in model.footnotes)
    one = published_model(quoted({"MAFN": 66.0}), replicates=1)
    assert any("undecided: MAFN (" in n.text for n in one.footnotes)


def test_rows_of_a_protocol_are_compared_under_its_own_conditions() -> None:
    published = quoted({"MAFN": 66.0})
    protocols = {"x": {"heading": "h", "text": "t", "conditions": {"evaluate.protocol": "rrsis480"}}}
    row = published.rows[0].model_copy(update={"under": "x"})
    own = Published.model_validate({**published.model_dump(), "protocols": protocols, "rows": [row.model_dump()]})
    trial = make_plan().trials[-1]
    assert own.is_comparable(own.rows[0], trial)
    bare = {"x": {"heading": "h", "text": "t"}}
    none = Published.model_validate({**published.model_dump(), "protocols": bare, "rows": [row.model_dump()]})
    assert not none.is_comparable(none.rows[0], trial)
