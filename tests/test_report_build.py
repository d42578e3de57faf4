"""The report as files: golden tables, equal bytes for equal results, nothing half-written, errors in one line."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import HarnessError
from harness.records import Plan
from reports.build import ReportFiles, build_report
from reports.markdown import escape_markdown
from reports.results import Results
from tests.conftest import Golden
from tests.report_frame import AWKWARD, make_frame, make_plan

PUBLISHED_DIR = Path(__file__).parent.parent / "experiments" / "published"
NAMES = ("comparison", "components", "kernels", "control")
GOLDEN_FILES = (*(f"{name}.{kind}" for name in NAMES for kind in ("tex", "md", "csv")), "tables.tex", "references.bib")


def build(plan: Plan, folder: Path) -> ReportFiles:
    frame = make_frame(make_plan(replicates=plan.replicates))
    return build_report(Results(plan, frame), folder, published_dir=PUBLISHED_DIR)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> ReportFiles:
    return build(make_plan(), tmp_path_factory.mktemp("report"))


@pytest.mark.parametrize("name", GOLDEN_FILES)
def test_golden(name: str, report: ReportFiles, golden: Golden) -> None:
    golden.check(f"report/{name}", (report.document.parent / name).read_text(encoding="utf-8"))


def test_what_is_returned_is_what_was_written(report: ReportFiles) -> None:
    assert sorted(report.paths) == sorted(report.document.parent.iterdir())
    assert [t.name for t in report.tables] == list(NAMES)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not on PATH")
def test_the_document_compiles(report: ReportFiles) -> None:
    assert report.pdf is not None
    assert report.pdf.read_bytes().startswith(b"%PDF-")


@pytest.mark.skipif(shutil.which("bibtex") is None, reason="bibtex is not on PATH")
def test_a_paper_cites_the_sources_of_published_figures(report: ReportFiles, tmp_path: Path) -> None:
    cited = set(re.findall(r"\\cite\{(.*?)\}", "".join(path.read_text() for path in report.tex)))
    assert cited == {"mafn2025"}
    (tmp_path / "paper.aux").write_text(
        "".join(rf"\citation{{{key}}}" + "\n" for key in cited) + "\\bibstyle{plain}\n\\bibdata{references}\n"
    )
    shutil.copy(report.document.parent / "references.bib", tmp_path)
    done = subprocess.run(["bibtex", "paper"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, "Warning" in done.stdout) == (0, False), done.stdout
    assert r"\bibitem{mafn2025}" in (tmp_path / "paper.bbl").read_text()


def test_the_manifest_names_every_file_and_every_run(report: ReportFiles) -> None:
    manifest = json.loads(report.manifest.read_text())
    files = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in report.paths if p != report.manifest}
    assert manifest["files"] == files
    assert (manifest["study"], manifest["spec_sha"]) == ("mafn & friends", "ab" * 32)
    assert manifest["runs"] == sorted({r for t in report.tables for _, c in t.cells() for r in c.run_ids})


def test_equal_results_give_equal_bytes(report: ReportFiles, tmp_path: Path) -> None:
    again = build(make_plan(), tmp_path / "new" / "folder")
    assert {p.name: p.read_bytes() for p in again.paths} == {p.name: p.read_bytes() for p in report.paths}


def test_csv_is_long_numeric_and_complete(report: ReportFiles) -> None:
    with report.csv[0].open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    ours = [line for line in lines if line["published"] == "false"]
    assert len(ours) == 6 * 7 * 2 + 6 * 2
    mafn = next(line for line in ours if line["row"] == "MAFN")
    assert (float(mafn["mean"]), mafn["n"], mafn["expected_n"]) == (pytest.approx(0.8216666667), "3", "3")
    assert len(mafn["run_ids"].split()) == 3
    assert {line["mean"] for line in ours if line["row"] in ("LGCE", "CMPC")} == {""}
    assert {line["state"] for line in ours if line["row"] == "CMPC"} == {"failed", "not recorded"}
    cost = next(line for line in ours if line["row"] == "RMSIN" and line["metric"] == "parameters")
    assert (cost["split"], cost["mean"], cost["std"], cost["n"], cost["state"]) == (
        "cost",
        "243000000",
        "",
        "2",
        "partial",
    )
    assert any(line["row"] == AWKWARD for line in ours)
    quoted = [line for line in lines if line["published"] == "true"]
    assert len(quoted) == 14 * 7
    assert all(line["source"] and line["n"] == "" for line in quoted)


def test_no_missing_score_becomes_zero(report: ReportFiles) -> None:
    shown = " ".join(p.read_text(encoding="utf-8") for p in report.markdown)
    assert "| 0.00" not in shown
    assert "nan" not in shown.replace("nan\\_", "")


def test_a_pdf_of_an_earlier_report_does_not_outlive_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    manifest = build(make_plan(replicates=1), tmp_path).manifest
    (tmp_path / "tables.pdf").write_bytes(b"old")
    found = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**found, "files": {**found["files"], "tables.pdf": "0" * 64}}))
    files = build(make_plan(replicates=1), tmp_path)
    assert files.pdf is None
    assert not (tmp_path / "tables.pdf").exists()
    assert sorted(files.paths) == sorted(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), r"at least one table"),
        (("../up",), r"table name '../up' must be letters, digits"),
        (("tables",), r"table name 'tables' must be .* not 'tables'"),
        (("a", "A"), r"table name 'a' must be used once"),
    ],
)
def test_names_that_cannot_be_files_are_refused(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    plan = make_plan()
    tables = tuple(replace(plan.tables[3], name=name) for name in names)
    with pytest.raises(HarnessError, match=message):
        build(replace(plan, tables=tables), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unknown_published_numbers_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    plan = make_plan()
    with pytest.raises(HarnessError, match=r"no published numbers named 'rrsis_e'; did you mean 'rrsis_d'"):
        build(replace(plan, tables=(replace(plan.tables[0], published="rrsis_e"),)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@given(st.text(max_size=60))
def test_markdown_text_stays_in_its_cell(text: str) -> None:
    escaped = escape_markdown(text)
    assert len(escaped.splitlines()) <= 1
    assert "|" not in escaped.replace("\\|", "")
    assert "<" not in escaped


def test_markdown_escapes() -> None:
    assert escape_markdown("+ *a*_b_ `c` [d](e) <f> & 1") == r"\+ \*a\*\_b\_ \`c\` \[d\](e) &lt;f&gt; &amp; 1"
    assert escape_markdown("1. one") == r"1\. one"
