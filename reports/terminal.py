"""A table for the terminal; captions, switches, sources and footnotes are in the files."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from reports.markdown import absent_words
from reports.table_model import STALE_MARK, TEST_MARKS, Cell, Emphasis, TableModel, TableRow

STYLES = {Emphasis.BEST: "bold", Emphasis.NONE: ""}

MIN_STUB = 24
"""Characters that the column of labels may take even where all labels are shorter."""


def render_terminal(table: TableModel) -> Table:
    """The table as a rich renderable: best in bold, published rows dim, `†` where a footnote is."""
    grid = Table(title=table.name, title_justify="left", box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    labels = [len(_label(row)) for block in table.blocks for row in block.rows]
    grid.add_column(table.stub, max_width=max([MIN_STUB, *labels]))  # a heading wraps and widens nothing
    for column in table.columns:
        grid.add_column(f"{column.head} {column.group}".strip(), justify="right")
    for number, block in enumerate(table.blocks):
        if number:
            grid.add_section()
        if block.heading:
            grid.add_row(Text(block.heading, style="italic"))
        for row in block.rows:
            grid.add_row(*_row(row), style="dim" if row.is_published else "")
    return grid


def _row(row: TableRow) -> list[Text]:
    return [Text(_label(row)), *map(_cell, row.cells)]


def _label(row: TableRow) -> str:
    stale = [mark for mark in row.marks if mark.startswith(STALE_MARK)]
    return " ".join([row.label, *([f"({row.count})"] if row.count else []), *stale])


def _cell(cell: Cell) -> Text:
    if cell.value is None:
        return Text(absent_words(cell))
    spread = f"±{cell.spread}" if cell.spread else ""
    count = f" ({cell.count})" if cell.count else ""
    tests = [mark for mark in cell.marks if mark in TEST_MARKS.values()]
    tail = "".join(f" {mark}" for mark in tests) + ("†" if len(cell.marks) > len(tests) else "")
    return Text.assemble((cell.figure, STYLES[cell.emphasis]), spread, count, tail)
