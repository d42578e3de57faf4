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


def read_markdown(text: str) -> Copy:
    """A table as `reports.markdown.render_markdown` writes it."""
    found, heads = Copy(), list[str]()
    for line in map(tidy, text.splitlines()):
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


def tidy(line: str) -> str:
    """A line with single spaces."""
    return " ".join(line.split())
