"""A table of the plan, filled: `build_table` turns recorded scores into the typed model that renderers format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness.errors import HarnessError, nearest
from harness.metrics import metric
from harness.records import Plan, Row, Table, Trial, TrialState
from reports.captions import dagger_mark, join_words, letter_mark, metric_head, split_label, write_caption
from reports.cells import delta_cell, hoist_count, judged_cell, published_cell, rank_cells, score_cell
from reports.class_scores import averaging_notes
from reports.comparison_notes import alike_notes, delta_notes, higher_notes, mark_footnotes, tested_on
from reports.comparisons import Judged, Shown, judge_deltas
from reports.costs import cost_cells, cost_columns, quoted_costs
from reports.evidence import Evidence
from reports.fairness import unfairness, unmet
from reports.published import WHOLE_ROW, Published, PublishedRow, Source, axis_value
from reports.results import Results
from reports.row_scores import RowScores
from reports.table_model import Block, Cell, CellState, Column, Footnote, TableModel, TableRow
from reports.verdicts import Judge

STUBS = {"comparison": "Method", "ablation": "Variant"}
"""Kind of table -> head of its column of labels."""

MAX_SCORE_COLUMNS = 8
"""A table with more scores in a row shows its splits below each other."""

MAX_SWITCHES = 5
"""A table that varies more axes than this has no room to show each of them."""

FAILED = {"out of memory": "ran out of memory", "diverged": "diverged", "timed out": "timed out"}
"""Recorded fault -> what a footnote says that replicates did; of any other that they failed."""

MAX_CAUSE = 160
"""Characters of a failure's cause that a footnote quotes."""


@dataclass
class Notes:
    """Footnotes in the order in which they were first needed; equal texts share a mark."""

    remarks: dict[str, str] = field(default_factory=dict)
    doubts: dict[str, str] = field(default_factory=dict)
    cites: dict[str, str] = field(default_factory=dict)
    """Remark -> citation key."""
    general: list[str] = field(default_factory=list)

    def remark(self, text: str) -> str:
        """Mark of a remark: a letter."""
        return self.remarks.setdefault(text, letter_mark(len(self.remarks)))

    def source(self, source: Source) -> str:
        """Mark of the remark that names a source."""
        text = f"Source: {source.text}."
        self.cites[text] = source.cite
        return self.remark(text)

    def doubt(self, text: str) -> str:
        """Mark of a doubt about a figure: a dagger."""
        return self.doubts.setdefault(text, dagger_mark(len(self.doubts)))

    def footnotes(self, tests: Sequence[Footnote]) -> tuple[Footnote, ...]:
        """All of them: remarks, doubts, what marks of tests mean, and what concerns the whole table."""
        marked = [
            Footnote(mark, text, self.cites.get(text, ""))
            for text, mark in (*self.remarks.items(), *self.doubts.items())
        ]
        return (*marked, *tests, *(Footnote("", text) for text in self.general))


@dataclass(frozen=True)
class Request:
    """What every part of a table needs to know."""

    plan: Plan
    table: Table
    evidence: Mapping[str, Evidence]
    reference: Row | None
    """What differences are taken to; None for no column of differences."""
    delta_metric: str
    published: Published | None
    scores: RowScores
    judged: Mapping[Shown, Judged]
    """Differences to the reference."""
    unfair: Mapping[str, str]
    """Variant -> what its row was given and most others were not."""
    notes: Notes = field(default_factory=Notes)

    def verdicts(self, published: Published) -> Judge:
        """Who compares published figures with ours."""
        return Judge(self.plan, self.table.rows, self.scores, published)


