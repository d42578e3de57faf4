"""Break-downs: every sample in one group, groups add up to the split, scores as for a whole split."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from harness.metrics import referring_scores
from harness.spec_report import BREAKDOWNS
from reports.artifacts import NotDrawn
from reports.breakdown import GROUPINGS, LENGTHS, SIZES, build_breakdown, build_breakdowns, object_size, sentence_length
from reports.class_breakdown import CLASS
from reports.cost_breakdown import COST
from reports.latex import render_table
from reports.markdown import render_markdown
from tests.drawn_study import CannedArtifacts, make_request


def lines_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_every_name_that_a_study_may_use_exists() -> None:
    assert {name for names in BREAKDOWNS.values() for name in names} == {*GROUPINGS, CLASS, COST}


def test_sizes_are_shares_of_the_image() -> None:
    table = pd.DataFrame({"area": [0, 99, 100, 500, 501], "height": 100, "width": 100})
    assert list(object_size(table).fillna("none")) == ["none", SIZES[0], SIZES[1], SIZES[1], SIZES[2]]


def test_lengths_are_words() -> None:
    sentences = ["a b c d", "a  b c\td e", " ".join("abcdefgh"), " ".join("abcdefghi")]
    assert list(sentence_length(pd.DataFrame({"sentence": sentences}))) == [LENGTHS[0], *[LENGTHS[1]] * 2, LENGTHS[2]]


@pytest.mark.parametrize("by", list(GROUPINGS))
def test_scores_of_each_group(by: str) -> None:
    request = make_request()
    found = build_breakdown(request, request.plan.tables[0], by=by, split="val")
    lines = lines_of(found.csv)
    groups = {line["group"]: int(line["samples"]) for line in lines}
    assert sum(groups.values()) == (7 if by == "size" else 8)  # an empty mask has no size
    for line in lines:
        expected = []
        for replicate in range(2):
            if (line["variant"], replicate) == ("+ noise", 1):
                continue
            samples = CannedArtifacts().samples(f"{line['variant']}|{replicate}", "val")
            assert samples is not None
            mine = samples[(GROUPINGS[by].assign(samples) == line["group"]).to_numpy()]
            counts = [mine[c].to_numpy(np.int64) for c in ("intersection", "union")]
            expected.append(referring_scores(*counts)[line["metric"]])
        assert float(line["mean"]) == pytest.approx(np.mean(expected))
        assert (int(line["n"]), int(line["expected_n"])) == (len(expected), 2)
        if len(expected) == 2:
            assert float(line["std"]) == pytest.approx(np.std(expected, ddof=1), abs=1e-9)
        else:
            assert line["std"] == ""


def test_order_heads_and_rendering() -> None:
    request = make_request()
    table = build_breakdown(request, request.plan.tables[0], by="length", split="val").table
    assert table.name == "breakdown_length_parts_val"
    assert [c.head for c in table.columns] == ["default", "+ noise", "MAFN"]
    assert [b.heading for b in table.blocks] == ["mIoU ↑", "oIoU ↑", "P@0.5 ↑"]
    labels = [row.label for row in table.blocks[0].rows]
    assert [label.partition(",")[0] for label in labels] == [name for name in LENGTHS if name in " ".join(labels)]
    assert "n=1/2" in render_markdown(table)
    assert "MAFN|0" not in render_markdown(table)
    assert r"\begin{table" in render_table(table)


def test_protocols_that_leave_samples_out() -> None:
    request = make_request()
    trials = tuple(replace(t, evaluate={"drop_empty_refs": True, "empty": "skip"}) for t in request.plan.trials)
    old_ids = [t.id for t in request.plan.trials]
    new_ids = dict(zip(old_ids, [t.id for t in trials], strict=True))
    table = request.plan.tables[0]
    rows = tuple(replace(row, trial_ids=tuple(new_ids[t] for t in row.trial_ids)) for row in table.rows)
    plan = replace(request.plan, trials=trials, tables=(replace(table, rows=rows),))
    frame = request.frame.assign(trial_id=request.frame["trial_id"].map(new_ids))
    found = build_breakdown(replace(request, plan=plan, frame=frame), plan.tables[0], by="category", split="val")
    assert {line["group"]: line["samples"] for line in lines_of(found.csv)} == {"harbor": "3", "ship": "4"}


def test_controls_are_left_out_and_missing_results_are_said() -> None:
    made, notes = build_breakdowns(make_request(breakdowns=("size", "length")))
    assert [b.table.name for b in made] == ["breakdown_size_parts_val", "breakdown_length_parts_val"]
    assert notes == []
    lost = make_request(missing=["default", "+ noise", "MAFN"], breakdowns=("size",))
    assert build_breakdowns(lost) == (
        [],
        [
            "break-down by size of table parts on val: "
            "no complete run has left per-sample results that can be grouped so"
        ],
    )
    with pytest.raises(NotDrawn, match="no complete run has left"):
        build_breakdown(lost, lost.plan.tables[0], by="size", split="val")
