"""LaTeX: text that cannot break a document, tables in booktabs style, and the PDF that shows them together.

Templates use `\\VAR{...}` and `\\BLOCK{...}`. Whatever `\\VAR` prints is escaped unless it is `Latex` already.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2

from harness.errors import HarnessError
from reports import costs, latex_numbers
from reports.latex_text import Latex, latex_escape
from reports.table_model import Cell, CellState, Emphasis, TableModel, TableRow

COMPILE_TIMEOUT_S = 120

WIDE_COLUMNS = 4
"""A table with more columns of figures than this spans both columns of a two-column page."""

NOT_IN_A_COMMENT = re.compile(r"[^\w.,:;()'+/ -]", re.ASCII)


WORDS = {
    CellState.MISSING: "--",
    CellState.REFERENCE: r"{\scriptsize ref.}",
    CellState.NOT_REPORTED: "",
    CellState.NOT_RECORDED: "---",
}
"""What stands where there is no figure and nothing failed."""


class Origin(NamedTuple):
    """What a file was made from."""

    study: str = "unknown"
    sha: str = "unknown"
    """SHA-256 of the study."""


UNKNOWN = Origin()

HEAD_WIDTH = 16
"""Characters of a line of a head."""

MARKER = re.compile(r"% harness (?:table ([\w-]+)|numbers) of study (.*), sha (\w+);")
"""How a generated file begins: its table, if it is one, and its study."""


class Group(NamedTuple):
    """Neighbouring columns under one head."""

    head: str
    first: int
    """First column of the LaTeX table, from 1."""
    last: int


def marker(what: str, origin: Origin) -> str:
    """The first line of a generated file, by which a copy of it is found again.

    Args:
        what: `numbers`, or `table` and its name.
        origin: What it was made from.
    """
    study = plain_comment(origin.study)
    return f'% harness {what} of study {study}, sha {origin.sha[:12]}; from "harness report", changes here are lost.'


def plain_comment(text: str) -> str:
    """A text that cannot leave the line of its comment."""
    return NOT_IN_A_COMMENT.sub("?", text)


def render_table(table: TableModel, origin: Origin = UNKNOWN, *, siunitx: bool = False) -> str:
    """A float in booktabs style, one cell per line, each followed by a comment that names its runs.

    Args:
        table: What it shows.
        origin: What it was made from.
        siunitx: Whether figures stand in columns of that package, aligned at their decimal marks.
    """
    switches = len(table.switch_heads)
    template = _environment().get_template("table.tex.j2")
    return template.render(
        table=table,
        marker=Latex(marker(f"table {table.name}", origin)),
        name=Latex(table.name),
        float=Latex("table*" if len(table.columns) + switches > WIDE_COLUMNS else "table"),
        columns_spec=Latex("c" * switches + _figure_columns(table, siunitx=siunitx)),
        settings=latex_numbers.SETTINGS if siunitx else "",
        needs=f", {latex_numbers.PACKAGE}" if siunitx else "",
        num_columns=1 + switches + 2 * len(table.columns),
        groups=_groups(table),
        cell=aligned_source if siunitx else cell_source,
        origin=cell_origin,
        column_head=_head_source,
        switch=_switch_source,
        marks=_marks_source,
        label=_label_source,
        cite=lambda note: Latex(rf"~\cite{{{note.cite}}}" if note.cite else ""),
    )


def render_document(
    table_names: Sequence[str], *, title: str, siunitx: bool = False, references: Sequence[Latex] = ()
) -> str:
    """A document that inputs `<name>.tex` of every table, and lists what they quote."""
    packages = Latex(rf"\usepackage{{{latex_numbers.PACKAGE}}}" if siunitx else "")
    names = [Latex(n) for n in table_names]
    return (
        _environment()
        .get_template("tables.tex.j2")
        .render(names=names, title=title, packages=packages, references=references)
    )


def cell_source(cell: Cell) -> Latex:
    """Two columns of a table: the figure, right-aligned, and what follows it."""
    if cell.split == costs.SPLIT and not cell.spread:  # nothing follows such a cost
        return Latex(rf"\multicolumn{{2}}{{r}}{{{latex_escape(cell.figure) or WORDS[cell.state]}}}")
    if cell.value is None:
        absent = rf"{{\scriptsize {cell.failure}}}" if cell.state is CellState.FAILED else WORDS[cell.state]
        return Latex(rf"\multicolumn{{2}}{{c}}{{{absent}}}")
    wrapper = r"\textbf{%s}" if cell.emphasis is Emphasis.BEST else "%s"
    spread = rf"{{\scriptsize\,$\pm$\,{latex_escape(cell.spread)}}}" if cell.spread else ""
    return Latex(f"{wrapper % latex_escape(cell.figure)} & {spread}{_tail_source(cell)}".rstrip())


def aligned_source(cell: Cell) -> Latex:
    """The same for columns of siunitx: a number with its uncertainty, and what follows them."""
    if cell.value is None:
        return Latex(cell_source(cell).replace(r"{2}{r}", r"{2}{c}"))
    if latex_numbers.is_cost(cell):
        return Latex(f"& {latex_numbers.number_source(cell)}")
    return Latex(f"{latex_numbers.number_source(cell)} & {_tail_source(cell)}".rstrip())


def cell_origin(cell: Cell) -> Latex:
    """What a comment says of a cell: its runs, or the publication it is quoted from."""
    what = f"{'delta ' if cell.is_delta else ''}{cell.split} {cell.metric}"
    if cell.source:
        return Latex(plain_comment(f"{what}; published: {cell.source}"))
    return Latex(plain_comment(f"{what}; runs: {' '.join(cell.run_ids) or 'none'}"))


def compile_pdf(path: Path) -> Path | None:
    """Compile a LaTeX document to the PDF beside it.

    The document cannot run programs, and nothing but the PDF is left in its folder.

    Returns:
        The PDF; None where `pdflatex` is not on PATH.

    Raises:
        HarnessError: LaTeX refuses the document, with the first reason it gives, or does not end.
    """
    program = shutil.which("pdflatex")
    if program is None:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        command = [program, "-no-shell-escape", "-interaction=nonstopmode", "-halt-on-error", "-file-line-error"]
        variables = {"SOURCE_DATE_EPOCH": "0", "FORCE_SOURCE_DATE": "1", "max_print_line": "1000"}
        try:
            done = subprocess.run(
                [*command, f"-output-directory={scratch}", path.name],
                cwd=path.parent,
                env={**os.environ, **variables},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=COMPILE_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise HarnessError(f"{path}: pdflatex must end within {COMPILE_TIMEOUT_S} s; it was stopped") from error
        made = Path(scratch, path.stem + ".pdf")
        if done.returncode != 0 or not made.is_file():
            raise HarnessError(f"{path}: pdflatex failed: {_first_error(done.stdout.decode(errors='replace'))}")
        pdf = path.with_suffix(".pdf")
        half = pdf.with_name(pdf.name + ".part")
        shutil.copyfile(made, half)
        half.replace(pdf)
    return pdf


def _first_error(log: str) -> str:
    lines = log.splitlines()
    found = [line for line in lines if re.match(r"\S+:\d+: |! ", line)]
    return (found or lines[-1:] or ["no output"])[0]


def _figure_columns(table: TableModel, *, siunitx: bool) -> str:
    if not siunitx:
        return "r@{}l" * len(table.columns)
    rows = [row.cells for block in table.blocks for row in block.rows]
    return "".join(latex_numbers.column_format(row[i] for row in rows) for i in range(len(table.columns)))


def _tail_source(cell: Cell) -> str:
    count = rf"{{\scriptsize\,({latex_escape(cell.count)})}}" if cell.count else ""
    return f"{count}{_marks_source(cell.marks)}"


def _groups(table: TableModel) -> list[Group]:
    groups: list[Group] = []
    start = 2 + len(table.switch_heads)
    for column in table.columns:
        if groups and groups[-1].head == column.group:
            groups[-1] = groups[-1]._replace(last=start + 1)
        else:
            groups.append(Group(column.group, start, start + 1))
        start += 2
    return [g for g in groups if g.head]


def _head_source(text: str) -> Latex:
    """A head; a long one, as labels of rows are in break-downs, on several lines."""
    lines = [latex_escape(line) for line in textwrap.wrap(text, HEAD_WIDTH, break_long_words=False)]
    if len(lines) < 2:
        return latex_escape(text)
    stacked = r"\\{}".join(lines)  # the braces keep a line that begins with [ from being read as an option
    return Latex(rf"\begin{{tabular}}[b]{{@{{}}c@{{}}}}{stacked}\end{{tabular}}")


def _switch_source(value: bool | str) -> Latex:
    if isinstance(value, bool):
        return Latex(r"$\checkmark$" if value else r"$\times$")
    return latex_escape(value)


def _marks_source(marks: Sequence[str]) -> Latex:
    return Latex(rf"\textsuperscript{{{','.join(map(latex_escape, marks))}}}" if marks else "")


def _label_source(row: TableRow) -> Latex:
    count = rf" {{\scriptsize({latex_escape(row.count)})}}" if row.count else ""
    return Latex(f"{latex_escape(row.label)}{count}{_marks_source(row.marks)}")


def _finalize(value: object) -> str:
    return value if isinstance(value, Latex) else latex_escape(str(value))


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("reports"),
        block_start_string="\\BLOCK{",
        block_end_string="}",
        variable_start_string="\\VAR{",
        variable_end_string="}",
        comment_start_string="\\NOTE{",
        comment_end_string="}",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        finalize=_finalize,
    )