def build_table(results: Results, table: Table, published: Published | None = None) -> TableModel:
    """Fill a table of the plan.

    Args:
        results: The study; without per-sample results, replicates alone decide intervals and tests.
        table: One of its tables.
        published: Published numbers to show beside ours.

    Raises:
        HarnessError: A kind of table that does not exist, or no published table of that name.
        UnknownNameError: An unknown metric.
    """
    if table.kind not in STUBS:
        raise HarnessError(f"table {table.name!r}: unknown kind {table.kind!r}; {nearest(table.kind, STUBS)}")
    plan, request = results.plan, _request(results, table, published)
    reference, delta_metric = request.reference, request.delta_metric
    panels = _panels(table)
    axes = _switch_axes(table)
    blocks = [block for splits in panels for block in _blocks(request, splits, axes, titled=len(panels) > 1)]
    if any(c.state is CellState.MISSING for b in blocks for row in b.rows for c in row.cells):
        request.notes.general.append("A dash stands for a figure that lacks a finished trial.")
    shared = {row.note for row in table.rows}
    if len(shared) == 1 and any(shared):
        request.notes.general.append(f"All rows of this study: {shared.pop()}")
    request.notes.general += averaging_notes(request.evidence, table.splits, table.metrics)
    for skipped in plan.skipped:
        if skipped.table == table.name:
            request.notes.general.append(f"Not trained: {skipped.variant} ({_one_line(skipped.reason)}).")
    delta = None
    if reference:
        head = f"Δ {metric(delta_metric).label}"
        delta = f"{head} is the difference to the reference, “{reference.label}”, paired by replicate."
    rows = [row for b in blocks for row in b.rows if not row.is_published]
    ours = [c for row in rows for c in row.cells]
    request.notes.general += [*alike_notes(ours), *higher_notes(rows), *_test_notes(request)]
    return TableModel(
        name=table.name,
        caption=write_caption(plan, table, delta=delta, quotes=published is not None, tested=tested_on(ours)),
        stub=STUBS[table.kind],
        switch_heads=tuple(path.rpartition(".")[2].replace("_", " ").capitalize() for path in axes),
        columns=(*_columns(request, panels[0], grouped=len(panels[0]) > 1), *(cost_columns() if table.costs else ())),
        blocks=tuple(blocks),
        footnotes=request.notes.footnotes(mark_footnotes(request.judged)),
    )


def _test_notes(request: Request) -> list[str]:
    """Verdicts on the published figures that are shown, and the tests of all differences."""
    table, published, name = request.table, request.published, request.delta_metric
    quoted = [r for r in published.table(table.name, table.group) if r.split in table.splits] if published else []
    verdicts = request.verdicts(published).notes(quoted, name) if published else []
    labels = {row.variant: row.label for row in table.rows}
    return [*verdicts, *delta_notes(request.judged, labels, metric_name=name)]


def _request(results: Results, table: Table, published: Published | None) -> Request:
    plan, scores = results.plan, results.scores
    reference = plan.reference(table) if table.kind == "ablation" else None
    evidence = results.evidence([*table.rows, *([reference] if reference else [])])
    delta_metric = plan.deciding_metric(table)
    judged = judge_deltas(table, reference, scores, metric_name=delta_metric) if reference else {}
    unfair = unfairness(plan, table)
    return Request(plan, table, evidence, reference, delta_metric, published, scores, judged, unfair)


def _panels(table: Table) -> list[tuple[str, ...]]:
    if len(table.splits) * len(table.metrics) > MAX_SCORE_COLUMNS:
        return [(split,) for split in table.splits]
    return [table.splits]


def _switch_axes(table: Table) -> tuple[str, ...]:
    paths = tuple(dict.fromkeys(path for row in table.rows for path in row.changes))
    return paths if table.kind == "ablation" and 1 < len(paths) <= MAX_SWITCHES else ()


def _columns(request: Request, splits: Sequence[str], *, grouped: bool) -> list[Column]:
    heads = [metric_head(m) for m in request.table.metrics]
    if request.reference:
        heads.append(f"Δ {metric(request.delta_metric).label}")
    return [Column(head, split_label(split) if grouped else "") for split in splits for head in heads]


