"""LaTeX output: any text prints as it is, and every document compiles."""

from __future__ import annotations

import re
import shutil
import subprocess
import unicodedata
from dataclasses import replace
from pathlib import Path

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import HarnessError
from reports import latex
from reports.latex import cell_origin, cell_source, compile_pdf, render_document, render_table
from reports.latex_text import ACCENTS, SYMBOLS, Latex, latex_escape
from reports.results import Results
from reports.table_model import Block, Cell, CellState, Column, Emphasis, TableModel, TableRow
from reports.tables import build_table
from tests.report_frame import AWKWARD, make_frame, make_plan

needs_tex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not on PATH")

ACCENTED = "".join(
    sorted(
        c
        for base in "aeiouycnszgdltrAEIOUYCNSZGDLTR"
        for accent in ACCENTS
        if len(c := unicodedata.normalize("NFC", base + accent)) == 1
    )
)
NASTY = st.text(st.sampled_from("".join(SYMBOLS) + ACCENTED + "-,?!'[]*abc 019\n\t中😀\x07\u0301"), max_size=40)

TOKEN = re.compile(
    r"\\texttt\{U\+([0-9A-F]{4,6})\}|\\([`'^~=.\"uHvcdbr])\{([A-Za-z])\}|("
    + "|".join(re.escape(s) for s in sorted(SYMBOLS.values(), key=len, reverse=True))
    + r")|(\{\})|(.)",
    re.DOTALL,
)


def unescape(source: str) -> str:
    """The text that `latex_escape` was given, up to white space and Unicode composition."""
    characters = {s: c for c, s in SYMBOLS.items()}
    accents = {command: accent for accent, command in ACCENTS.items()}
    text = ""
    for code, accent, base, symbol, nothing, plain in TOKEN.findall(source):
        if code:
            text += chr(int(code, 16))
        elif accent:
            text += unicodedata.normalize("NFC", base + accents[accent])
        elif symbol:
            text += characters[symbol]
        elif not nothing:
            text += plain
    return text


def expected(text: str) -> str:
    composed = unicodedata.normalize("NFC", text)
    return "".join(" " if c.isspace() and c not in SYMBOLS else c for c in composed)


def model_of(label: str, *cells: Cell, switches: tuple[bool | str, ...] = ()) -> TableModel:
    row = TableRow(label, cells, switches)
    return TableModel(
        "t", label, "Row", tuple("s" for _ in switches), tuple(Column("h") for _ in cells), (Block("", (row,)),)
    )


def compile_texts(folder: Path, texts: list[str]) -> Path | None:
    lines = "\n\n".join(f"x {latex_escape(t)} x" for t in texts)
    document = folder / "texts.tex"
    document.write_text(render_document([], title="Texts").replace(r"\end{document}", lines + "\n\\end{document}"))
    return compile_pdf(document)


@given(st.one_of(NASTY, st.text(max_size=60)))
def test_escaping_loses_nothing(text: str) -> None:
    assert unescape(latex_escape(text)) == expected(text)


@given(st.text(max_size=60))
def test_escaped_text_is_one_line_of_plain_ascii(text: str) -> None:
    escaped = latex_escape(text)
    assert escaped.isascii()
    assert "\n" not in escaped
    assert not re.search(r"(?<!\\)[%#&_]", escaped)


def test_symbols_have_different_sources() -> None:
    assert len(set(SYMBOLS.values())) == len(SYMBOLS)


def test_known_escapes() -> None:
    assert latex_escape("50 % & a_b #1 {x} $y$") == r"50 \% \& a\_b \#1 \{x\} \$y\$"
    assert latex_escape("~^\\") == r"\textasciitilde{}\textasciicircum{}\textbackslash{}"
    assert latex_escape("Δ ± – é ǖ") == r"$\Delta$ $\pm$ \textendash{} \'{e} \texttt{U+01D6}"
    assert latex_escape("--- ,,") == "-{}-{}- ,{},"
    assert latex_escape("e\u0301") == r"\'{e}"
    assert latex_escape("a\r\n\tb中") == r"a   b\texttt{U+4E2D}"


