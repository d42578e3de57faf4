"""Stale figures: the code of their model or dataset, or the data, has changed since their trials ran."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from harness.records import Plan, Trial
from reports.captions import join_words
from reports.origins import Origin
from reports.table_model import STALE_MARK, Cell, Flag, Footnote, TableModel, TableRow

MAX_CHANGE = 160
"""Characters of a change that a footnote quotes."""


def mark_stale(table: TableModel, plan: Plan, origins: Mapping[str, Origin]) -> TableModel:
    """The table with its stale figures flagged and marked; a row whose scores are stale alike is marked once.

    Args:
        table: A finished table.
        plan: The study it belongs to.
        origins: Trial id -> where the run that counts for it comes from.
    """
    if not any(origin.stale for origin in origins.values()):
        return table
    marks: dict[str, str] = {}
    text_of = stale_text(plan, origins)

    def marked(row: TableRow) -> TableRow:
        texts = [text_of(cell) for cell in row.cells]
        scores = {t for t, c in zip(texts, row.cells, strict=True) if c.value is not None and not c.is_delta}
        shared = scores.pop() if len(scores) == 1 else ""
        cells = tuple(_flagged(c, t, marks, shared) for c, t in zip(row.cells, texts, strict=True))
        return replace(row, cells=cells, marks=(*row.marks, *([_mark(marks, shared)] if shared else [])))

    blocks = tuple(replace(block, rows=tuple(map(marked, block.rows))) for block in table.blocks)
    notes = [Footnote(mark, f"Stale: {text}") for text, mark in marks.items()]
    marked_notes = [note for note in table.footnotes if note.mark]
    others = [note for note in table.footnotes if not note.mark]
    return replace(table, blocks=blocks, footnotes=(*marked_notes, *notes, *others))


def stale_text(plan: Plan, origins: Mapping[str, Origin]) -> Callable[[Cell], str]:
    """What makes a cell stale; empty for one that is not."""
    known = {origins[trial.id].run_id: trial for trial in plan.trials if trial.id in origins}

    def text_of(cell: Cell) -> str:
        ran = [known[run].id for run in cell.run_ids if run in known]
        causes = {trial_id: "; ".join(origins[trial_id].stale) for trial_id in ran if origins[trial_id].stale}
        if cell.value is None:
            return ""
        return "; ".join(_cause(cell, text, causes, known) for text in dict.fromkeys(causes.values()))

    return text_of


def stale_count(tables: Iterable[TableModel]) -> str:
    """`3 of 12 figures are stale (table kernels)`; empty where none is."""
    ours = {t.name: [c for _, c in t.cells() if c.value is not None and c.run_ids] for t in tables}
    stale = {name: sum(bool(c.stale) for c in cells) for name, cells in ours.items()}
    named = join_words(name for name, count in stale.items() if count)
    if not named:
        return ""
    return f"{sum(stale.values())} of {sum(map(len, ours.values()))} figures are stale (table {named})"


def stale_notes(tables: Sequence[TableModel]) -> list[str]:
    """One note on how many figures of a report are stale, and which tables have them."""
    counted = stale_count(tables)
    return [f"{counted}: code or data that they rest on has changed since their trials ran"] if counted else []


def _cause(cell: Cell, text: str, causes: Mapping[str, str], known: Mapping[str, Trial]) -> str:
    """What changed, and since which of the cell's trials ran."""
    mine = [trial_id for trial_id, cause in causes.items() if cause == text]
    own = [trial_id for trial_id in mine if trial_id in cell.trial_ids]
    ran = [known[run] for run in cell.run_ids if run in known and known[run].id in cell.trial_ids]
    said = text if len(text) <= MAX_CHANGE else text[: MAX_CHANGE - 1] + "…"
    which = join_words(str(trial.replicate) for trial in ran if trial.id in own)
    who = "its trials" if len(own) == len(ran) else f"replicate{'s' * (len(own) > 1)} {which}"
    return f"changed since {who if own else 'the reference'} ran: {said}"


def _flagged(cell: Cell, text: str, marks: dict[str, str], shared: str) -> Cell:
    if not text:
        return cell
    mark = () if text == shared else (_mark(marks, text),)
    return replace(cell, stale=text, flags=(*cell.flags, Flag.STALE), marks=(*cell.marks, *mark))


def _mark(marks: dict[str, str], text: str) -> str:
    """The mark of a text, `stale`, then `stale 2`, in the order in which they are needed."""
    return marks.setdefault(text, f"{STALE_MARK} {len(marks) + 1}" if marks else STALE_MARK)
