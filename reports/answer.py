"""The answer to a study's question in one sentence, read off the tests that its tables show; nothing is tested here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from harness.metrics import metric
from harness.records import Plan, Table
from reports.captions import join_words, split_label
from reports.cells import show_value
from reports.results import distinct_tables
from reports.stale import stale_count
from reports.table_model import Cell, CellState, Emphasis, Flag, TableModel

MAX_NAMED = 6
"""Rows that a clause names; of more it says how many."""


class _Shown(NamedTuple):
    """A row of ours and its cell in the column that decides."""

    label: str
    cell: Cell


def answer(plan: Plan, tables: Sequence[TableModel], *, finished: int) -> str:
    """What the tests say: which rows differ from the reference and by how much, which are best, what is not known.

    Args:
        plan: The study, expanded.
        tables: Its tables, filled.
        finished: Trials that have a result.
    """
    models = {model.name: model for model in tables}
    clauses = [_of_table(plan, table, models[table.name]) for table in distinct_tables(plan)]
    if counted := stale_count(tables):
        clauses.append(counted)
    if finished < len(plan.trials):
        clauses.append(f"all this rests on {finished} of {len(plan.trials)} trials, the others have no result")
    sentence = "; ".join(clauses)
    return f"{sentence[:1].upper()}{sentence[1:]}."


def _of_table(plan: Plan, table: Table, model: TableModel) -> str:
    split, name = plan.deciding_split(table), plan.deciding_metric(table)
    column = f"{metric(name).label} on {split_label(split)}"
    cells = [(row.label, cell) for row, cell in model.cells() if not row.is_published and cell.split == split]
    reference = plan.reference(table) if table.kind == "ablation" else None
    if reference is not None:
        found = [_Shown(*c) for c in cells if c[1].is_delta and c[1].state is not CellState.REFERENCE]
        return f"in table {table.name}, {_against(reference.label, column, found)}"
    found = [_Shown(*c) for c in cells if c[1].metric == name and not c[1].is_delta]
    return f"in table {table.name}, {_best(column, found, higher_is_better=metric(name).higher_is_better)}"


def _against(reference: str, column: str, found: Sequence[_Shown]) -> str:
    """Differences to the reference by what the tests say of them."""
    groups: Mapping[str, list[_Shown]] = {"differ": [], "alike": [], "untested": [], "absent": []}
    for shown in found:
        groups[_standing(shown.cell)].append(shown)
    parts = []
    if differ := groups["differ"]:
        parts.append(f"{_named(map(_difference, differ), differ)} {_verb(differ, 'differs', 'differ')} from it")
    if alike := groups["alike"]:
        parts.append(f"{_named(map(_difference, alike), alike)} cannot be told from it")
    if untested := groups["untested"]:
        few = "one replicate" if max(s.cell.n for s in untested) == 1 else "too few replicates to compare"
        parts.append(f"{_named(map(_difference, untested), untested)} {_verb(untested, 'is', 'are')} untested ({few})")
    if absent := groups["absent"]:
        labels = (f"“{s.label}”" for s in absent)
        parts.append(f"{_named(labels, absent)} {_verb(absent, 'has', 'have')} no difference to show")
    return f"against “{reference}” in {column}: {', '.join(parts)}" if parts else "no row is compared with another"


def _standing(cell: Cell) -> str:
    if cell.value is None:
        return "absent"
    if Flag.DIFFERS in cell.flags:
        return "differ"
    return "alike" if Flag.NOT_SIGNIFICANT in cell.flags else "untested"


def _best(column: str, found: Sequence[_Shown], *, higher_is_better: bool) -> str:
    """Which rows share the best place in a column, or why none is known to have it."""
    scored = [s for s in found if s.cell.value is not None]
    if not scored:
        return f"no row has {column} yet"
    sign = 1 if higher_is_better else -1
    ordered = sorted(scored, key=lambda s: -sign * (s.cell.value or 0.0))
    if any(Flag.ALL_ALIKE in s.cell.flags for s in scored):
        return f"no row can be told from the best in {column}"
    best = [s for s in ordered if s.cell.emphasis is Emphasis.BEST]
    if not best:
        return f"“{ordered[0].label}” has the best {column} ({_figure(ordered[0].cell)}), untested"
    above = [s for s in scored if Flag.UNTESTED in s.cell.flags]
    left = [s for s in scored if s.cell.emphasis is not Emphasis.BEST and s.cell.n <= 1 and s not in above]
    rest = f", and {len(left)} with one replicate not tested" if left else ""
    if above:
        named = _named((f"“{s.label}” ({_figure(s.cell)})" for s in above), above)
        rest += f"; {named} {_verb(above, 'has', 'have')} a better one and could not be compared"
    labels = [f"“{s.label}” ({_figure(s.cell)})" for s in best]
    if len(best) == 1:
        return f"{labels[0]} has the best {column} and can be told from every other row that was tested{rest}"
    return f"{_named(labels, best)} cannot be told from the best in {column}, the others that were tested can{rest}"


def _figure(cell: Cell) -> str:
    unit = metric(cell.metric).unit
    return f"{cell.figure} {unit}".strip()


def _difference(shown: _Shown) -> str:
    """`“label” (+0.40 points, 95 % interval +0.10 to +0.70)`."""
    cell, of = shown.cell, metric(shown.cell.metric)
    bounds = [show_value(bound, of, signed=True) for bound in cell.interval or ()]
    between = f", 95 % interval {bounds[0]} to {bounds[1]}" if bounds else ""
    return f"“{shown.label}” ({cell.figure} {of.delta_unit}{between})"


def _named(words: Iterable[str], of: Sequence[_Shown]) -> str:
    listed = list(words)[:MAX_NAMED]
    return join_words([*listed, f"{len(of) - MAX_NAMED} more"] if len(of) > MAX_NAMED else listed)


def _verb(of: Sequence[_Shown], one: str, many: str) -> str:
    return one if len(of) == 1 else many