def _blocks(request: Request, splits: Sequence[str], axes: Sequence[str], *, titled: bool) -> list[Block]:
    title = split_label(splits[0]).capitalize() if titled else ""
    blocks = [Block(f"{title}, this study" if title else "", _our_rows(request, splits, axes))]
    return [*blocks, *(_published_blocks(request, request.published, splits, title) if request.published else ())]


def _our_rows(request: Request, splits: Sequence[str], axes: Sequence[str]) -> tuple[TableRow, ...]:
    grid = [_our_cells(request, row, splits) for row in request.table.rows]
    ranked = [_tested(request, column) for column in zip(*grid, strict=True)]
    rows = []
    for row, cells in zip(request.table.rows, zip(*ranked, strict=True), strict=True):
        counted, count = hoist_count(cells)
        costs = cost_cells(row, request.evidence) if request.table.costs else ()
        switches = tuple(_switch(request.plan, row, path) for path in axes)
        marks = (*_note_marks(request, row), *_failure_marks(request, row))
        rows.append(TableRow(row.label, (*counted, *costs), switches, count, marks))
    return tuple(rows)


def _tested(request: Request, column: Sequence[Cell]) -> tuple[Cell, ...]:
    """A column with intervals and tests."""
    of, rows = column[0], request.table.rows
    if of.is_delta:
        return tuple(
            judged_cell(c, request.judged.get(Shown(r.variant, of.split, of.metric)))
            for r, c in zip(rows, column, strict=True)
        )
    return rank_cells(column, [request.scores.of(row, split=of.split, metric_name=of.metric) for row in rows])


def _note_marks(request: Request, row: Row) -> tuple[str, ...]:
    """The marks of what must be known of a row's model, which is said once by `build_table` where it holds for all
    rows, of its tuning, and of what it was given and others were not."""
    notes = {other.note for other in request.table.rows}
    about = (row.note if len(notes) > 1 else "", row.tuning, request.unfair.get(row.variant, ""))
    return tuple(request.notes.remark(text) for text in about if text)


def _our_cells(request: Request, row: Row, splits: Sequence[str]) -> list[Cell]:
    cells = []
    for split in splits:
        cells += [score_cell(row, request.evidence, split=split, metric_name=m) for m in request.table.metrics]
        if request.reference:
            name = request.delta_metric
            cells.append(delta_cell(row, request.reference, request.evidence, split=split, metric_name=name))
    return cells


def _failure_marks(request: Request, row: Row) -> tuple[str, ...]:
    causes: dict[tuple[str, str], list[str]] = {}
    for trial_id in row.trial_ids:
        found = request.evidence.get(trial_id)
        if found and found.state is TrialState.FAILED:
            cause = (FAILED.get(found.fault, "failed"), _one_line(found.note) or "no cause recorded")
            causes.setdefault(cause, []).append(str(found.replicate))
    return tuple(
        request.notes.remark(f"Replicate{'s' * (len(which) > 1)} {join_words(which)} {what}: {cause}")
        for (what, cause), which in causes.items()
    )


def _switch(plan: Plan, row: Row, path: str) -> bool | str:
    value: Any = row.changes.get(path)
    if value is None:
        value = axis_value(plan.trial(row.trial_ids[0]), path)
    return value if isinstance(value, bool) else "" if value is None else str(value)


def _published_blocks(request: Request, published: Published, splits: Sequence[str], title: str) -> Iterator[Block]:
    """A block of quoted rows for each protocol: figures of different protocols must not stand in one list."""
    metrics = set(request.table.metrics)
    quoted = published.table(request.table.name, request.table.group)
    shown = [row for row in quoted if row.split in splits and metrics & set(row.scores)]
    for under in dict.fromkeys(row.under for row in shown):
        rows = _published_rows(request, published, [row for row in shown if row.under == under], splits)
        shared = tuple(m for m in rows[0].marks if all(m in row.marks for row in rows))
        rows = [replace(row, marks=tuple(m for m in row.marks if m not in shared)) for row in rows]
        heading = f"published on {published.dataset} (quoted)"
        heading = f"{title}, {heading}" if title else heading[0].upper() + heading[1:]
        yield Block(f"{heading}: {published.protocols[under].heading}" if under else heading, tuple(rows), shared)


