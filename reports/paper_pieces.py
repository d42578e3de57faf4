r"""Where in a text of a paper copies of generated tables and numbers stand.

A LaTeX table is known by its marker, wherever it stands. Programs that clean sources for publication strip comments, so
one without a marker is known by its label and look, or by the name of its file.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from reports.latex import MARKER
from reports.markdown import render_markdown
from reports.numbers import FILE, NUMBER, read_numbers
from reports.paper_files import without_comments
from reports.table_model import TableModel

MARKED = re.compile(rf"^[ \t]*{MARKER.pattern}", re.MULTILINE)
DEFINITIONS = re.compile(rf"^[ \t]*{NUMBER.pattern}[ \t]*$", re.MULTILINE)
FLOAT = re.compile(r"\\begin\{((?:sideways)?table\*?)\}")
LABEL = re.compile(r"\\label\{tab:([\w-]+)\}")
LOOK = re.compile(r"\\sbox0\s*\{")
"""A generated table is set into a box first, to see how wide it is."""
TABULAR = re.compile(r"\\begin\{(?:tabular|longtable|tblr)")
BEGIN = re.compile(r"\\begin\{(\w+\*?)\}")


class Piece(NamedTuple):
    """A copy."""

    what: str
    """Its table, or `numbers`."""
    text: str
    study: str | None = None
    """As its marker says; None where it has none."""


def pieces_of(name: str, text: str, tables: Mapping[str, TableModel], csv: Mapping[str, str]) -> list[Piece]:
    """Every copy in a file of a paper.

    Args:
        name: Its path.
        text: Its text.
        tables: The tables of the study.
        csv: Name of a table -> its figures as CSV.
    """
    path = Path(name)
    kind, stem, head = path.suffix.lower(), path.stem, text.lstrip().partition("\n")[0]
    if kind == ".tex":
        return list(_tex_pieces(stem, text, tables))
    if kind == ".csv":
        known = csv.get(stem, "").partition("\n")[0]
        return [Piece(stem, text.lstrip())] if known and head.rstrip() == known.rstrip() else []
    table = tables.get(stem)
    begins = render_markdown(table).partition("** ")[0] if table else None
    return [Piece(stem, text)] if begins and head.startswith(begins) else []


def holds_table(name: str, text: str) -> bool:
    """Whether a file that is named as a table of the report, and is no copy, has a table at all."""
    kind = Path(name).suffix.lower()
    if kind == ".tex":
        return TABULAR.search(without_comments(text)) is not None
    return kind == ".csv" or any(line.lstrip().startswith("|") for line in text.splitlines())


def _tex_pieces(stem: str, text: str, tables: Collection[str]) -> Iterator[Piece]:
    marks = list(MARKED.finditer(text))
    stops = [*(mark.start() for mark in marks), len(text)][1:]
    rest, done = "", 0
    for mark, stop in zip(marks, stops, strict=True):
        end = _float_end(text, mark.end(), stop) if mark[1] else _numbers_end(text, mark.end(), stop)
        yield Piece(mark[1] or FILE, text[mark.start() : end], mark[2])
        rest, done = rest + text[done : mark.start()], end
    rest += text[done:]
    if read_numbers(rest):
        yield Piece(FILE, rest)
    plain = without_comments(rest)
    known_by_look = list(_unmarked(plain, tables))
    yield from known_by_look
    if not marks and not known_by_look and stem in tables and TABULAR.search(plain):
        yield Piece(stem, rest)


def _unmarked(text: str, tables: Collection[str]) -> Iterator[Piece]:
    end = 0
    for begin in FLOAT.finditer(text):
        if begin.start() < end:
            continue
        end = _float_end(text, begin.start(), len(text))
        piece = text[begin.start() : end]
        label = LABEL.search(piece)
        if label and label[1] in tables and LOOK.search(piece):
            yield Piece(label[1], piece)


def _float_end(text: str, start: int, stop: int) -> int:
    """Where the first environment after a place ends, at most `stop`."""
    begin = BEGIN.search(text, start, stop)
    if not begin:
        return stop
    depth = 0
    for found in re.finditer(rf"\\(begin|end)\{{{re.escape(begin[1])}\}}", text[begin.start() : stop]):
        depth += 1 if found[1] == "begin" else -1
        if depth == 0:
            return begin.start() + found.end()
    return stop


def _numbers_end(text: str, start: int, stop: int) -> int:
    """Behind the last number that is defined."""
    return max([start, *(found.end() for found in DEFINITIONS.finditer(text, start, stop))])
