"""A committed LaTeX table, taken apart by its structure, however its lines are broken and with or without comments."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from reports.latex_text import SYMBOLS
from reports.paper_copies import Copy, tidy
from reports.paper_files import without_comments

TABULAR = re.compile(r"\\begin\{(tabular\*?|tabularx|longtable)\}")
TOKEN = re.compile(r"\\[A-Za-z@]+|\\.|%[^\n]*|[{}&]|[^\\%{}&]+", re.DOTALL)
ORIGIN = re.compile(r"% ?((?:delta )?\S+ [^;]+); (?:runs|published): ")
"""The comment behind a figure."""
OPTIONS = re.compile(r"\*?(?:\[[^\]\n]*\])?")
r"""What may follow the end of a row."""
RULES = re.compile(
    r"(?:\s*(?:\\(?:top|mid|bottom)rule(?:\[[^\]]*\])?|\\hline|\\addlinespace(?:\[[^\]]*\])?"
    r"|\\c(?:mid)?(?:rule|line)(?:\([lr]*\))?\{[^{}]*\}))+"
)
SPAN = re.compile(r"\\multicolumn\{(\d+)\}")
PLAIN = (
    (re.compile(r"\\begin\{tabular\}\[b\]\{@\{\}c@\{\}\}|\\end\{tabular\}"), ""),
    (re.compile(r"\\\\(?:\{\})?"), " "),
    (re.compile(r"\\textbf\{([^{}]*)\}"), r"**\1**"),
    (re.compile(r"^\\bfseries ([^ &]+)"), r"**\1**"),
    (re.compile(r" \+- "), " ± "),
    (re.compile(r"\\textsuperscript\{(.*)\}$"), r" [\1]"),
    (re.compile(r"\\multicolumn\{\d+\}\{\w\}"), ""),
    (re.compile(r"\\(?:scriptsize|,)"), ""),
    (re.compile(r"\$\\pm\$"), " ± "),
    (re.compile(r"\$-\$"), "-"),
    *((re.compile(re.escape(source)), sign) for sign, source in SYMBOLS.items() if source.startswith("$\\")),
    (re.compile(r"[{}]"), ""),
    (re.compile(r"(?<!\\)&"), " "),
)
"""LaTeX of a cell -> what a reader sees."""


class Cell(NamedTuple):
    """What stands between two `&`."""

    source: str
    """Without comments."""
    origin: str
    """What its comment says it is, for example `val miou`."""
    column: int
    """From 0."""
    span: int


class Row(NamedTuple):
    """What stands before the end of a row."""

    start: int
    """Its place in the text."""
    rules: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Figure:
    """A value of a row."""

    row: str
    head: str
    origin: str
    text: str
    is_switch: bool
    """Whether its column is no pair of columns, as those of figures are."""


@dataclass(frozen=True)
class TexTable:
    """A LaTeX table as it was found."""

    figures: tuple[Figure, ...]
    rest: tuple[str, ...]
    """Everything else that a reader sees, line by line."""

    @property
    def has_origins(self) -> bool:
        """Whether a comment says of every figure what it is."""
        found = [figure.origin for figure in self.figures if not figure.is_switch]
        return bool(found) and all(found)

    def copy(self, *, by_origin: bool) -> Copy:
        """The table by the comments behind its figures, or by the heads of its columns where they are gone."""
        found = Copy(rest=list(self.rest))
        for figure in self.figures:
            found.add(figure.row, (by_origin and figure.origin) or figure.head, figure.text)
        return found


def read_tex(text: str) -> TexTable | None:
    """Take a table apart; None where no row with figures is found."""
    begin = TABULAR.search(text)
    if not begin:
        return None
    rows, end = _rows(text, begin.end())
    first = next((i for i, row in enumerate(rows) if "\\midrule" in row.rules), 0)
    heads, body = rows[:first], rows[first:]
    if not heads:
        return None
    names = _names(heads)
    figures: list[Figure] = []
    lines = without_comments(text[: body[0].start]).splitlines()
    for row in body:
        label = plain_tex(row.cells[0].source)
        lines += row.rules.splitlines()
        if label and len(row.cells) > 1:
            figures += _figures(label, row.cells, names)
        else:
            lines.append(" & ".join(cell.source for cell in row.cells))
    lines += without_comments(text[end:]).splitlines()
    return TexTable(tuple(figures), tuple(filter(None, map(tidy, lines)))) if figures else None


def plain_tex(source: str) -> str:
    """LaTeX of a cell or label as a reader sees it, roughly."""
    source = tidy(source)
    for pattern, plain in PLAIN:
        source = pattern.sub(plain, source)
    return tidy(source)


def _rows(text: str, start: int) -> tuple[list[Row], int]:
    """The rows of a table that has begun, and where it ends."""
    rows: list[Row] = []
    cells: list[tuple[str, str]] = []
    source, origin, depth, end = "", "", 0, len(text)
    for token in TOKEN.finditer(text, start):
        part = token[0]
        if part == "\\end" and depth == 0:
            end = token.start()
            break
        depth += (part in ("{", "\\begin")) - (part in ("}", "\\end"))
        if part.startswith("%"):
            found = ORIGIN.match(part)
            origin = found[1] if found else origin
        elif depth == 0 and part in ("&", "\\\\"):
            cells.append((source, origin))
            source = origin = ""
            if part != "&":
                rows.append(_row(start, cells))
                cells, start = [], token.end()
        else:
            source += part
    rows.append(_row(start, [*cells, (source, origin)]))
    return rows, end


def _row(start: int, parts: list[tuple[str, str]]) -> Row:
    first = OPTIONS.sub("", parts[0][0], count=1)
    rules = RULES.match(first)
    parts = [(first[rules.end() :] if rules else first, parts[0][1]), *parts[1:]]
    cells, column = [], 0
    for source, origin in parts:
        wide = SPAN.match(source.strip())
        cells.append(Cell(source, origin, column, int(wide[1]) if wide else 1))
        column += cells[-1].span
    return Row(start, rules[0] if rules else "", tuple(cells))


def _names(heads: list[Row]) -> list[tuple[Cell, str]]:
    """Heads of the columns behind the label, each with what stands above it."""
    *above, last = [row.cells for row in heads]
    found = []
    for cell in last[1:]:
        groups = [g for row in above for g in row[1:] if g.column <= cell.column < g.column + g.span]
        found.append((cell, " ".join(filter(None, (plain_tex(c.source) for c in (cell, *groups))))))
    return found


def _figures(row: str, cells: tuple[Cell, ...], names: list[tuple[Cell, str]]) -> Iterator[Figure]:
    for head, name in names:
        inside = [cell for cell in cells[1:] if head.column <= cell.column < head.column + head.span]
        origin = "".join(cell.origin for cell in inside)
        yield Figure(row, name, origin, plain_tex(" & ".join(cell.source for cell in inside)), head.span == 1)
    width = names[-1][0].column + names[-1][0].span if names else 1
    for cell in cells[1:]:
        if cell.column >= width:
            yield Figure(row, f"column {cell.column + 1}", cell.origin, plain_tex(cell.source), is_switch=True)