@needs_tex
def test_every_symbol_and_accent_compiles(tmp_path: Path) -> None:
    texts = [*SYMBOLS, *(c * 2 for c in SYMBOLS), *ACCENTED, "中", "\x07", "[1, 3]", "*", AWKWARD, "?`!`''--,,<<>>"]
    assert compile_texts(tmp_path, texts) == tmp_path / "texts.pdf"


@needs_tex
def test_random_texts_compile_together(tmp_path: Path) -> None:
    texts: list[str] = []

    @given(st.one_of(NASTY, st.text(max_size=40)))
    def collect(text: str) -> None:
        texts.append(text)

    collect()
    assert len(texts) >= 50
    assert compile_texts(tmp_path, texts) is not None


@needs_tex
def test_labels_compile_inside_tables(tmp_path: Path) -> None:
    labels = ["[1, 3]", "*", "& \\\\ \\hline", AWKWARD, "a" * 300, "", "% gone?", "\\input{/etc/passwd}"]
    cell = Cell("val", "miou", CellState.COMPLETE, value=0.5, figure="50.00", spread="1.00", run_ids=("a%\nb",))
    rows = tuple(TableRow(label, (cell,), (label,), "n=1/2", ("a", "†")) for label in labels)
    model = TableModel("t", "c", "s", ("h",), (Column("h", "g"),), (Block(AWKWARD, rows, ("b",)),))
    (tmp_path / "t.tex").write_text(render_table(model))
    (tmp_path / "all.tex").write_text(render_document(["t"], title=AWKWARD))
    pdf = compile_pdf(tmp_path / "all.tex")
    assert pdf is not None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["all.pdf", "all.tex", "t.tex"]
    if shutil.which("pdftotext"):
        shown = subprocess.run(["pdftotext", "-layout", pdf, "-"], capture_output=True, text=True, check=True).stdout
        assert "[1, 3]" in shown
        assert "% gone?" in shown
        assert "\\input{/etc/passwd}" in shown
        assert shown.count("50.00") == len(labels)


@needs_tex
def test_the_same_document_gives_the_same_bytes(tmp_path: Path) -> None:
    first = compile_texts(tmp_path, ["same"])
    assert first is not None
    content = first.read_bytes()
    second = compile_texts(tmp_path, ["same"])
    assert second is not None
    assert second.read_bytes() == content


@needs_tex
def test_a_broken_document_names_its_first_error(tmp_path: Path) -> None:
    broken = tmp_path / "broken.tex"
    broken.write_text("\\documentclass{article}\n\\begin{document}\n\\nothing\n\\nobody\n\\end{document}\n")
    with pytest.raises(HarnessError, match=r"broken.tex: pdflatex failed: .*broken.tex:3: Undefined control sequence"):
        compile_pdf(broken)
    assert [p.name for p in tmp_path.iterdir()] == ["broken.tex"]


@needs_tex
def test_documents_cannot_run_programs(tmp_path: Path) -> None:
    document = tmp_path / "evil.tex"
    document.write_text("\\documentclass{article}\\begin{document}\\immediate\\write18{touch owned}x\\end{document}\n")
    compile_pdf(document)
    assert not (tmp_path / "owned").exists()


