r"""`numbers.tex`: a macro for every figure of every table, so that prose cites what the store says.

`\res{components}{+ MSRC}{val}{miou}` prints the score as the table shows it. Names are made of plain ASCII that neither
LaTeX nor a language of babel reads anything into: what a label has besides is left out, and two rows that would
have the same name are numbered. A figure that does not exist has no macro, and asking for one is an error
that names it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from reports.comparison_notes import show_p
from reports.costs import cited_name
from reports.latex import Origin, marker
from reports.latex_text import latex_escape
from reports.markdown import absent_words
from reports.table_model import Block, Cell, TableModel, TableRow

FILE = "numbers"
"""Stem of the file."""

MACROS = {
    "res": "the score as the table shows it",
    "resstd": "its standard deviation over replicates",
    "resn": "the replicates that have it",
    "resdelta": "the difference to the reference, signed",
    "resdeltastd": "its standard deviation over replicates",
    "resp": "its p, corrected for the differences of the table: 0.012, or < 0.001",
}
"""Macro -> what it prints."""

OF_DELTA = ("resdelta", "resdeltastd", "resp")
"""Those that speak of a difference."""

ASCII = {"\u2212": "-", "–": "-", "—": "-", "×": "x", "±": "+-", "Δ": "Delta", "“": "'", "”": "'", "’": "'"}
UNSAFE = re.compile(r"[^A-Za-z0-9 +\-.,:;()\[\]/=*<>!?'@_]+")
NUMBER = re.compile(r"\\harnessnumber" + r"\{([^{}]*)\}" * 5 + r"\{(.*)\}%?")


class Key(NamedTuple):
    """What a macro is asked for."""

    macro: str
    table: str
    row: str
    split: str
    metric: str

    def __str__(self) -> str:
        return rf"\{self.macro}{{{self.table}}}{{{self.row}}}{{{self.split}}}{{{self.metric}}}"


@dataclass(frozen=True)
class Numbers:
    """What the macros print."""

    values: Mapping[Key, str]
    """Plain text; in reading order."""
    absent: Mapping[Key, str]
    """Figures that do not exist -> what the table shows instead."""
    stale: Mapping[Key, str] = field(default_factory=dict)
    """Figures whose code or data has changed -> what."""


def slug(text: str) -> str:
    """A name of plain ASCII, never empty, for a label."""
    plain = "".join(ASCII.get(c, c) for c in text)
    plain = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
    return " ".join(UNSAFE.sub(" ", plain).split()) or "row"


def numbers_of(tables: Iterable[TableModel]) -> Numbers:
    """Every figure of some tables under its name."""
    values: dict[Key, str] = {}
    absent: dict[Key, str] = {}
    stale: dict[Key, str] = {}
    for table in tables:
        for name, cell in _named_cells(table):
            place = (table.name, name, slug(cell.split), slug(cited_name(cell)))
            if cell.value is None:
                if word := absent_words(cell):
                    absent[Key("resdelta" if cell.is_delta else "res", *place)] = word
                continue
            for macro, text in _texts(cell).items():
                values[Key(macro, *place)] = text
                if cell.stale:
                    stale[Key(macro, *place)] = cell.stale
    return Numbers(values, absent, stale)


def render_numbers(numbers: Numbers, origin: Origin) -> str:
    """The file; it may be input in the preamble or in the text, also beside that of another study."""
    heads = [
        marker(FILE, origin),
        "% Input it once, in the preamble. Every macro takes table, row, split and metric:",
        *(f"%   \\{name + '{table}{row}{split}{metric}':43} {what}" for name, what in MACROS.items()),
        "% They expand to text, also inside \\num{} of siunitx (where a figure has no minus sign). An unknown name is",
        "% an error that says which. `harness report STUDY --check FOLDER` says which numbers are out of date.",
    ]
    lines = [_definition(key, text) for key, text in numbers.values.items()]
    none = [f"% no figure: {key}: {slug(word)}" for key, word in numbers.absent.items()]
    old = [f"% stale: {key}: {slug(text)}" for key, text in numbers.stale.items()]
    return "\n".join([*heads, PROGRAM, *lines, *none, *old]) + "\n"


def read_numbers(text: str) -> dict[Key, str]:
    """Key -> LaTeX source of what a committed file prints."""
    found = (NUMBER.fullmatch(line.strip()) for line in text.splitlines())
    return {Key(*match.groups()[:5]): match[6] for match in found if match}


def number_source(text: str) -> str:
    """A figure as LaTeX that is right in text and in formulas."""
    return re.sub(r"\$([^$]*)\$", r"\\ensuremath{\1}", latex_escape(text))


PROGRAM = "\n".join(
    [
        r"\ifdefined\harnessread\else",
        r"  \newcommand{\harnessnumber}[6]{%",
        r"    \def\harnessfigure{#6}%",
        r"    \ifcsname\detokenize{harness|#1|#2|#3|#4|#5}\endcsname",
        r"      \expandafter\ifx\csname\detokenize{harness|#1|#2|#3|#4|#5}\endcsname\harnessfigure\else",
        r"        \PackageError{harness}{two studies have a number",
        r"          \expandafter\string\csname#1\endcsname\detokenize{{#2}{#3}{#4}{#5}}}%",
        r"          {Give the tables of one of them other names.}%",
        r"      \fi",
        r"    \fi",
        r"    \expandafter\global\expandafter\let\csname\detokenize{harness|#1|#2|#3|#4|#5}\endcsname\harnessfigure}%",
        r"  \newcommand{\harnessread}[5]{%",
        r"    \ifcsname\detokenize{harness|#1|#2|#3|#4|#5}\endcsname",
        r"      \csname\detokenize{harness|#1|#2|#3|#4|#5}\endcsname",
        r"    \else",
        r"      \PackageError{harness}{no number \expandafter\string\csname#1\endcsname\detokenize{{#2}{#3}{#4}{#5}}}%",
        r"        {numbers.tex lists the names, and figures that do not exist.}%",
        r"    \fi}%",
        *(rf"  \newcommand{{\{name}}}{{\harnessread{{{name}}}}}%" for name in MACROS),
        r"\fi",
    ]
)
r"""Reads a number by its name; `\detokenize` keeps what babel or a package made active out of the name."""


def _definition(key: Key, text: str) -> str:
    names = "".join(f"{{{part}}}" for part in key)
    return rf"\harnessnumber{names}{{{number_source(text)}}}%"


def _texts(cell: Cell) -> dict[str, str]:
    if cell.is_delta:
        found = {"resdelta": cell.figure, "resdeltastd": cell.spread}
        return {k: v for k, v in {**found, "resp": "" if cell.p is None else show_p(cell.p)}.items() if v}
    found = {"res": cell.figure, "resstd": cell.spread, "resn": str(cell.n) if cell.n else ""}
    return {k: v for k, v in found.items() if v}


def _named_cells(table: TableModel) -> Iterator[tuple[str, Cell]]:
    """Every cell with the name of its row: panels repeat a row, and publications share labels with ours."""
    owners: dict[str, tuple[object, ...]] = {}
    for block, row, cell, name in _labelled(table):
        label = slug(f"{name} (published)" if row.is_published else name)
        protocol = block.heading.lower().partition("published on")[2]
        owner = (row.is_published, name, protocol if row.is_published else cell.trial_ids)
        count, unique = 1, label
        while owners.setdefault(unique, owner) != owner:
            count += 1
            unique = f"{label} {count}"
        yield unique, cell


def _labelled(table: TableModel) -> Iterator[tuple[Block, TableRow, Cell, str]]:
    """Rows of break-downs are groups of samples and their columns are variants: there both make the name."""
    for block in table.blocks:
        for row in block.rows:
            places = [(c.split, c.metric, c.is_delta) for c in row.cells]
            for cell, column in zip(row.cells, table.columns, strict=True):
                of_variants = len(set(places)) < len(places)
                yield block, row, cell, f"{row.label}: {column.head}" if of_variants else row.label
