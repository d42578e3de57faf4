"""Costs in tables: one figure per row, no ranking, no difference, a dash where nothing was recorded."""

from __future__ import annotations

import io
from dataclasses import replace
from statistics import mean, stdev

import pandas as pd
import pytest
from rich.console import Console

from harness.records import Plan
from harness.spec_report import TableConfig
from reports.artifacts import NotDrawn
from reports.cost_breakdown import build_cost_breakdown
from reports.costs import COSTS, cost_cells, show_cost
from reports.evidence import collect_evidence
from reports.numbers import numbers_of
from reports.results import Results
from reports.table_model import Cell, CellState, Emphasis, TableModel
from reports.tables import build_table
from reports.terminal import render_terminal
from tests.report_frame import AWKWARD, make_frame, make_plan

PLAN = make_plan()
FRAME = make_frame(PLAN)
WIDTH = 140
"""Columns of a terminal in which tables must stay readable."""


def built(name: str, *, plan: Plan = PLAN, frame: pd.DataFrame = FRAME) -> TableModel:
    table = replace(next(t for t in plan.tables if t.name == name), published=None)
    return build_table(Results(plan, frame), table)


def costs_of(model: TableModel, label: str) -> list[Cell]:
    row = next(r for block in model.blocks for r in block.rows if r.label == label)
    return [c for c in row.cells if c.split == "cost"]


@pytest.mark.parametrize("name", ["comparison", "components", "kernels"])
def test_every_table_ends_with_its_costs(name: str) -> None:
    model = built(name)
    assert [(c.head, c.group) for c in model.columns[-2:]] == [("Params (M)", ""), ("GMACs", "")]
    assert "GMACs billions of multiply-adds per sample" in model.caption
    assert all(len(row.cells) == len(model.columns) for block in model.blocks for row in block.rows)


def test_a_table_may_go_without() -> None:
    model = built("control")
    assert not any(c.split == "cost" for _, c in model.cells())
    assert "GMACs" not in model.caption
    assert TableConfig(name="t", of="t", kind="comparison", metrics=("miou",)).costs


def test_costs_are_neither_ranked_nor_counted_nor_spread() -> None:
    model = built("comparison")
    cells = [c for _, c in model.cells() if c.split == "cost"]
    assert {c.emphasis for c in cells} == {Emphasis.NONE}
    assert {(c.spread, c.count, c.is_delta) for c in cells} == {("", "", False)}
    assert [c.figure for c in costs_of(model, "MAFN")] == ["243.00", "333.00"]
    assert [c.figure for c in costs_of(model, AWKWARD)] == ["250.50", "0.012"]
    # a row that lacks a replicate still says so once, for its scores
    assert next(r.count for r in model.blocks[0].rows if r.label == "RMSIN") == "n=2/3"


def test_what_was_not_recorded_is_a_dash_and_no_number() -> None:
    model = built("comparison")
    for label in ("LAVT", "LGCE", "CMPC"):
        assert [(c.state, c.value) for c in costs_of(model, label)] == [(CellState.NOT_RECORDED, None)] * 2


def test_replicates_that_differ_are_averaged() -> None:
    frame = FRAME.copy()
    row = next(t for t in PLAN.tables if t.name == "comparison").rows[-1]
    one = (frame.trial_id == row.trial_ids[0]) & (frame.metric == "parameters")
    frame.loc[one, "value"] += 3e6
    parameters, _ = cost_cells(row, collect_evidence(frame, row.trial_ids))
    assert (parameters.figure, parameters.n) == ("244.00", 3)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((2.4e8, "240.00"), (1.23456e6, "1.23"), (98765.0, "0.099"), (1234.0, "0.0012"), (0.0, "0.00")),
        *((10400.0, "0.010"), (60000.0, "0.060"), (99600.0, "0.10"), (99400.0, "0.099"), (80.4, "0.000080")),
    ],
)
def test_small_models_do_not_become_zero(value: float, text: str) -> None:
    assert show_cost(value, COSTS[0]) == text


