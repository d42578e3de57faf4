"""Tables whose figures siunitx aligns: what is written, that it compiles, and what it looks like."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from harness.plan import expand
from harness.spec import load_study
from reports.build import build_report, fill_tables
from reports.latex import Origin, aligned_source, cell_source, compile_pdf, render_document, render_table
from reports.latex_numbers import column_format, is_installed
from reports.paper_check import Current, check_paper
from reports.results import Results
from reports.table_model import Block, Cell, CellState, Column, Emphasis, TableModel, TableRow
from tests.command import Command
from tests.conftest import Golden
from tests.report_frame import make_frame, make_plan
from tests.test_latex import needs_tex
from tests.tiny import STUDY

PUBLISHED_DIR = Path(__file__).parent.parent / "experiments" / "published"
PLAN = replace(make_plan(), siunitx=True)
needs_siunitx = pytest.mark.skipif(shutil.which("pdflatex") is None or not is_installed(), reason="TeX has no siunitx")
OOM = Cell("val", "miou", CellState.FAILED, fault="out of memory", expected_n=3)


def cell(figure: str, spread: str = "", **options: object) -> Cell:
    return replace(Cell("val", "miou", CellState.COMPLETE, value=0.0, figure=figure, spread=spread), **options)


def compiled(cells: Sequence[Cell], folder: Path) -> Path:
    """The PDF of a table with one column of such cells."""
    rows = tuple(TableRow(f"row{i}", (c,)) for i, c in enumerate(cells))
    model = TableModel("t", "c", "s", (), (Column("h"),), (Block("", rows),))
    (folder / "t.tex").write_text(render_table(model, siunitx=True))
    (folder / "all.tex").write_text(render_document(["t"], title="T", siunitx=True))
    pdf = compile_pdf(folder / "all.tex")
    assert pdf is not None
    return pdf


def test_golden(golden: Golden) -> None:
    tables = fill_tables(Results(PLAN, make_frame(PLAN)), published_dir=PUBLISHED_DIR).tables
    origin = Origin(PLAN.study, PLAN.spec_sha)
    golden.check("report/components_siunitx.tex", render_table(tables[1], origin, siunitx=True))
    golden.check("report/comparison_siunitx.tex", render_table(tables[0], origin, siunitx=True))


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ((cell("82.17", "0.22"), cell("7.10", "1.05")), "2.2(3)"),
        ((cell("+0.40", "0.03"), cell("−10.40")), "+2.2(2)"),
        ((cell("333.00"), cell("0.012")), "3.3"),
        ((cell("50.00", "0.00"),), "2.2(2)"),
        ((cell("7", "1"),), "1.0(1)"),
        ((OOM,), "1.0"),
        ((), "1.0"),
    ],
)
def test_columns_have_room_for_their_widest_parts(cells: tuple[Cell, ...], expected: str) -> None:
    assert column_format(cells) == f"S[table-format={expected}]@{{}}l"


def test_what_is_no_number_stands_beside_it() -> None:
    best = cell("−1.50", "0.20", emphasis=Emphasis.BEST, marks=("*", "a"), count="n=2/3")
    assert aligned_source(best) == r"\bfseries -1.50 +- 0.20 & {\scriptsize\,(n=2/3)}\textsuperscript{{*},a}"
    assert aligned_source(cell("+0.40")) == "+0.40 &"
    assert aligned_source(OOM) == cell_source(OOM) == r"\multicolumn{2}{c}{{\scriptsize OOM}}"
    absent = Cell("cost", "gmacs", CellState.NOT_RECORDED)
    assert aligned_source(absent) == r"\multicolumn{2}{c}{---}"
    cost = replace(absent, state=CellState.COMPLETE, value=333.0, figure="333.00")
    assert aligned_source(cost) == "& 333.00"
    assert column_format([absent, cost]) == "l@{}S[table-format=3.2]"


@needs_siunitx
def test_the_report_compiles_and_shows_the_same_figures(tmp_path: Path) -> None:
    plain = build_report(Results(make_plan(), make_frame(PLAN)), tmp_path / "plain", published_dir=PUBLISHED_DIR)
    aligned = build_report(Results(PLAN, make_frame(PLAN)), tmp_path / "aligned", published_dir=PUBLISHED_DIR)
    assert aligned.pdf is not None
    if shutil.which("pdftotext"):
        shown = [
            subprocess.run(["pdftotext", "-layout", p, "-"], capture_output=True, text=True, check=True).stdout
            for p in (plain.pdf, aligned.pdf)
            if p is not None
        ]
        figures = [sorted(re.findall(r"(?<![\w.])[+−-]?\d+\.\d+", text.replace("-", "−"))) for text in shown]
        assert len(figures[0]) > 300
        assert figures[0] == figures[1]


@needs_siunitx
@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="pdftotext is not on PATH")
def test_decimal_marks_stand_below_each_other(tmp_path: Path) -> None:
    cells = [
        cell("+0.40", "0.03", marks=("*",)),
        cell("−10.40", "1.13", emphasis=Emphasis.BEST),
        cell("+2.00", count="n=1/3"),
        OOM,
    ]
    pdf = compiled(cells, tmp_path)
    boxes = subprocess.run(["pdftotext", "-bbox", pdf, "-"], capture_output=True, text=True, check=True).stdout
    found = re.findall(r'xMin="([\d.]+)" yMin="[\d.]+" xMax="([\d.]+)".*?>([^<]+)</word>', boxes)
    numbers = [(float(right), text) for _, right, text in found if re.fullmatch(r"[+−]\d+\.\d\d", text)]
    assert [text for _, text in numbers] == ["+0.40", "−10.40", "+2.00"]
    rights = [right for right, _ in numbers]
    assert max(rights) - min(rights) < 1.5, "two decimals each, so their right edges meet; bold digits are wider"


@needs_siunitx
@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="pdftotext is not on PATH")
def test_a_spread_of_zero_is_no_missing_one(tmp_path: Path) -> None:
    cells = [cell("28.12", "0.00"), cell("0.00", "0.00", emphasis=Emphasis.BEST), cell("31.25")]
    pdf = compiled(cells, tmp_path)
    text = subprocess.run(["pdftotext", "-layout", pdf, "-"], capture_output=True, text=True, check=True).stdout
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert {"row0 28.12 ± 0.00", "row1 0.00 ± 0.00", "row2 31.25"} <= set(lines)


@needs_tex
def test_without_the_package_there_is_a_report_and_no_pdf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "kpsewhich"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    files = build_report(Results(PLAN, make_frame(PLAN)), tmp_path / "report", published_dir=PUBLISHED_DIR)
    assert (files.pdf, files.no_pdf) == (None, "TeX has no siunitx (Debian: apt-get install texlive-science)")
    assert r"\usepackage{siunitx}" in files.document.read_text()
    assert "S[table-format=" in files.tex[0].read_text()


def test_a_study_may_ask_for_it_and_remains_the_same_study_where_it_does_not(tmp_path: Path) -> None:
    plans = {}
    for name, text in {"not": "", "no": "  siunitx: false\n", "yes": "  siunitx: true\n"}.items():
        path = tmp_path / f"{name}.yaml"
        path.write_text(STUDY.rstrip("\n") + "\n" + text)
        plans[name] = expand(load_study(path, environ={}), fingerprint="f")
    assert [plan.siunitx for plan in plans.values()] == [False, False, True]
    assert plans["not"].spec_sha == plans["no"].spec_sha != plans["yes"].spec_sha
    assert plans["not"].trials == plans["yes"].trials


def test_the_option_of_the_command_decides_and_copies_of_both_kinds_are_checked(
    harness: Command, ran_tiny: Path, tmp_path: Path
) -> None:
    report = ["report", ran_tiny / "tiny.yaml", "--storage", ran_tiny]
    assert harness(*report, "--siunitx", "--out", tmp_path / "paper").code == 0
    text = (tmp_path / "paper" / "decoder.tex").read_text()
    assert re.search(r"\{@\{\}lS\[table-format=[12]\.2\]@\{\}l", text)
    done = harness(*report, "--check", tmp_path / "paper")
    assert (done.code, done.out) == (0, "4 copies, 0 cited numbers, 0 differences\n")
    assert harness(*report, "--no-siunitx", "--out", tmp_path / "paper").code == 0
    assert "S[" not in (tmp_path / "paper" / "decoder.tex").read_text()


def test_a_figure_that_differs_is_named_as_a_reader_sees_it(tmp_path: Path) -> None:
    tables = fill_tables(Results(PLAN, make_frame(PLAN)), published_dir=PUBLISHED_DIR)
    current = Current(Origin(PLAN.study, PLAN.spec_sha), {t.name: t for t in tables.shown}, tables.csv)
    text = render_table(tables.tables[1], current.origin, siunitx=True)
    assert r"\bfseries 82.97 +- 0.20 &" in text
    (tmp_path / "a.tex").write_text(text.replace(r"\bfseries 82.97 +- 0.20 &", "82.90 +- 0.21 &", 1))
    (finding,) = check_paper(tmp_path, current).findings
    assert str(finding).endswith("row + correlation fusion, val p50: 82.90 ± 0.21 -> **82.97** ± 0.20")
