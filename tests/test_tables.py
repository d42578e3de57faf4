"""The table model: what a cell says, which figures stand out, and that nothing missing becomes a number."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import HarnessError, UnknownNameError
from harness.metrics import METRICS as KNOWN
from harness.records import Plan, Row, Skipped, Table
from reports import captions, cells, comparison_notes
from reports.captions import dagger_mark, join_words, letter_mark, split_label
from reports.cells import show_value
from reports.evidence import collect_evidence
from reports.published import Published, load_published
from reports.results import Results
from reports.stats import paired_differences, summarize
from reports.table_model import CellState, Emphasis, TableModel, TableRow
from reports.tables import build_table
from tests.report_frame import AWKWARD, FEW, METRICS, make_frame, make_plan, make_rows

PUBLISHED_DIR = Path(__file__).parent.parent / "experiments" / "published"
PLAN = make_plan()
FRAME = make_frame(PLAN)


def rrsis_d() -> Published:
    return load_published("rrsis_d", folder=PUBLISHED_DIR)


def table_named(plan: Plan, name: str) -> Table:
    return next(t for t in plan.tables if t.name == name)


def build(name: str, *, plan: Plan = PLAN, frame: pd.DataFrame = FRAME, costs: bool = False) -> TableModel:
    table = replace(table_named(plan, name), costs=costs)
    return build_table(Results(plan, frame), table, rrsis_d() if table.published else None)


def row_of(model: TableModel, label: str, *, published: bool = False, block: int | None = None) -> TableRow:
    blocks = model.blocks if block is None else model.blocks[block : block + 1]
    return next(r for b in blocks for r in b.rows if r.label == label and r.is_published is published)


def one_table(*variants: dict[str, dict[str, object]], **changes: object) -> tuple[Plan, Table]:
    rows, trials = make_rows("g", {k: v for variant in variants for k, v in variant.items()})
    table = replace(Table("t", "ablation", "g", ("miou",), ("val",), rows, costs=False), **changes)
    return Plan("s", "?", tuple(trials), (table,), replicates=3), table


def scores_frame(plan: Plan, values: dict[str, float], *, state: str = "COMPLETE") -> pd.DataFrame:
    """Every trial of the plan with the given scores of val."""
    return pd.DataFrame(
        {
            "trial_id": t.id,
            "replicate": t.replicate,
            "state": state,
            "run_id": f"run-{t.id}",
            "started": pd.Timestamp(2026, 1, 1),
            "split": "val",
            "metric": metric,
            "value": value,
            "note": None,
        }
        for t in plan.trials
        for metric, value in values.items()
    )


def test_mean_and_spread_are_over_the_complete_run_of_every_replicate() -> None:
    cell = row_of(build("comparison"), "MAFN").cells[0]
    ids = cell.trial_ids
    complete = FRAME[(FRAME.state == "COMPLETE") & (FRAME.split == "val") & (FRAME.metric == "p50")]
    values = [float(complete[complete.trial_id == t].value.iloc[0]) for t in ids]
    assert cell.state is CellState.COMPLETE
    assert cell.value == pytest.approx(statistics.mean(values))
    assert cell.std == pytest.approx(statistics.stdev(values))
    assert (cell.n, cell.expected_n, cell.figure, cell.spread) == (3, 3, "82.17", "0.22")
    assert cell.run_ids == tuple(f"{t}complete1" for t in ids)


def test_scores_of_runs_that_are_not_complete_are_never_used() -> None:
    plan, table = one_table({"a": {}, "b": {"noise": False}})
    model = build_table(Results(plan, scores_frame(plan, {"miou": 0.9}, state="RUNNING")), table)
    found = {c.state for _, c in model.cells()}
    assert found == {CellState.MISSING, CellState.REFERENCE}
    assert all(c.value is None and c.figure == "" for _, c in model.cells())


def test_the_newest_complete_run_speaks_for_a_trial() -> None:
    base = {"replicate": 0, "split": "val", "metric": "miou", "note": None}
    rows = [
        ("t", "old", "COMPLETE", 1, 0.1),
        ("t", "new", "COMPLETE", 2, 0.2),
        ("t", "newest", "RUNNING", 3, 0.3),
        ("u", "first", "FAILED", 1, math.nan),
        ("u", "second", "RUNNING", 2, math.nan),
        ("w", "undated", "RUNNING", None, math.nan),
        ("w", "dated", "FAILED", 1, math.nan),
    ]
    frame = pd.DataFrame(
        {
            **base,
            "trial_id": t,
            "run_id": r,
            "state": s,
            "value": v,
            "started": pd.Timestamp(d, unit="D") if d else None,
        }
        for t, r, s, d, v in rows
    )
    found = collect_evidence(frame, {"t", "u", "w", "never"})
    assert {k: e.run_id for k, e in found.items()} == {"t": "new", "u": "second", "w": "dated"}
    assert found["t"].scores == {("val", "miou"): 0.2}
    assert found["u"].scores == {}


def test_a_frame_without_a_needed_column_is_refused() -> None:
    with pytest.raises(ValueError, match=r"missing: note, started|missing: started, note"):
        collect_evidence(FRAME.drop(columns=["started", "note"]), {"t"})


def test_an_incomplete_row_says_how_many_replicates_it_has_and_why() -> None:
    model = build("comparison")
    row = row_of(model, "RMSIN")
    assert (row.count, {c.count for c in row.cells}) == ("n=2/3", {""})
    assert all(c.state is CellState.PARTIAL and c.n == 2 for c in row.cells)
    notes = {n.mark: n.text for n in model.footnotes}
    assert notes[row.marks[0]] == "Replicate 1 failed: ValueError: loss is nan_ & 100 % wrong"


def test_failed_and_unfinished_rows_have_no_figures() -> None:
    model = build("comparison")
    assert {c.state for c in row_of(model, "CMPC").cells} == {CellState.FAILED}
    assert {c.state for c in row_of(model, "LGCE").cells} == {CellState.MISSING}
    notes = [n.text for n in model.footnotes]
    assert "Replicates 1 and 2 failed: OutOfMemoryError: tried to allocate 24.00 GiB (GPU 0)" in notes
    assert "Replicate 0 failed: no cause recorded" in notes
    assert "Not trained: comparison/CMPC+ (needs GloVe_6B, which is not on disk)." in notes
    assert not any(c.value == 0.0 for _, c in model.cells())


def test_some_failed_and_some_never_started_is_not_failed() -> None:
    failed = FRAME[FRAME.run_id != FRAME[FRAME.state == "FAILED"].run_id.iloc[-1]]
    cmpc = next(r for r in table_named(PLAN, "comparison").rows if r.label == "CMPC")
    frame = failed[failed.trial_id != cmpc.trial_ids[0]]
    row = row_of(build("comparison", frame=frame), "CMPC")
    assert {c.state for c in row.cells} == {CellState.MISSING}
    assert len(row.cells[0].run_ids) == 2


def test_a_metric_that_some_runs_lack_is_counted_in_its_own_cell() -> None:
    plan, table = one_table({"a": {}, "b": {"noise": False}}, metrics=("oiou", "miou"))
    frame = scores_frame(plan, {"oiou": 0.5, "miou": 0.6})
    lost = (frame.trial_id == table.rows[1].trial_ids[0]) & (frame.metric == "oiou")
    row = build_table(Results(plan, frame[~lost]), table).blocks[0].rows[1]
    assert (row.count, [c.count for c in row.cells]) == ("", ["n=2/3", "", ""])
    none = build_table(Results(plan, frame[frame.metric != "oiou"]), table).blocks[0].rows[1]
    assert [c.state for c in none.cells] == [CellState.MISSING, CellState.COMPLETE, CellState.COMPLETE]


def test_the_difference_counts_apart_when_the_reference_lacks_a_replicate() -> None:
    plan, table = one_table({"a": {}, "b": {"noise": False}})
    frame = scores_frame(plan, {"miou": 0.6})
    few = frame[~frame.trial_id.isin([table.rows[0].trial_ids[0], *table.rows[1].trial_ids[:1]])]
    assert build_table(Results(plan, few), table).blocks[0].rows[1].count == "n=2/3"
    crossed = frame[~frame.trial_id.isin([table.rows[0].trial_ids[0], table.rows[1].trial_ids[1]])]
    row = build_table(Results(plan, crossed), table).blocks[0].rows[1]
    assert (row.count, [c.count for c in row.cells]) == ("n=2/3", ["", "n=1/3"])


def test_differences_are_paired_by_replicate() -> None:
    delta = row_of(build("components"), "default").cells[-1]
    assert (delta.is_delta, delta.figure, delta.spread) == (True, "+0.40", "0.03")
    assert len(delta.run_ids) == 6
    assert row_of(build("components"), "+ MSRC").cells[-1].state is CellState.REFERENCE


def test_what_cannot_be_told_from_the_best_shares_the_bold() -> None:
    rows = build("components").blocks[0].rows
    assert [r.cells[0].emphasis for r in rows] == [Emphasis.NONE, Emphasis.BEST, Emphasis.BEST, Emphasis.NONE]
    assert all(r.cells[-1].emphasis is Emphasis.NONE for r in rows)


def test_control_splits_are_not_ranked() -> None:
    plan = make_plan()
    table = replace(table_named(plan, "components"), splits=("val", "val_shuffled"))
    frame = pd.concat([FRAME, FRAME[FRAME["split"] == "val"].assign(split="val_shuffled")])
    model = build_table(Results(plan, frame), table)
    ranked = {c.split for _, c in model.cells() if c.emphasis is not Emphasis.NONE}
    assert ranked == {"val"}


def test_what_must_be_known_of_a_model_is_a_footnote() -> None:
    plan = make_plan()
    table = table_named(plan, "components")
    first, *others = table.rows
    mixed = replace(table, rows=(replace(first, note="A re-implementation."), *others))
    model = build_table(Results(plan, FRAME), mixed)
    rows = model.blocks[0].rows
    assert [row.marks for row in rows if row.label == first.label] == [("a",)]
    assert ("a", "A re-implementation.") in [(n.mark, n.text) for n in model.footnotes]
    alike = replace(table, rows=tuple(replace(row, note="A re-implementation.") for row in table.rows))
    model = build_table(Results(plan, FRAME), alike)
    assert not any("a" in row.marks for row in model.blocks[0].rows)
    assert ("", "All rows of this study: A re-implementation.") in [(n.mark, n.text) for n in model.footnotes]


def test_a_row_of_one_replicate_is_neither_best_nor_second() -> None:
    assert row_of(build("kernels"), "[1]").cells[0].emphasis is Emphasis.NONE
    plan = make_plan(replicates=1)
    model = build("components", plan=plan, frame=make_frame(plan))
    assert {c.emphasis for _, c in model.cells()} == {Emphasis.NONE}
    assert {c.spread for _, c in model.cells()} == {""}
    assert "nothing is set in bold" in model.caption


def test_published_rows_stand_apart_and_take_no_part_in_the_ranking() -> None:
    model = build("comparison")
    assert [b.heading for b in model.blocks] == [
        "Validation, this study",
        "Validation, published on RRSIS-D (quoted)",
        "Test, this study",
        "Test, published on RRSIS-D (quoted)",
    ]
    quoted = [c for r, c in model.cells() if r.is_published]
    assert {c.emphasis for c in quoted} == {Emphasis.NONE}
    assert {c.state for c in quoted} == {CellState.PUBLISHED}
    assert all(c.source for c in quoted)


def test_a_doubtful_figure_has_a_dagger_and_a_reason() -> None:
    model = build("comparison")
    row = row_of(model, "MAFN", published=True, block=3)
    notes = {n.mark: n.text for n in model.footnotes}
    oiou, miou = row.cells[-2], row.cells[-1]
    assert oiou.marks[0][0] in "†‡§¶"
    assert notes[oiou.marks[0]].startswith("Doubtful: read by text recognition only")
    assert notes[miou.marks[0]] == "Source: MAFN paper (arXiv:2503.11183), running text."


def test_published_differences_are_to_the_published_row_of_our_reference() -> None:
    model = build("kernels")
    published = [r.cells[-1] for r in model.blocks[1].rows]
    assert [c.figure for c in published] == ["−1.09", "−1.49", "", "−0.28"]
    assert published[2].state is CellState.REFERENCE


def test_published_figures_that_are_not_printed_stay_empty() -> None:
    table = replace(table_named(PLAN, "kernels"), metrics=("p60", "oiou"), splits=("val", "val_shuffled"), costs=False)
    model = build_table(Results(PLAN, FRAME), table, rrsis_d())
    states = [c.state for c in model.blocks[1].rows[0].cells]
    missing = CellState.NOT_REPORTED
    assert states == [missing, CellState.PUBLISHED, CellState.PUBLISHED, missing, missing, missing]
    only_p60 = build_table(Results(PLAN, FRAME), replace(table, metrics=("p60",), splits=("val",)), rrsis_d())
    assert len(only_p60.blocks) == 1
    without = rrsis_d().model_copy(update={"rows": tuple(r for r in rrsis_d().rows if r.label != "kernels [1, 3, 5]")})
    lonely = build_table(Results(PLAN, FRAME), replace(table_named(PLAN, "kernels"), costs=False), without)
    assert {r.cells[-1].state for r in lonely.blocks[1].rows} == {missing}


def test_two_splits_stand_side_by_side_where_there_is_room() -> None:
    model = build("control")
    assert [c.group for c in model.columns] == ["validation"] * 3 + ["validation, sentences shuffled"] * 3
    assert [c.head for c in model.columns[:3]] == ["oIoU ↑", "mIoU ↑", "Δ mIoU"]


def test_switches_show_what_varies_unless_one_axis_or_too_many_do() -> None:
    model = build("components")
    assert model.switch_heads == ("Fusion", "Noise", "Decoder")
    assert row_of(model, "default").switches == ("sum", False, "arc")
    assert row_of(model, "+ MSRC").switches == ("correlation", True, "msrc")
    assert build("kernels").switch_heads == ()
    assert build("comparison").switch_heads == ()
    plan, table = one_table({"full": {}, "x": {"noise": False, "kernels": (1,)}})
    rows = (table.rows[0], replace(table.rows[1], changes={"model.noise": False, "model.gone.deep": 2}))
    switches = [r.switches for r in build_table(Results(plan, FRAME), replace(table, rows=rows)).blocks[0].rows]
    assert switches == [(True, ""), (False, "2")]


def test_the_reference_may_stand_in_another_table_or_nowhere() -> None:
    plan, table = one_table({"a": {"noise": False}, "b": {"fusion": "sum"}})
    assert [c.head for c in build_table(Results(plan, scores_frame(plan, {"miou": 0.5})), table).columns] == ["mIoU ↑"]
    other = table_named(PLAN, "kernels")
    both = replace(plan, tables=(table, other), trials=(*plan.trials, *PLAN.trials))
    model = build_table(Results(both, scores_frame(both, {"miou": 0.5})), table)
    assert model.blocks[0].rows[0].cells[-1].figure == "+0.00"


def test_the_difference_is_of_the_primary_metric_or_else_the_last() -> None:
    plan, table = one_table({"a": {}, "b": {"noise": False}}, metrics=("p50", "oiou"))
    assert build_table(Results(plan, FRAME), table).columns[-1].head == "Δ oIoU"


def test_captions_say_how_to_read_the_table() -> None:
    text = build("components").caption
    assert text.startswith(
        "Ablation of components on rrsis_d, validation (study “mafn & friends”). Mean ± std over n = 3"
    )
    assert "“+ MSRC”, paired by replicate" in text
    assert build("kernels").caption.startswith("Kernel sizes. Mean ± std")
    plan, table = one_table({"a": {}}, metrics=("miou",), group="ablation")
    plain = replace(plan, trials=tuple(replace(t, data={}) for t in plan.trials))
    table = replace(table, rows=tuple(replace(r, trial_ids=tuple(t.id for t in plain.trials)) for r in table.rows))
    caption = build_table(Results(plain, FRAME), table).caption
    assert caption.startswith("Ablation, validation (study “s”).")
    assert "mIoU is the mean IoU over samples; all in %." in caption


def test_captions_of_semantic_segmentation_say_that_means_are_over_classes() -> None:
    plan, table = one_table({"a": {}}, metrics=("miou", "kappa", "iou.low_vegetation"))
    trials = tuple(replace(t, task="semantic") for t in plan.trials)
    table = replace(table, rows=tuple(replace(r, trial_ids=tuple(t.id for t in trials)) for r in table.rows))
    model = build_table(Results(replace(plan, trials=trials, tables=(table,)), FRAME), table)
    meanings = (
        "mIoU is the mean IoU over classes, κ the agreement beyond chance and IoU low vegetation the score of one"
    )
    assert f"{meanings} class alone; all in %." in model.caption
    assert [c.head for c in model.columns[:3]] == ["mIoU ↑", "κ ↑", "IoU low vegetation ↑"]


def test_a_metric_of_unknown_meaning_is_not_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = replace(KNOWN["miou"], name="loss", label="loss", higher_is_better=False, scale=1.0, unit="")
    monkeypatch.setattr(captions, "metric", lambda _: loss)
    monkeypatch.setattr("reports.tables.metric", lambda _: loss)
    monkeypatch.setattr(cells, "metric", lambda _: loss)
    monkeypatch.setattr(comparison_notes, "metric", lambda _: loss)
    plan, table = one_table({"a": {}, "b": {"noise": False}}, metrics=("loss",), kind="comparison")
    frame = scores_frame(plan, {"loss": 2.0})
    frame.loc[frame.trial_id.isin(table.rows[1].trial_ids), "value"] = [1.0, 1.01, 1.02]
    model = build_table(Results(plan, frame), table)
    assert model.columns[0].head == "loss ↓"
    assert [r.cells[0].emphasis for r in model.blocks[0].rows] == [Emphasis.NONE, Emphasis.BEST]
    assert " all in" not in model.caption


def test_an_empty_table_is_an_empty_table() -> None:
    plan, table = one_table({}, kind="comparison")
    assert build_table(Results(plan, FRAME), table).blocks[0].rows == ()


def test_what_cannot_be_built_is_said() -> None:
    table = table_named(PLAN, "kernels")
    with pytest.raises(HarnessError, match=r"unknown kind 'ablatoin'; did you mean 'ablation'"):
        build_table(Results(PLAN, FRAME), replace(table, kind="ablatoin"))
    with pytest.raises(HarnessError, match=r"no table 'kernel'; did you mean 'kernels'"):
        build_table(Results(PLAN, FRAME), replace(table, name="kernel", group="other"), rrsis_d())
    with pytest.raises(UnknownNameError, match=r"unknown metric 'moiu'"):
        build_table(Results(PLAN, FRAME), replace(table, metrics=("moiu",)))


def test_a_long_cause_is_cut_to_one_line() -> None:
    plan = replace(PLAN, skipped=(Skipped("v", "kernels", "word " * 100),))
    (note,) = [n.text for n in build("kernels", plan=plan).footnotes if n.text.startswith("Not trained")]
    assert len(note) < 200
    assert note.endswith("…).")


def test_results_do_not_depend_on_the_order_of_the_frame() -> None:
    shuffled = FRAME.sample(frac=1.0, random_state=7)
    assert [build(t.name, frame=shuffled) for t in PLAN.tables] == [build(t.name) for t in PLAN.tables]


def test_awkward_labels_pass_through_untouched() -> None:
    assert row_of(build("comparison"), AWKWARD).cells[0].figure == "81.77"
    assert len(FEW) + 1 == len(build("kernels").columns)
    assert len(METRICS) == len(build("comparison").columns)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=20))
def test_summary_equals_the_textbook(values: list[float]) -> None:
    found = summarize(values)
    assert found is not None
    mean = math.fsum(values) / len(values)
    variance = math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)
    assert found.mean == pytest.approx(mean)
    assert found.std == pytest.approx(math.sqrt(variance), abs=1e-9)
    assert found.n == len(values)


def test_summaries_of_little_and_of_nonsense() -> None:
    assert summarize([]) is None
    one = summarize([0.5])
    assert one is not None
    assert (one.mean, one.std, one.n) == (0.5, None, 1)
    with pytest.raises(ValueError, match="must be finite"):
        summarize([0.1, math.nan])
    assert paired_differences([0.5, None, 0.25, 1.0], [0.25, 0.5, None]) == [0.25]


def test_words_and_marks() -> None:
    assert [letter_mark(i) for i in (0, 25, 26, 52)] == ["a", "z", "aa", "ba"]
    assert [dagger_mark(i) for i in (0, 3, 4)] == ["†", "¶", "††"]
    assert [join_words(w) for w in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
    assert split_label("test_shuffled") == "test, sentences shuffled"
    assert split_label("urban") == "urban"
    assert show_value(-0.00001, KNOWN["miou"], signed=True) == "+0.00"
    assert show_value(-0.0123, KNOWN["miou"], signed=True) == "−1.23"


def test_a_row_knows_nothing_of_the_harness_beyond_its_trials() -> None:
    row = Row("x", "x", {}, ("t",))
    table = Table("t", "comparison", "t", ("miou",), ("val",), (row,))
    model = build_table(Results(Plan("s", "?", (), (table,)), FRAME), table)
    assert model.blocks[0].rows[0].cells[0].state is CellState.MISSING
