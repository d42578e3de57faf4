"""Markdown: a table that reads well on GitHub and in a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from reports.table_model import Block, Cell, CellState, Emphasis, TableModel, TableRow

WORDS = {
    CellState.MISSING: "--",
    CellState.REFERENCE: "ref.",
    CellState.NOT_REPORTED: "",
    CellState.NOT_RECORDED: "—",
}
"""What stands where there is no figure and nothing failed."""

SPECIAL = re.compile(r"[\\`*_{}\[\]|~$#]")
HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
LIST_ITEM = re.compile(r"^([+-]|\d+[.)])(?= )")


def escape_markdown(text: str) -> str:
    """Markdown that shows `text` as it is, on one line."""
    line = " ".join(text.split())
    line = "".join(HTML.get(c, c) for c in SPECIAL.sub(r"\\\g<0>", line))
    return LIST_ITEM.sub(lambda found: found[0][:-1] + "\\" + found[0][-1], line)


def render_markdown(table: TableModel) -> str:
    """The table with its caption above and its footnotes below."""
    heads = [_head(c.head, c.group) for c in table.columns]
    heads = [table.stub, *map(escape_markdown, table.switch_heads), *heads]
    aligns = [":--", *[":-:"] * len(table.switch_heads), *["--:"] * len(table.columns)]
    lines = [f"**{escape_markdown(table.name)}.** {escape_markdown(table.caption)}", "", _line(heads), _line(aligns)]
    for block in table.blocks:
        lines += _block_lines(block, len(table.switch_heads), len(heads))
    if table.footnotes:
        lines.append("")
    lines += [f"- {_marks([n.mark] if n.mark else [])}{escape_markdown(n.text)}" for n in table.footnotes]
    return "\n".join(lines) + "\n"


def _head(head: str, group: str) -> str:
    return escape_markdown(f"{head} ({group})" if group else head)


def _block_lines(block: Block, num_switches: int, num_columns: int) -> list[str]:
    lines = []
    if block.heading:
        lines.append(_line([f"*{escape_markdown(block.heading)}*{_marks(block.marks)}", *[""] * (num_columns - 1)]))
    for row in block.rows:
        switches = [_switch(s) for s in row.switches] or [""] * num_switches
        lines.append(_line([_label(row), *switches, *map(_cell, row.cells)]))
    return lines


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |")


def _label(row: TableRow) -> str:
    count = f" ({row.count})" if row.count else ""
    published = " (published)" if row.is_published else ""
    return f"{escape_markdown(row.label)}{published}{count}{_marks(row.marks)}"


def _cell(cell: Cell) -> str:
    if cell.value is None:
        return absent_words(cell)
    wrapper = "**%s**" if cell.emphasis is Emphasis.BEST else "%s"
    spread = f" ± {cell.spread}" if cell.spread else ""
    count = f" ({cell.count})" if cell.count else ""
    return f"{wrapper % cell.figure}{spread}{count}{_marks(cell.marks)}"


def absent_words(cell: Cell) -> str:
    """What stands in a cell without a figure."""
    return cell.failure if cell.state is CellState.FAILED else WORDS[cell.state]


def _switch(value: bool | str) -> str:
    if isinstance(value, bool):
        return "✓" if value else "✗"
    return escape_markdown(value)


def _marks(marks: Sequence[str]) -> str:
    return f"<sup>{','.join(map(escape_markdown, marks))}</sup>" if marks else ""
