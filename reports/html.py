"""HTML: a study's report as one page that needs no network: tables to sort, every figure with its runs, all around it.

Equal results give equal bytes. Everything that comes from a study is escaped by the template engine.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jinja2
from markupsafe import Markup

from harness.metrics import metric
from harness.records import Plan, TrialState
from reports import costs
from reports.answer import answer
from reports.captions import split_label
from reports.cells import show_value
from reports.comparison_notes import show_p
from reports.markdown import absent_words
from reports.origins import Origin
from reports.page_origins import Behind, behind, methods
from reports.page_parts import MAX_TRACEBACKS, RunLink, Runs, count_states, fingerprints
from reports.table_model import Cell, CellState, Emphasis, Flag, TableModel, TableRow

FLAG_WORDS = {
    Flag.REPLICATES_ONLY: "no test samples took part in the interval and tests, replicates alone did",
    Flag.BLOCKED: "test samples that were cut from one scene count as one",
    Flag.ALL_ALIKE: "no row of this column can be told from its best",
    Flag.UNTESTED: "better than the best row of this column by its mean, and not compared with it",
    Flag.WORSE: "better than the best row of this column by its mean, and worse on the replicates that both have",
    Flag.DIFFERS: "differs from the reference",
    Flag.NOT_SIGNIFICANT: "cannot be told from the reference",
}

ABSENT_WORDS = {
    CellState.MISSING: "no replicate has this figure",
    CellState.REFERENCE: "the reference itself",
    CellState.NOT_REPORTED: "the publication does not give it",
    CellState.NOT_RECORDED: "no run has recorded it",
}
"""What a cell without a figure says when it is opened."""


class PageFigure(NamedTuple):
    """A figure of the page."""

    name: str
    caption: str
    image: str
    """PNG as base64."""


@dataclass(frozen=True)
class Page:
    """What a page is made from."""

    plan: Plan
    tables: Sequence[TableModel]
    """Those of the plan, filled."""
    runs: Runs
    study_text: str = ""
    breakdowns: Sequence[TableModel] = ()
    figures: Mapping[Path, str] = field(default_factory=dict)
    """PNG -> caption."""
    notes: Sequence[str] = ()
    """What could not be made, and what is doubtful."""
    origins: Mapping[str, Origin] = field(default_factory=dict)
    """Trial id -> where the run that counts for it comes from."""
    looks: str = ""
    """What has been scored on the test split."""


class CellView(NamedTuple):
    """A cell as the page shows it."""

    text: str
    """The figure, or what stands for it."""
    tail: str
    """What follows the figure: spread and count."""
    marks: str
    is_best: bool
    value: str
    """Unrounded, to sort by; empty without a figure."""
    title: str
    """What the figure is."""
    facts: tuple[tuple[str, str], ...]
    """What the opened cell says, by name."""
    behind: tuple[Behind, ...]
    """Its replicates."""


class Span(NamedTuple):
    """Neighbouring columns under one head."""

    head: str
    width: int


def render_page(page: Page) -> str:
    """The page as a document."""
    lines = page.runs.lines()
    counts = count_states(lines)
    template = _environment().get_template("report.html.j2")
    return template.render(
        page=page,
        plan=page.plan,
        answer=answer(page.plan, page.tables, finished=counts.get(TrialState.COMPLETE, 0)),
        tables=[*page.tables, *page.breakdowns],
        figures=[PageFigure(png.stem, text, _base64(png)) for png, text in page.figures.items()],
        lines=lines,
        methods=methods(page.plan, page.runs, page.origins),
        counts=counts,
        failures=page.runs.failures(),
        max_tracebacks=MAX_TRACEBACKS,
        codes=page.runs.codes(),
        fingerprints=fingerprints(page.plan.trials),
        spans_of=_spans,
        cell=lambda row, cell: view_cell(row, cell, page.runs),
        run=_run,
        source=cache(_source),  # of every replicate of every figure
        switch=_switch,
    )


def view_cell(row: TableRow, cell: Cell, runs: Runs) -> CellView:
    """A cell in words, with the runs behind it."""
    links = tuple(runs.link(run_id) for run_id in cell.run_ids)
    spread = f"± {cell.spread}" if cell.spread else ""
    count = f"({cell.count})" if cell.count else ""
    return CellView(
        text=absent_words(cell) if cell.value is None else cell.figure,
        tail=" ".join(word for word in (spread, count) if word),
        marks=", ".join(cell.marks),
        is_best=cell.emphasis is Emphasis.BEST,
        value="" if cell.value is None else f"{cell.value:.10g}",
        title=_title(cell),
        facts=tuple((name, text) for name, text in _facts(row, cell, links) if text),
        behind=behind(cell, links),
    )


def _run(run: RunLink) -> Markup:
    shown = Markup("<code>{}</code>").format(run.run_id)
    return Markup('<a href="{}">{}</a>').format(run.url, shown) if run.url else shown


def _source(run: RunLink) -> Markup:
    """Where a replicate comes from: its trial on this page, else its run."""
    if run.trial_id:
        return Markup('trial <a href="#t-{0}"><code>{0}</code></a>').format(run.trial_id)
    return Markup("run ") + _run(run)


def _title(cell: Cell) -> str:
    if cell.split == costs.SPLIT:
        return next((cost.head for cost in costs.COSTS if cost.name == cell.metric), cell.metric)
    return f"{'Δ ' if cell.is_delta else ''}{metric(cell.metric).label}, {split_label(cell.split)}"


def _facts(row: TableRow, cell: Cell, runs: Sequence[RunLink]) -> list[tuple[str, str]]:
    """Name -> what an opened cell says; empty where it has nothing to say."""
    is_cost = cell.split == costs.SPLIT
    unit = "" if is_cost else f" {metric(cell.metric).unit}"
    seen = f"{cell.figure}{unit}" if cell.value is not None else ""
    absent = f"every replicate failed: {cell.failure}" if cell.state is CellState.FAILED else ""
    if cell.value is None and not absent:
        absent = ABSENT_WORDS.get(cell.state, cell.state.value)
    between = ""
    if cell.interval is not None and not is_cost:
        low, high = (show_value(bound, metric(cell.metric), signed=cell.is_delta) for bound in cell.interval)
        between = f"{low} to {high}{unit}"
    ours = not row.is_published and cell.expected_n > 0
    return [
        ("Row", row.label),
        ("Value" if row.is_published else "Mean", seen),
        ("No figure", absent),
        ("Unrounded", f"{cell.value:.10g}" if cell.value is not None else ""),
        ("Standard deviation", f"{cell.spread}{unit}" if cell.spread else ""),
        ("95 % interval", between),
        ("Replicates", f"{cell.n} of {cell.expected_n}" if ours else ""),
        ("Corrected p", show_p(cell.p) if cell.p is not None else ""),
        ("Tests", "; ".join(FLAG_WORDS[flag] for flag in cell.flags if flag in FLAG_WORDS)),
        ("Stale", cell.stale),
        ("Bold", "cannot be told from the best of its column" if cell.emphasis is Emphasis.BEST else ""),
        ("Published in", cell.source),
        ("Against ours", cell.verdict),
        ("Trials without it", " ".join(t for t in cell.trial_ids if t not in {run.trial_id for run in runs})),
    ]


def _spans(table: TableModel) -> list[Span]:
    """Groups over the columns of figures; none where no column has one."""
    spans: list[Span] = []
    for column in table.columns:
        if spans and spans[-1].head == column.group:
            spans[-1] = Span(column.group, spans[-1].width + 1)
        else:
            spans.append(Span(column.group, 1))
    return spans if any(span.head for span in spans) else []


def _switch(value: bool | str) -> str:
    if isinstance(value, bool):
        return "✓" if value else "✗"
    return value


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("reports"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        autoescape=True,
    )
