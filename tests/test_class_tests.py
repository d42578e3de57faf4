"""Single classes are tested like whole scores: on test samples where they follow from them, as one family."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.multitest import multipletests

from harness.confusion import class_scores
from harness.records import Plan, Row, Table, Trial
from reports.artifacts import Sources
from reports.class_breakdown import build_class_breakdown
from reports.comparisons import pool, pool_of_deltas
from reports.results import Results
from reports.row_scores import RowScores, difference
from reports.significance import compare
from reports.table_model import Emphasis, Flag, TableModel
from tests.drawn_study import CannedPanels
from tests.judged_study import JudgedArtifacts

CLASSES = ("water", "farmland", "forest")
RIGHT = {"full": (0.9, 0.8, 0.7), "same": (0.9, 0.8, 0.7), "dry": (0.6, 0.8, 0.7)}
"""Label -> share of each class's pixels that are right; `dry` is bad at water alone."""
TILES = 40


def matrices_of(label: str, replicate: int) -> np.ndarray:
    """One matrix per tile; errors fall into the next class."""
    shared, rng = np.random.default_rng(1), np.random.default_rng([list(RIGHT).index(label), replicate])
    pixels = shared.integers(200, 600, (TILES, 3))
    found = np.zeros((TILES, 3, 3), np.int64)
    for k, right in enumerate(RIGHT[label]):
        moved = right + rng.normal(0, 0.004) + rng.normal(0, 0.03, TILES)
        found[:, k, k] = np.round(pixels[:, k] * np.clip(moved, 0, 1))
        found[:, k, (k + 1) % 3] = pixels[:, k] - found[:, k, k]
    return found


def request(*, kind: str = "ablation", twins: bool = False) -> Results:
    rows, trials, lines, kept = [], [], [], {}
    for label in RIGHT:
        mine = [
            Trial("semantic", {"name": "d"}, "f", {"name": label}, {}, {}, replicate, variant=label)
            for replicate in range(3)
        ]
        rows.append(Row(label, label, {"model.name": label}, tuple(t.id for t in mine), label == "full"))
        trials += mine
        for trial in mine:
            found = matrices_of(label, trial.replicate)
            if twins:
                found[:] = np.diag((50, 50, 50))
            run_id = f"{label}|{trial.replicate}"
            table = {"key": [f"t{i}" for i in range(TILES)], "confusion": [m.ravel().tolist() for m in found]}
            kept[run_id] = pd.DataFrame(table)
            iou = class_scores(found.sum(axis=0))["iou"]
            scores = {f"iou.{name}": float(value) for name, value in zip(CLASSES, iou, strict=True)}
            common = {"trial_id": trial.id, "replicate": trial.replicate, "state": "COMPLETE", "run_id": run_id}
            place = {"started": pd.Timestamp(2026, 1, 1), "split": "test", "note": ""}
            scores["miou"] = float(np.mean(list(scores.values())))
            lines += [{**common, **place, "metric": name, "value": value} for name, value in scores.items()]
    table = Table("parts", kind, "parts", ("miou",), ("test",), tuple(rows), costs=False)
    plan = Plan("s", "?", tuple(trials), (table,), replicates=3)
    return Results(plan, pd.DataFrame(lines), Sources(JudgedArtifacts(kept), CannedPanels()))


def built(**options: object) -> TableModel:
    asked = request(**options)  # type: ignore[arg-type]
    return build_class_breakdown(asked, asked.plan.tables[0], split="test").table


def test_a_class_that_a_variant_is_bad_at_is_found_and_no_other() -> None:
    model = built()
    rows = {row.label: row.cells for block in model.blocks for row in block.rows}
    assert [cell.emphasis for cell in rows["water"]] == [Emphasis.BEST, Emphasis.BEST, Emphasis.NONE]
    assert [cell.marks for cell in rows["water"]] == [(), ("n.s.",), ("*",)]
    assert Flag.DIFFERS in rows["water"][2].flags
    assert Flag.DIFFERS not in rows["farmland"][1].flags
    assert all(Flag.REPLICATES_ONLY not in cell.flags for cells in rows.values() for cell in cells)
    assert "paired t tests over replicates and test samples" in model.caption
    assert model.caption.endswith("In %. Marks tell what differs from the reference, “full”.")
    notes = {note.mark: note.text for note in model.footnotes}
    assert notes["*"].endswith("p < 0.05 after Holm's correction for the 8 differences shown.")


def test_all_differences_of_the_table_are_one_family() -> None:
    asked = request()
    table = asked.plan.tables[0]
    model = build_class_breakdown(asked, table, split="test").table
    cells = [c for block in model.blocks for row in block.rows for c in row.cells[1:]]
    scores = RowScores(asked.evidence(table.rows), asked.samples)
    raw = []
    for cell in cells:
        row = next(r for r in table.rows if r.trial_ids == cell.trial_ids)
        pair = [scores.of(r, split="test", metric_name=cell.metric) for r in (row, table.rows[0])]
        between = difference(*pair)
        assert between is not None
        raw.append((cell, between))
    of = {n: [scores.of(r, split="test", metric_name=n) for r in table.rows] for n in {c.metric for c in cells}}
    pools = {
        name: pool_of_deltas(pool(found), [between for cell, between in raw if cell.metric == name])
        for name, found in of.items()
    }
    plain = [compare(between, pools[cell.metric]).p for cell, between in raw]
    expected = multipletests(plain, method="holm")[1]
    assert [cell.p for cell in cells] == pytest.approx(list(expected))


def test_a_comparison_has_no_reference_to_mark_differences_to() -> None:
    model = built(kind="comparison")
    assert {cell.marks for _, cell in model.cells()} == {()}
    assert "Marks tell" not in model.caption
    assert model.footnotes == ()


def test_one_replicate_is_not_tested() -> None:
    asked = request()
    frame = asked.frame[asked.frame.replicate == 0]
    model = build_class_breakdown(replace(asked, frame=frame), asked.plan.tables[0], split="test").table
    assert {(cell.marks, cell.p) for _, cell in model.cells()} == {((), None)}


def test_classes_that_score_alike_are_not_told_apart_and_go_by_replicates_alone() -> None:
    asked = request(twins=True)
    table = asked.plan.tables[0]
    scores = RowScores(asked.evidence(table.rows), asked.samples)
    water = scores.of(table.rows[0], split="test", metric_name="iou.water")
    mean = scores.of(table.rows[0], split="test", metric_name="miou")
    assert water is not None
    assert water.found.draws is None
    assert mean is not None
    assert mean.found.draws is not None
    assert scores.of(table.rows[0], split="test", metric_name="iou.nothing") is None