def _published_rows(
    request: Request, published: Published, quoted: Sequence[PublishedRow], splits: Sequence[str]
) -> list[TableRow]:
    by_label: dict[str, dict[str, PublishedRow]] = {}
    for row in quoted:
        by_label.setdefault(row.label, {})[row.split] = row
    reference = _published_reference(request, by_label)
    rows = []
    for label, of_split in by_label.items():
        cells: list[Cell] = []
        for split in splits:
            row_here = of_split.get(split)
            cells += _quoted_cells(request, published, row_here, split)
            if request.reference:
                cells.append(_quoted_delta(request.delta_metric, row_here, reference.get(split), split))
        marks = dict.fromkeys(mark for row in of_split.values() for mark in _row_marks(request, published, row))
        cells += quoted_costs() if request.table.costs else ()
        rows.append(TableRow(label, tuple(cells), marks=tuple(marks), is_published=True))
    return rows


def _published_reference(request: Request, by_label: Mapping[str, dict[str, PublishedRow]]) -> dict[str, PublishedRow]:
    if not request.reference:
        return {}
    trial = request.plan.trial(request.reference.trial_ids[0])
    return next((of for of in by_label.values() if all(row.matches(trial) for row in of.values())), {})


def _quoted_cells(request: Request, published: Published, row: PublishedRow | None, split: str) -> list[Cell]:
    cells = []
    for name in request.table.metrics:
        if row is None or name not in row.scores:
            cells.append(Cell(split, name, CellState.NOT_REPORTED))
            continue
        source = published.sources[row.sources.get(name, row.source)]
        marks = [request.notes.source(source)] if name in row.sources else []
        if name in row.doubts:
            marks.append(request.notes.doubt(_doubtful(published, row.doubts[name])))
        under = f" ({published.protocols[row.under].heading})" if row.under else ""
        cell = published_cell(split, name, row.scores[name], source=source.text + under, marks=tuple(marks))
        found = request.verdicts(published).of(row, name)
        cells.append(replace(cell, verdict=found.verdict if found else ""))
    return cells


def _quoted_delta(name: str, row: PublishedRow | None, reference: PublishedRow | None, split: str) -> Cell:
    if row is None or reference is None or name not in row.scores or name not in reference.scores:
        return Cell(split, name, CellState.NOT_REPORTED, is_delta=True)
    if row is reference:
        return Cell(split, name, CellState.REFERENCE, is_delta=True)
    difference = row.scores[name] - reference.scores[name]
    return published_cell(split, name, difference, source="computed from the quoted figures", is_delta=True)


def _row_marks(request: Request, published: Published, row: PublishedRow) -> list[str]:
    marks = [request.notes.source(published.sources[row.source])]
    how = [published.protocols[row.under].text] if row.under else []
    how += [row.protocol] if row.protocol else []
    marks += [request.notes.remark(f"Protocol: {' '.join(text.split()).rstrip('.')}.") for text in how]
    other = unmet(published.conditions_of(row), _beside(request, row))
    marks += [request.notes.remark(other)] if other else []
    if WHOLE_ROW in row.doubts:
        marks.append(request.notes.doubt(_doubtful(published, row.doubts[WHOLE_ROW])))
    return marks


def _beside(request: Request, quoted: PublishedRow) -> list[Trial]:
    """Our trials that a published row is compared with: of the same method, else of every row."""
    trials = [request.plan.trial(row.trial_ids[0]) for row in request.table.rows if row.trial_ids]
    return [trial for trial in trials if quoted.matches(trial)] or trials


def _doubtful(published: Published, doubt: str) -> str:
    return f"Doubtful: {published.doubts[doubt].strip().rstrip('.')}."


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_CAUSE else line[: MAX_CAUSE - 1] + "…"
