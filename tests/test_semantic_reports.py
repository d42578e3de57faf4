"""Land cover in reports: words for its metrics and stress tests, means over classes, the break-down by class."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest

from harness.metrics import METRICS as KNOWN
from harness.records import Stress
from reports.artifacts import NotDrawn
from reports.breakdown import build_breakdowns
from reports.build import FILE_NAME, build_report
from reports.captions import MEANINGS, as_sentence, split_label
from reports.cells import score_cell
from reports.class_breakdown import build_class_breakdown
from reports.class_scores import averaging_notes, class_slugs
from reports.drawing import SUFFIXES
from reports.figures import draw_figures
from reports.published import load_published
from reports.results import Results
from reports.robustness_figure import draw_robustness, robustness
from reports.table_model import CellState, Emphasis, TableModel
from reports.tables import build_table
from tests.semantic_frame import METRICS, make_semantic_frame, make_semantic_plan, make_semantic_request

PUBLISHED_DIR = Path(__file__).parent.parent / "experiments" / "published"
REQUEST = make_semantic_request(breakdowns=("class",))


def built(index: int) -> TableModel:
    return build_table(Results(REQUEST.plan, REQUEST.frame), replace(REQUEST.plan.tables[index], published=None))


def test_metrics_mean_what_they_mean_for_the_task() -> None:
    caption = built(0).caption
    assert (
        "OA is the share of pixels that are right, mPA the mean recall over classes, mIoU the mean IoU over" in caption
    )
    assert "over samples" not in caption
    assert "κ the agreement beyond chance; all in %." in caption
    for task, meanings in MEANINGS.items():
        assert all(task in KNOWN[name].tasks for name in meanings)
    assert set(METRICS) == set(MEANINGS["semantic"])


def test_a_column_may_be_one_class() -> None:
    table = replace(REQUEST.plan.tables[1], metrics=("iou.water",), splits=("test",))
    model = build_table(Results(REQUEST.plan, REQUEST.frame), table)
    assert model.columns[0].head == "IoU water ↑"
    assert " IoU water is the score of one class alone; all in %." in model.caption
    assert not any("Means over classes" in note.text for note in model.footnotes)


def test_captions_end_with_what_must_be_known_of_the_data() -> None:
    assert built(0).caption.endswith(" Official list of scenes, 60 / 20 / 20; no scene is in two splits.")
    assert as_sentence("leaks:\n  patches of one scene are in two splits.") == (
        "Leaks: patches of one scene are in two splits."
    )


@pytest.mark.parametrize(
    ("stress", "words"),
    [
        (Stress("shift", "sar", 4), "test, sar shifted by 4 px"),
        (Stress("noise", "sar", 0.5), "test, noise of 0.5 standard deviations on sar"),
        (Stress("noise", "dsm", 1), "test, noise of 1 standard deviation on dsm"),
        (Stress("drop", "sar"), "test, without sar"),
        (Stress("blur", "sar", 2), "test, blur of 2 on sar"),
    ],
)
def test_stress_splits_in_words(stress: Stress, words: str) -> None:
    assert split_label(stress.split) == words


def test_splits_whose_words_have_commas_are_told_apart() -> None:
    assert ", test; test, sar shifted by 2 px (study" in built(1).caption


def test_a_footnote_says_over_how_many_classes_a_mean_is() -> None:
    notes = [n.text for n in built(0).footnotes]
    assert "Means over classes on validation are over 2 of 3 classes: those that occur there." in notes
    assert not any("classes on test" in note for note in notes)
    evidence = REQUEST.evidence(REQUEST.plan.tables[0].rows)
    assert class_slugs(evidence.values(), "val") == ["farmland", "water"]
    assert averaging_notes(evidence, ["val"], ["oa", "kappa", "fwiou"]) == []
    first = next(e for e in evidence.values() if e.scores)
    odd = {**evidence, first.trial_id: replace(first, scores={**first.scores, ("test", "classes_averaged"): 2.0})}
    assert averaging_notes(odd, ["test"], ["miou"]) == [
        "Means over classes on test are over 2 to 3, not the same in all runs, of 3 classes: those that occur there."
    ]


def test_every_class_is_a_row_and_what_cannot_be_told_from_the_best_stands_out() -> None:
    found = build_class_breakdown(REQUEST, REQUEST.plan.tables[0], split="test")
    assert [b.heading for b in found.table.blocks] == ["IoU ↑", ""]
    assert [r.label for r in found.table.blocks[0].rows] == ["farmland", "low vegetation", "water"]
    assert [c.head for c in found.table.columns] == ["DF2RQ", "CMX", "Late concat"]
    for row in found.table.blocks[0].rows:
        assert [c.emphasis for c in row.cells] == [Emphasis.BEST, Emphasis.NONE, Emphasis.NONE]
        assert [c.count for c in row.cells] == ["", "n=2/3", ""]
    lines = list(csv.DictReader(io.StringIO(found.csv)))
    assert len(lines) == 4 * 3
    assert [(x["group"], x["samples"], x["metric"]) for x in lines[::3]] == [
        *((slug, "", f"iou.{slug}") for slug in ("farmland", "low_vegetation", "water")),
        ("mean", "", "miou"),
    ]


def test_a_class_that_a_run_lacks_is_missing_and_one_that_nobody_has_is_no_row() -> None:
    table = REQUEST.plan.tables[0]
    assert [r.label for r in build_class_breakdown(REQUEST, table, split="val").table.blocks[0].rows] == [
        "farmland",
        "water",
    ]
    frame = REQUEST.frame
    lost = frame[~((frame.metric == "iou.water") & frame.run_id.str.startswith("DF2RQ"))]
    rows = build_class_breakdown(replace(REQUEST, frame=lost), table, split="test").table.blocks[0].rows
    assert [c.state for c in rows[2].cells] == [CellState.MISSING, CellState.PARTIAL, CellState.COMPLETE]


def test_break_downs_of_every_table_and_split() -> None:
    made, notes = build_breakdowns(REQUEST)
    # both tables have the same rows: the first one is broken down
    assert [b.table.name for b in made] == ["breakdown_class_comparison_val", "breakdown_class_comparison_test"]
    assert notes == []
    noise = build_class_breakdown(REQUEST, REQUEST.plan.tables[0], split="test-noise-sar-0.5").table
    assert FILE_NAME.fullmatch(noise.name)
    bare = replace(REQUEST, frame=REQUEST.frame[~REQUEST.frame.metric.fillna("").str.contains(".", regex=False)])
    with pytest.raises(NotDrawn, match="no complete run has recorded scores of single classes"):
        build_class_breakdown(bare, bare.plan.tables[0], split="test")
    assert build_breakdowns(bare)[1][0].startswith("break-down by class of table comparison on val: no complete run")


def test_a_panel_per_disturbance_and_a_line_per_variant() -> None:
    panels = robustness(REQUEST, REQUEST.plan.tables[0])
    assert [(p.kind, p.modality) for p in panels] == [
        *(("shift", "sar"), ("noise", "sar")),
        *(("drop", "optical"), ("drop", "sar")),
    ]
    assert [line.label for line in panels[0].lines] == ["DF2RQ", "CMX", "Late concat"]
    assert [[p.level for p in panel.lines[0].points] for panel in panels] == [[0, 2, 4, 8], [0, 0.5, 1], [0, 1], [0, 1]]
    assert {panel.lines[0].points[0].split for panel in panels} == {"test"}
    assert panels[2].lines[0].points[1].split == "test-drop-optical"
    table = REQUEST.plan.tables[0]
    for line, row in zip(panels[0].lines, table.rows, strict=True):
        for point in line.points:
            cell = score_cell(row, REQUEST.evidence(table.rows), split=point.split, metric_name="miou")
            assert (point.summary.mean, point.summary.std, point.run_ids) == (cell.value, cell.std, cell.run_ids)


def test_the_robustness_figure_is_four_files(tmp_path: Path) -> None:
    found = draw_figures(make_semantic_request(figures=("robustness",)), tmp_path)
    assert [p.name for p in found.paths] == [f"robustness_comparison{suffix}" for suffix in SUFFIXES]
    assert found.notes == ()
    lines = list(csv.DictReader(io.StringIO((tmp_path / "robustness_comparison.csv").read_text())))
    assert len(lines) == (4 + 3 + 2 + 2) * (3 + 2 + 3)
    again = draw_figures(make_semantic_request(figures=("robustness",)), tmp_path / "again")
    assert [p.read_bytes() for p in again.paths] == [p.read_bytes() for p in found.paths]


def test_what_was_not_disturbed_or_not_finished_is_left_out() -> None:
    with pytest.raises(NotDrawn, match=r"no complete run has miou on a disturbed test split; ask for some"):
        robustness(make_semantic_request(stress=False), REQUEST.plan.tables[0])
    frame = REQUEST.frame
    gone = (frame.variant == "CMX") & frame.split.fillna("").str.startswith("test")
    (panel, *_) = robustness(replace(REQUEST, frame=frame[~gone]), REQUEST.plan.tables[0])
    assert [len(line.points) for line in panel.lines] == [4, 0, 4]
    once = replace(REQUEST, frame=frame[(frame.replicate == 0) | frame.split.isna()])
    (drawing,) = draw_robustness(once, REQUEST.plan.tables[0])
    assert len(drawing.figure.axes) == 4
    assert "one standard deviation" in drawing.caption


def test_quoted_rows_stand_under_the_protocol_they_were_obtained_under() -> None:
    plan = REQUEST.plan
    model = build_table(
        Results(plan, REQUEST.frame), plan.tables[0], load_published("whu_opt_sar", folder=PUBLISHED_DIR)
    )
    quoted = [b for b in model.blocks if all(r.is_published for r in b.rows)]
    assert [b.heading.partition(": ")[2] for b in quoted] == [
        "UPSeg's README, split not stated",
        "ASANet's README, scenes sorted 80 / 20",
        "SOLC's README, random patches, mean over 7 classes",
        "papers' own splits, not comparable",
    ]
    notes = {n.mark: n.text for n in model.footnotes}
    for block in quoted:
        for row in block.rows:
            assert any(notes[mark].startswith("Protocol: ") for mark in (*block.marks, *row.marks))
            assert any(notes[mark].startswith("Source: ") for mark in (*block.marks, *row.marks))
            assert [c.state for c in row.cells[-2:]] == [CellState.NOT_RECORDED] * 2
    # the same method twice, once for each protocol, and methods that we do not have
    labels = [r.label for b in quoted for r in b.rows]
    assert labels.count("CMX") == 2
    assert {"DOFA", "ASANet", "UNet", "CLAIRE"} <= set(labels)


def test_differences_of_quoted_rows_stay_within_a_protocol() -> None:
    plan = REQUEST.plan
    rows = tuple(replace(r, is_reference=r.label == "CMX") for r in plan.tables[0].rows)
    table = replace(plan.tables[0], kind="ablation", rows=rows, metrics=("miou",), splits=("test",), costs=False)
    plan = replace(plan, tables=(table,))
    model = build_table(Results(plan, REQUEST.frame), table, load_published("whu_opt_sar", folder=PUBLISHED_DIR))
    deltas = {(b.heading.partition(": ")[2][:6], r.label): r.cells[-1] for b in model.blocks for r in b.rows}
    assert deltas["UPSeg'", "MCANet"].figure == "+2.60"
    assert deltas["ASANet", "ASANet"].figure == "+0.43"
    assert deltas["UPSeg'", "CMX"].state is deltas["ASANet", "CMX"].state is CellState.REFERENCE
    assert deltas["papers", "CloudSeg"].state is CellState.NOT_REPORTED


def test_a_whole_report(tmp_path: Path) -> None:
    plan = make_semantic_plan(breakdowns=("class",))
    files = build_report(
        Results(plan, make_semantic_frame(plan), REQUEST.sources), tmp_path, published_dir=PUBLISHED_DIR
    )
    assert (tmp_path / "breakdown_class_comparison_test.tex").exists()
    assert files.notes == ()
