"""Numbers that prose cites: every figure has a macro, LaTeX prints it as the table does, unknown names are errors."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import HarnessError
from reports.build import ReportFiles, build_report
from reports.latex import Origin, compile_pdf, render_document
from reports.numbers import UNSAFE, Key, number_source, numbers_of, read_numbers, render_numbers, slug
from reports.results import Results
from reports.table_model import Block, Cell, CellState, Column, TableModel, TableRow
from tests.conftest import Golden
from tests.report_frame import AWKWARD, make_frame, make_plan

PUBLISHED_DIR = Path(__file__).parent.parent / "experiments" / "published"
needs_tex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not on PATH")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> ReportFiles:
    """The canned report, without its PDF, which other tests compile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "")
        plan = make_plan()
        return build_report(
            Results(plan, make_frame(plan)), tmp_path_factory.mktemp("numbers"), published_dir=PUBLISHED_DIR
        )


def cell(figure: str, *, split: str = "val", metric: str = "miou", trial: str = "a") -> Cell:
    return Cell(split, metric, CellState.COMPLETE, value=0.5, n=2, figure=figure, trial_ids=(trial,))


def table(*rows: TableRow, heads: tuple[str, ...] = ("h",)) -> TableModel:
    return TableModel("t", "c", "s", (), tuple(Column(head) for head in heads), (Block("", rows),))


def typeset(folder: Path, report: ReportFiles, body: str) -> Path:
    """A document of every generated file and a body."""
    for path in (*report.tex, report.numbers):
        shutil.copy(path, folder)
    text = render_document([p.stem for p in report.tex], title="All").replace(
        r"\begin{document}", "\\input{numbers}\n\\begin{document}\n" + body
    )
    (folder / "paper.tex").write_text(text)
    return folder / "paper.tex"


def test_golden(report: ReportFiles, golden: Golden) -> None:
    golden.check("report/numbers.tex", report.numbers.read_text(encoding="utf-8"))


def test_every_figure_of_every_table_has_a_macro_that_prints_it_as_the_table_does(report: ReportFiles) -> None:
    values = numbers_of(report.tables).values
    ours = [(t.name, r, c) for t in report.tables for r, c in t.cells() if c.value is not None and not r.is_published]
    assert len(ours) > 150
    for name, row, found in ours:
        macro = "resdelta" if found.is_delta else "res"
        assert values[Key(macro, name, slug(row.label), found.split, found.metric)] == found.figure
    assert values[Key("res", "components", "+ MSRC", "val", "miou")] == "40.67"
    assert values[Key("resn", "comparison", "RMSIN", "val", "miou")] == "2"


def test_what_does_not_exist_has_no_macro_but_is_named(report: ReportFiles) -> None:
    numbers = numbers_of(report.tables)
    key = Key("res", "comparison", "CMPC", "val", "miou")
    assert key not in numbers.values
    assert numbers.absent[key] == "failed"
    assert f"% no figure: {key}: failed\n" in report.numbers.read_text()


def test_the_file_is_read_back(report: ReportFiles) -> None:
    values = numbers_of(report.tables).values
    assert read_numbers(report.numbers.read_text()) == {k: number_source(v) for k, v in values.items()}


@given(st.text(max_size=40))
def test_names_are_safe(text: str) -> None:
    name = slug(text)
    assert name == name.strip() != ""
    assert not UNSAFE.search(name)
    assert slug(name) == name


def test_rows_of_one_name_are_told_apart() -> None:
    rows = [TableRow(label, (cell(f, trial=f),)) for label, f in (("a&b", "1"), ("a b", "2"), ("a$b", "3"))]
    rows.append(TableRow("a b", (cell("4", trial=""),), is_published=True))
    found = numbers_of([table(*rows)]).values
    named = {k.row: v for k, v in found.items() if k.macro == "res"}
    assert named == {"a b": "1", "a b 2": "2", "a b 3": "3", "a b (published)": "4"}


def test_columns_that_are_variants_belong_to_the_name() -> None:
    row = TableRow("small, N = 3", (cell("1", trial="a"), cell("2", trial="b")))
    found = numbers_of([table(row, heads=("LAVT", "MAFN"))]).values
    assert [k.row for k in found if k.macro == "res"] == ["small, N = 3: LAVT", "small, N = 3: MAFN"]


@needs_tex
def test_all_generated_files_compile_together_and_print_their_numbers(tmp_path: Path, report: ReportFiles) -> None:
    row = slug(AWKWARD)
    body = (
        r"\section{At \res{components}{+ MSRC}{val}{miou}}"
        r"\edef\kept{\res{components}{+"
        "\n"
        r"MSRC}{val}{miou}}\def\other{40.67}\ifx\kept\other same \fi "
        r"delta \resdelta{components}{default}{val}{miou}, $\resdelta{control}{default}{val_shuffled}{miou}$ "
        r"\resstd{components}{default}{val}{miou} n \resn{comparison}{RMSIN}{val}{p50} "
        r"p \resp{components}{+ correlation fusion}{val}{miou} "
        rf"awkward \res{{comparison}}{{{row}}}{{test}}{{oiou}} "
        r"{\catcode`\+=\active\def+{plus}\res{components}{+ MSRC}{val}{p50}}"
        "\n\n"
    )
    pdf = compile_pdf(typeset(tmp_path, report, body))
    assert pdf is not None
    if shutil.which("pdftotext"):
        shown = subprocess.run(["pdftotext", "-layout", pdf, "-"], capture_output=True, text=True, check=True).stdout
        values = numbers_of(report.tables).values
        assert "At 40.67" in shown
        assert "same" in shown
        for macro, *place in (
            ("resdelta", "components", "default", "val", "miou"),
            ("res", "comparison", row, "test", "oiou"),
            ("res", "components", "+ MSRC", "val", "p50"),
        ):
            assert values[Key(macro, *place)] in shown.partition("Table 1")[0]


@needs_tex
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (r"\res{components}{+ MSCR}{val}{miou}", r"no number \res{components}{+ MSCR}{val}{miou}"),
        (r"\res{comparison}{CMPC}{val}{miou}", r"no number \res{comparison}{CMPC}{val}{miou}"),
        (r"\input{other}", r"two studies have a number \res{components}{+ MSRC}{val}{miou}"),
    ],
)
def test_a_wrong_number_is_an_error_that_names_it(tmp_path: Path, report: ReportFiles, body: str, message: str) -> None:
    document = typeset(tmp_path, replace(report, tex=()), body)
    other = render_numbers(numbers_of([replace(report.tables[1], blocks=())]), Origin("other", "cd"))
    (tmp_path / "other.tex").write_text(other + "\\harnessnumber{res}{components}{+ MSRC}{val}{miou}{1.00}%\n")
    with pytest.raises(HarnessError, match="pdflatex failed") as caught:
        compile_pdf(document)
    assert message in str(caught.value)