def fake_tex(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a document, and a `pdflatex` on PATH that is this shell script."""
    program = folder / "bin" / "pdflatex"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    (folder / "x.tex").write_text("x")
    return folder / "x.tex"


def test_without_pdflatex_there_is_no_pdf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compile_pdf(tmp_path / "x.tex") is None


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo start; echo '! Emergency stop.'; exit 1", "! Emergency stop."),
        ("echo only this; exit 1", "only this"),
        ("exit 1", "no output"),
        ("exit 0", "no output"),
    ],
)
def test_a_failure_gives_the_best_reason_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    document = fake_tex(tmp_path, script, monkeypatch)
    with pytest.raises(HarnessError, match=re.escape(f"pdflatex failed: {reason}")):
        compile_pdf(document)


def test_a_document_that_does_not_end_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = fake_tex(tmp_path, "exec sleep 60", monkeypatch)
    monkeypatch.setattr(latex, "COMPILE_TIMEOUT_S", 0.2)
    with pytest.raises(HarnessError, match=r"x.tex: pdflatex must end within 0.2 s"):
        compile_pdf(document)


def test_cells() -> None:
    cell = Cell("val", "miou", CellState.PARTIAL, value=0.5, figure="−50.00", spread="1.00", count="n=2/3")
    assert cell_source(cell) == r"$-$50.00 & {\scriptsize\,$\pm$\,1.00}{\scriptsize\,(n=2/3)}"
    assert cell_source(replace(cell, spread="", count="")) == "$-$50.00 &"
    assert cell_source(replace(cell, emphasis=Emphasis.BEST, marks=("†",), spread="", count="")) == (
        r"\textbf{$-$50.00} & \textsuperscript{\textdagger{}}"
    )
    assert cell_source(replace(cell, emphasis=Emphasis.NONE, spread="", count="")) == "$-$50.00 &"
    failed = Cell("val", "miou", CellState.FAILED, fault="out of memory")
    assert cell_source(failed) == r"\multicolumn{2}{c}{{\scriptsize OOM}}"
    assert cell_source(replace(failed, fault="error")) == r"\multicolumn{2}{c}{{\scriptsize failed}}"
    missing = {CellState.FAILED: "failed", CellState.MISSING: "--", CellState.REFERENCE: "ref."}
    for state, word in missing.items():
        assert word in cell_source(Cell("val", "miou", state))
    assert cell_source(Cell("val", "miou", CellState.NOT_REPORTED)) == r"\multicolumn{2}{c}{}"


def test_comments_name_runs_and_cannot_leave_their_line() -> None:
    cell = Cell("val", "miou", CellState.COMPLETE, run_ids=("a1", "b\n\\evil"))
    assert cell_origin(cell) == "val miou; runs: a1 b??evil"
    assert cell_origin(replace(cell, is_delta=True, run_ids=())) == "delta val miou; runs: none"
    assert cell_origin(replace(cell, source="Table I, é")) == "val miou; published: Table I, ?"


def test_every_figure_has_a_line_and_a_comment_of_its_own() -> None:
    plan = make_plan()
    for table in plan.tables:
        model = build_table(Results(plan, make_frame(plan)), table)
        lines = [line for line in render_table(model).splitlines() if "% " in line and line.startswith("    & ")]
        assert len(lines) == len(list(model.cells()))
        assert all("; runs: " in line for line in lines)


def test_narrow_tables_stay_in_one_column() -> None:
    cell = Cell("val", "miou", CellState.MISSING)
    assert r"\begin{table}" in render_table(model_of("x", cell, switches=(True, False, "a")))
    assert r"\begin{table*}" in render_table(model_of("x", cell, switches=(True, False, "a", "b")))


@needs_tex
def test_a_long_head_stands_on_several_lines(tmp_path: Path) -> None:
    label = "fusion = sum, kernels = [1, 3, 5], noise = 50 %"
    cell = Cell("val", "miou", CellState.COMPLETE, value=0.5, figure="50.00")
    (tmp_path / "t.tex").write_text(render_table(replace(model_of("row", cell), columns=(Column(label),))))
    (tmp_path / "all.tex").write_text(render_document(["t"], title="Heads"))
    pdf = compile_pdf(tmp_path / "all.tex")
    assert pdf is not None
    if shutil.which("pdftotext"):
        text = subprocess.run(["pdftotext", "-layout", pdf, "-"], capture_output=True, text=True, check=True).stdout
        lines = [line.strip() for line in text.splitlines() if "=" in line or "[" in line]
        assert " ".join(" ".join(lines).replace("Row", "").split()) == label
        assert len(lines) > 2


def test_templates_escape_by_default_and_refuse_unknown_names() -> None:
    environment = latex._environment()
    shown = environment.from_string(r"\VAR{a}\VAR{b}").render(a="&", b=Latex("&"))
    assert shown == r"\&&"
    with pytest.raises(jinja2.UndefinedError, match="'gone' is undefined"):
        environment.from_string(r"\VAR{gone}").render()
