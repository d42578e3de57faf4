"""A committed copy of a generated table, taken apart: its figures by their place, and the lines around them."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass, field
from typing import NamedTuple

NOTHING = "(nothing)"
"""Stands for a figure or line that one side does not have."""

IDS = ("trial_ids", "run_ids")
"""Columns of a CSV that may differ from what the store says."""

TEX_CELL = re.compile(r"& (.*?) ?(?<!\\)% ((?:delta )?\S+ [^;]+); (?:runs|published): .*")
TEX_STRUCTURE = re.compile(r"\\(?:\\|midrule|toprule|bottomrule|addlinespace|cmidrule|multicolumn|end|begin)")
TEX_PLAIN = (
    (re.compile(r"\\textbf\{([^{}]*)\}"), r"**\1**"),
    (re.compile(r"^\\bfseries ([^ &]+)"), r"**\1**"),
    (re.compile(r" \+- "), " ± "),
    (re.compile(r"\\textsuperscript\{(.*)\}$"), r" [\1]"),
    (re.compile(r"\\multicolumn\{2\}\{\w\}"), ""),
    (re.compile(r"\\(?:scriptsize|,)"), ""),
    (re.compile(r"\$\\pm\$"), " ± "),
    (re.compile(r"\$-\$"), "-"),
    (re.compile(r"[{}]"), ""),
    (re.compile(r"(?<!\\)&"), " "),
)
"""LaTeX of a cell -> what a reader sees."""


class Place(NamedTuple):
    """Where a figure stands."""

    row: str
    what: str
    """Split and metric, or the head of its column."""
    number: int
    """Of several figures of that row and name, from 0."""


@dataclass
class Copy:
    """A table as it was found."""

    cells: dict[Place, str] = field(default_factory=dict)
    rest: list[str] = field(default_factory=list)
    """Everything else that a reader sees, line by line."""

    def add(self, row: str, what: str, text: str) -> None:
        """Enter a figure."""
        number = 0
        while (row, what, number) in self.cells:
            number += 1
        self.cells[Place(row, what, number)] = text


def read_tex(text: str) -> Copy:
    """A LaTeX table, one figure per line with its comment, as `reports.latex.render_table` writes it."""
    found, row, in_row = Copy(), "", False
    for line in map(_tidy, text.splitlines()):
        cell = TEX_CELL.fullmatch(line)
        if cell:
            found.add(row, cell[2], plain_tex(cell[1]))
        elif not line.startswith("%") and line:
            if line.startswith("\\midrule"):
                in_row = True
            elif in_row and not line.startswith("&") and not TEX_STRUCTURE.match(line):
                row = plain_tex(line)
            in_row = in_row and not line.startswith("\\bottomrule")
            found.rest.append(line)
    named = {place.row for place in found.cells}
    found.rest = [line for line in found.rest if plain_tex(line) not in named and line != "\\\\"]
    return found


def plain_tex(source: str) -> str:
    """LaTeX of a cell or label as a reader sees it, roughly."""
    for pattern, plain in TEX_PLAIN:
        source = pattern.sub(plain, source)
    return _tidy(source)


def read_markdown(text: str) -> Copy:
    """A table as `reports.markdown.render_markdown` writes it."""
    found, heads = Copy(), list[str]()
    for line in map(_tidy, text.splitlines()):
        if not line.startswith("|"):
            if line:
                found.rest.append(line)
        elif not heads:
            heads = _split(line)
        elif not re.fullmatch(r"[|:\- ]+", line) or any(c not in "|:- " for c in line):
            label, *values = _split(line)
            for head, value in zip(heads[1:], values, strict=False):
                found.add(label, head, value)
    found.rest.append(" ".join(heads))
    return found


def read_csv(text: str) -> Copy:
    """The figures of a table or break-down as CSV."""
    found = Copy()
    for line in csv.DictReader(io.StringIO(text)):
        names = [line[name] for name in ("row", "variant", "group") if line.get(name)]
        numbers = {k: v for k, v in line.items() if v and k not in (*IDS, "table", "row", "split", "metric")}
        place = f"{line.get('split') or ''} {line.get('metric') or ''}"
        found.add(", ".join(names), place.strip(), " ".join(f"{k}={v}" for k, v in numbers.items()))
    return found


def _split(line: str) -> list[str]:
    return [part.strip() for part in re.split(r"(?<!\\)\|", line)[1:-1]]


def _tidy(line: str) -> str:
    return " ".join(line.split())
