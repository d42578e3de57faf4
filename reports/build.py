"""The report of a study: tables as `.tex`, `.md` and `.csv`, a document and a page of all, and what they came from.

Equal results give equal bytes: nothing written here holds a time or a machine.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness.errors import HarnessError
from harness.records import RESERVED, Plan
from reports.bibliography import Reference, listed, references_of, render_bibliography
from reports.breakdown import build_breakdowns
from reports.breakdown_parts import Breakdown
from reports.csv_table import render_csv
from reports.figures import draw_figures
from reports.granularity import computed_notes, published_notes
from reports.html import Page, render_page
from reports.latex import Origin, compile_pdf, render_document, render_table
from reports.latex_numbers import HINT, PACKAGE, is_installed
from reports.markdown import render_markdown
from reports.numbers import FILE as NUMBERS
from reports.numbers import numbers_of, render_numbers
from reports.page_parts import Background, Runs, looks_words
from reports.published import load_published
from reports.report_folder import MANIFEST, Manifest, replace_report, require_folder
from reports.results import Results
from reports.stale import mark_stale, stale_notes
from reports.table_model import TableModel
from reports.tables import build_table

DOCUMENT = "tables"
PAGE = "report.html"
BIBLIOGRAPHY = "references.bib"
FIGURES = "figures"
"""Folder of the figures, inside the report's."""
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class ReportFiles:
    """What a report wrote."""

    tex: tuple[Path, ...]
    """One per table, in the order of the plan, then one per break-down."""
    markdown: tuple[Path, ...]
    csv: tuple[Path, ...]
    document: Path
    """LaTeX document that inputs every table."""
    pdf: Path | None
    """That document compiled; None where TeX lacks what it takes."""
    html: Path
    """Everything as one page that needs no other file."""
    numbers: Path
    """A LaTeX macro for every figure."""
    manifest: Path
    tables: tuple[TableModel, ...]
    """The tables themselves, for whoever wants to show them elsewhere."""
    figures: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    """What the plan asks for and could not be made, one line each."""
    no_pdf: str = ""
    """Why there is no PDF, and what brings it; empty where there is one."""
    bibliography: Path | None = None
    """BibTeX entries of what tables cite; None where they quote nothing."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every file."""
        made = [path for path in (self.bibliography, self.pdf) if path is not None]
        texts = (*self.tex, *self.markdown, *self.csv, self.document, self.numbers)
        return (*texts, *made, *self.figures, self.html, self.manifest)

    def moved(self, folder: Path) -> ReportFiles:
        """The same files in another folder."""
        here = self.manifest.parent

        def there(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(map(there, value))
            return folder / value.relative_to(here) if isinstance(value, Path) else value

        return replace(self, **{name: there(value) for name, value in vars(self).items()})


@dataclass(frozen=True)
class FilledTables:
    """The tables of a report before they are written."""

    tables: tuple[TableModel, ...]
    breakdowns: tuple[Breakdown, ...]
    notes: tuple[str, ...]
    """Break-downs that could not be made."""
    doubts: tuple[str, ...]
    """What a reader of the tables must know."""
    references: tuple[Reference, ...] = ()
    """The publications that footnotes cite."""

    @property
    def shown(self) -> tuple[TableModel, ...]:
        """All of them, in the order of the report."""
        return (*self.tables, *(b.table for b in self.breakdowns))

    @property
    def csv(self) -> dict[str, str]:
        """Name -> the figures as CSV."""
        return {**{t.name: render_csv(t) for t in self.tables}, **{b.table.name: b.csv for b in self.breakdowns}}


def build_report(
    results: Results, out_dir: Path, *, published_dir: Path, background: Background | None = None, is_own: bool = False
) -> ReportFiles:
    """Write the report of a study.

    Args:
        results: The study.
        out_dir: Folder to write to; made if it does not exist. Files of an earlier report of the study are replaced,
            those that the new one does not make removed.
        published_dir: Folder of the files of published numbers.
        background: What the page says besides: addresses of runs, tracebacks, versions, the study's file.
        is_own: Whether nobody but the harness writes to the folder, see `replace_report`.

    Raises:
        HarnessError: A table's name cannot be a file's name, published numbers are missing or damaged, LaTeX fails, or
            the folder is of something else. What is in the folder stays as it is then.
    """
    filled = fill_tables(results, published_dir=published_dir)
    require_folder(out_dir, results.plan.study)
    with TemporaryDirectory(prefix="harness-report-") as scratch:
        drafts = Path(scratch)
        made, manifest = _write_drafts(results, filled, drafts, background or Background())
        replace_report(out_dir, drafts, manifest, is_own=is_own)
    return made.moved(out_dir)


def _write_drafts(
    results: Results, filled: FilledTables, folder: Path, background: Background
) -> tuple[ReportFiles, Manifest]:
    """The files in an empty folder, and what their manifest is to say."""
    plan = results.plan
    drawn = draw_figures(results, folder / FIGURES)
    shown, origin = filled.shown, Origin(plan.study, plan.spec_sha)
    tex = tuple(_write(folder / f"{t.name}.tex", render_table(t, origin, siunitx=plan.siunitx)) for t in shown)
    markdown = tuple(_write(folder / f"{t.name}.md", render_markdown(t)) for t in shown)
    csv = tuple(_write(folder / f"{name}.csv", text) for name, text in filled.csv.items())
    numbers = _write(folder / f"{NUMBERS}.tex", render_numbers(numbers_of(shown), origin))
    title = f"Tables of study “{plan.study}”: {plan.question}"
    bib = _write(folder / BIBLIOGRAPHY, render_bibliography(filled.references)) if filled.references else None
    names, references = [t.name for t in shown], listed(filled.references)
    text = render_document(names, title=title, siunitx=plan.siunitx, references=references)
    document = _write(folder / f"{DOCUMENT}.tex", text)
    pdf, no_pdf = _compiled(document, siunitx=plan.siunitx)
    notes = (*filled.notes, *drawn.notes, *filled.doubts)
    page = Page(
        plan,
        filled.tables,
        Runs(results, background),
        study_text=background.study_text,
        breakdowns=[b.table for b in filled.breakdowns],
        figures=drawn.captions,
        notes=notes,
        origins=results.sources.origins,
        looks=looks_words(plan, background.looks),
    )
    html = _write(folder / PAGE, render_page(page))
    made = [path for path in (bib, pdf) if path is not None]
    written = (*tex, *markdown, *csv, document, numbers, *made, *drawn.paths, html)
    hashes = {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in written}
    run_ids = drawn.run_ids | {run for table in shown for _, cell in table.cells() for run in cell.run_ids}
    files = ReportFiles(
        *(tex, markdown, csv, document, pdf, html, numbers, folder / MANIFEST, filled.tables),
        figures=drawn.paths,
        notes=notes,
        no_pdf=no_pdf,
        bibliography=bib,
    )
    return files, Manifest(plan.study, plan.spec_sha, hashes, tuple(sorted(run_ids)))


def fill_tables(results: Results, *, published_dir: Path) -> FilledTables:
    """Every table and break-down of a study, as its report shows them; nothing is written.

    Args:
        results: The study.
        published_dir: Folder of the files of published numbers.

    Raises:
        HarnessError: A table's name cannot be a file's name, or published numbers are missing or damaged.
    """
    plan, origins = results.plan, results.sources.origins
    _check_names([table.name for table in plan.tables])
    files = {name: load_published(name, folder=published_dir) for name in _published_names(plan)}
    tables = tuple(
        build_table(results, t, files[t.published] if t.published is not None else None) for t in plan.tables
    )
    breakdowns, notes = build_breakdowns(results)
    doubts = published_notes(plan, files) + computed_notes(results)
    _check_names([t.name for t in (*tables, *(b.table for b in breakdowns))])
    tables = tuple(mark_stale(table, plan, origins) for table in tables)
    breakdowns = [replace(b, table=mark_stale(b.table, plan, origins)) for b in breakdowns]
    cited = {note.cite for table in tables for note in table.footnotes}
    references = tuple(one for one in references_of(files.values()) if one.key in cited)
    return FilledTables(tables, tuple(breakdowns), tuple(notes), (*stale_notes(tables), *doubts), references)


def _compiled(document: Path, *, siunitx: bool) -> tuple[Path | None, str]:
    """The PDF, or why there is none."""
    if siunitx and not is_installed():
        return None, f"TeX has no {PACKAGE} ({HINT})"
    try:
        pdf = compile_pdf(document)
    except HarnessError as error:
        raise HarnessError(str(error).replace(str(document), document.name)) from None  # its folder goes
    return pdf, "" if pdf else "pdflatex is not on PATH (Debian: apt-get install texlive-latex-extra)"


def _check_names(names: Sequence[str]) -> None:
    if not names:
        raise HarnessError("a report needs at least one table; add one to report.tables of the study")
    for name in names:
        if not FILE_NAME.fullmatch(name) or name in RESERVED:
            taken = " or ".join(repr(word) for word in RESERVED)
            raise HarnessError(f"table name {name!r} must be letters, digits, - and _, and not {taken}; rename it")
    folded = [name.lower() for name in names]
    for name, key in zip(names, folded, strict=True):
        if folded.count(key) > 1:
            raise HarnessError(f"table name {name!r} must be used once, whatever its case; rename one")


def _published_names(plan: Plan) -> list[str]:
    return sorted({t.published for t in plan.tables if t.published is not None})


def _write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path