def with_costs(frame: pd.DataFrame, costs: dict[str, tuple[float, ...]]) -> pd.DataFrame:
    """The frame with costs of every run: those of its replicate."""
    lines = [
        {**of_run.iloc[0], "split": "cost", "metric": name, "value": values[of_run.iloc[0]["replicate"]]}
        for _, of_run in frame.groupby("run_id")
        for name, values in costs.items()
    ]
    return pd.concat([frame, pd.DataFrame(lines)], ignore_index=True)


def test_a_small_cost_and_its_spread_have_equally_many_decimals() -> None:
    frame = with_costs(FRAME, {"cpu_hours": (0.0058, 0.0060, 0.0062)})
    found = build_cost_breakdown(Results(PLAN, frame), PLAN.tables[0]).table
    row = next(r for r in found.blocks[0].rows if r.label == "MAFN")
    assert (row.cells[-1].figure, row.cells[-1].spread) == ("0.0060", "0.0002")


def test_numbers_of_a_paper_are_cited_in_the_unit_that_their_name_says() -> None:
    frame = with_costs(FRAME, {"peak_memory_mib": (1024.0,) * 3, "train_memory_mib": (2048.0,) * 3})
    found = build_cost_breakdown(Results(PLAN, frame), PLAN.tables[0])
    values = {key.metric: text for key, text in numbers_of([found.table]).values.items() if key.macro == "res"}
    assert (values["peak_memory_gib"], values["train_memory_gib"]) == ("1.00", "2.00")
    assert not any(name.endswith("mib") for name in values)
    assert ",peak_memory_mib,1024," in found.csv


def test_the_widest_table_fits_the_terminal() -> None:
    console = Console(width=WIDTH, record=True, file=io.StringIO())
    console.print(render_terminal(built("comparison")))
    text = console.export_text()
    for line in ("RMSIN (n=2/3)", "MAFN "):
        shown = next(t for t in text.splitlines() if t.strip().startswith(line))
        assert shown.count("±") == 7
        assert shown.rstrip().endswith("333.00")


def test_a_breakdown_shows_all_that_is_recorded_with_the_spread_of_what_is_measured() -> None:
    table = PLAN.tables[0]
    runs = {t: 10.0 * i for row in table.rows for i, t in enumerate(row.trial_ids, 1)}
    lines = []
    for (trial_id, run_id), of_run in FRAME.groupby(["trial_id", "run_id"]):
        latency = runs.get(str(trial_id), 0.0)
        costs = {"latency_ms": latency, "parameters_dead": 2e6, "gpu_hours": 0.0}
        lines += [{**of_run.iloc[0], "split": "cost", "metric": name, "value": v} for name, v in costs.items()]
        assert run_id == of_run.iloc[0]["run_id"]
    frame = pd.concat([FRAME, pd.DataFrame(lines)], ignore_index=True)
    found = build_cost_breakdown(Results(PLAN, frame), table)
    heads = [column.head for column in found.table.columns]
    assert heads == ["Params (M)", "GMACs", "Dead (M)", "Latency (ms)"]
    row = next(r for r in found.table.blocks[0].rows if r.label == "MAFN")
    dead, latency = row.cells[2:]
    n = len(next(r for r in table.rows if r.label == "MAFN").trial_ids)
    expected = [10.0 * i for i in range(1, n + 1)]
    assert (dead.figure, dead.spread) == ("2.00", "")
    assert (latency.figure, latency.spread) == (f"{mean(expected):.2f}", f"{stdev(expected):.2f}")
    assert [note.text for note in found.table.footnotes] == ["Zero in every row: GPU-hours."]
    assert "which need not be equal: Latency." in found.table.caption
    assert "gpu_hours" in found.csv


def test_a_breakdown_without_costs_is_not_made() -> None:
    bare = FRAME[FRAME["split"] != "cost"]
    with pytest.raises(NotDrawn, match="no run has recorded a cost"):
        build_cost_breakdown(Results(PLAN, bare), PLAN.tables[0])
