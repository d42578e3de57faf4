"""What a method costs, as columns of a table: parameters and multiply-adds, from the results frame's `cost` split.

Costs are facts of a model, not scores: they have no direction, no spread and no difference to the reference.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import NamedTuple

from harness.records import Row
from reports.evidence import Evidence
from reports.table_model import Cell, CellState, Column

SPLIT = "cost"
"""Split of the results frame under which costs stand."""

MEANING = "Params are millions of parameters, GMACs billions of multiply-adds per sample."
"""As captions say it."""

FINE = 0.1
"""Shown figures below this have two significant digits, never as a power of ten; others two decimals."""


class Cost(NamedTuple):
    """A recorded cost and how it is shown."""

    name: str
    """As it is stored."""
    head: str
    scale: float
    """Factor from the stored value to the shown figure."""
    measured: bool = False
    """Whether it depends on the machine, and so differs between replicates."""
    meaning: str = ""
    """A sentence of captions, where the head does not say it."""
    cited: str = ""
    """Name by which a paper asks for the shown figure, where the stored one names another unit."""


COSTS = (Cost("parameters", "Params (M)", 1e-6), Cost("gmacs", "GMACs", 1.0))
"""Those of every table."""

RECORDED = (
    *COSTS,
    Cost("parameters_dead", "Dead (M)", 1e-6, meaning="Dead parameters are built and cannot influence the output."),
    Cost("latency_ms", "Latency (ms)", 1.0, True, "Latency is of one sample, the median of five passes."),
    Cost(
        "peak_memory_mib",
        "Memory (GiB)",
        1 / 1024,
        measured=True,
        meaning="Memory is the peak of those passes, on a CPU the process's.",
        cited="peak_memory_gib",
    ),
    Cost("train_memory_mib", "Training memory (GiB)", 1 / 1024, measured=True, cited="train_memory_gib"),
    Cost(
        "gpu_hours", "GPU-hours", 1.0, True, "Hours are those for which a training held devices, over all its starts."
    ),
    Cost("cpu_hours", "CPU-hours", 1.0, True),
    Cost("energy_kwh", "Energy (kWh)", 1.0, True),
)
"""All that `harness.cost` and `harness.trial` record and a paper shows."""


def cost_columns() -> list[Column]:
    """The columns; costs belong to no split, so they stand under no group."""
    return [Column(cost.head) for cost in COSTS]


def show_cost(value: float, cost: Cost) -> str:
    """A stored cost as the table shows it."""
    shown = value * cost.scale
    if not 0 < shown < FINE:
        return f"{shown:.2f}"
    # two digits of 0.0996 are 0.10: the power of ten is that of the rounded figure
    power = int(f"{shown:.1e}".partition("e")[2])
    return f"{shown:.{1 - power}f}"


def cited_name(cell: Cell) -> str:
    """The metric of a cell as a paper asks for it: of a cost, with the unit that is shown."""
    if cell.split != SPLIT:
        return cell.metric
    return next((cost.cited for cost in RECORDED if cost.name == cell.metric and cost.cited), cell.metric)


def recorded_cost(row: Row, evidence: Mapping[str, Evidence], name: str) -> dict[str, float]:
    """A cost of a row, as each run recorded it: id of the run -> stored value."""
    found = [evidence[t] for t in row.trial_ids if t in evidence]
    return {e.run_id: e.scores[SPLIT, name] for e in found if (SPLIT, name) in e.scores}


def cost_cells(row: Row, evidence: Mapping[str, Evidence]) -> tuple[Cell, ...]:
    """Each cost of a row: the mean over the replicates that recorded it, which is what each of them recorded."""
    return tuple(cost_cell(row, evidence, cost) for cost in COSTS)


def quoted_costs() -> tuple[Cell, ...]:
    """The cells of a published row; publications are quoted for their scores only."""
    return tuple(Cell(SPLIT, cost.name, CellState.NOT_RECORDED) for cost in COSTS)


def cost_cell(row: Row, evidence: Mapping[str, Evidence], cost: Cost) -> Cell:
    """One cost of a row: the mean over the replicates that recorded it, with their spread where it is measured."""
    found = recorded_cost(row, evidence, cost.name)
    expected = len(row.trial_ids)
    if not found:
        return Cell(SPLIT, cost.name, CellState.NOT_RECORDED, expected_n=expected, trial_ids=row.trial_ids)
    value = statistics.fmean(found.values())
    figure = show_cost(value, cost)
    std = statistics.stdev(found.values()) if cost.measured and len(found) > 1 else None
    return Cell(
        SPLIT,
        cost.name,
        CellState.COMPLETE if len(found) == expected else CellState.PARTIAL,
        value=value,
        std=std,
        n=len(found),
        expected_n=expected,
        figure=figure,
        spread="" if std is None else f"{std * cost.scale:.{len(figure.partition('.')[2])}f}",
        trial_ids=row.trial_ids,
        run_ids=tuple(found),
    )
