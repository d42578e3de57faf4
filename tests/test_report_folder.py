"""Folders that reports are written to: files of others stay, an earlier report goes, a refusal changes nothing."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import reports.report_folder
from harness.errors import HarnessError
from harness.records import Plan
from reports.build import ReportFiles, build_report
from reports.drawing import SUFFIXES
from reports.report_folder import read_manifest, replace_report
from reports.results import Results
from tests.command import Command, assert_refused
from tests.drawn_study import make_request
from tests.report_frame import make_frame, make_plan

PUBLISHED_DIR = Path(__file__).parent.parent / "experiments" / "published"
PLAN = replace(make_plan(replicates=1), tables=make_plan(replicates=1).tables[1:])


@pytest.fixture(autouse=True)
def without_tex(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")


def build(plan: Plan, folder: Path, *, is_own: bool = False) -> ReportFiles:
    results = Results(plan, make_frame(make_plan(replicates=1)))
    return build_report(results, folder, published_dir=PUBLISHED_DIR, is_own=is_own)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def write(folder: Path, *names: str) -> dict[str, bytes]:
    """An author's files; what they hold."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"mine: {name}")
    return contents(folder)


def test_files_of_the_author_stay_and_figures_of_an_earlier_report_go(tmp_path: Path) -> None:
    mine = write(tmp_path, "figures/arch.pdf", "main.tex", "main.bib", "tables.pdf")
    request = make_request(figures=("delta", "learning_curves"))
    drawn = build_report(request, tmp_path, published_dir=PUBLISHED_DIR)
    assert {p.stem for p in drawn.figures} > {"delta_parts"}
    again = build_report(make_request(figures=("delta",)), tmp_path, published_dir=PUBLISHED_DIR)
    found = contents(tmp_path)
    assert {p.name for p in again.figures} == {f"delta_parts{suffix}" for suffix in SUFFIXES}
    assert found.keys() == mine.keys() | {p.relative_to(tmp_path).as_posix() for p in again.paths}
    assert {name: found[name] for name in mine} == mine
    build_report(make_request(figures=()), tmp_path / "new", published_dir=PUBLISHED_DIR)
    build_report(make_request(figures=("delta",)), tmp_path / "new", published_dir=PUBLISHED_DIR)
    build_report(make_request(figures=()), tmp_path / "new", published_dir=PUBLISHED_DIR)
    assert not (tmp_path / "new" / "figures").exists()


def test_tables_that_are_asked_for_no_more_go(tmp_path: Path) -> None:
    build(PLAN, tmp_path / "a")
    fewer = replace(PLAN, tables=PLAN.tables[:1])
    build(fewer, tmp_path / "a")
    build(fewer, tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize("name", ["tables.tex", "numbers.tex", "references.bib", "report.html", "manifest.json"])
def test_a_file_in_the_way_is_named_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    mine = write(tmp_path, name, "main.tex")
    with pytest.raises(HarnessError, match=rf"has others in its way: {name}; give an empty folder, or move") as caught:
        build(make_plan(replicates=1), tmp_path)
    assert "\n" not in str(caught.value)
    assert contents(tmp_path) == mine


def test_a_figure_in_the_way_and_links_are_refused(tmp_path: Path) -> None:
    mine = write(tmp_path / "paper", "figures/delta_parts.pdf")
    with pytest.raises(HarnessError, match=r"in its way: figures/delta_parts\.pdf; give"):
        build_report(make_request(figures=("delta",)), tmp_path / "paper", published_dir=PUBLISHED_DIR)
    assert contents(tmp_path / "paper") == mine
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "tables.tex").symlink_to(tmp_path / "nowhere")
    with pytest.raises(HarnessError, match=r"in its way: tables\.tex; give"):
        build(PLAN, tmp_path / "linked")
    assert not (tmp_path / "nowhere").exists()


def test_a_manifest_removes_nothing_outside_of_its_folder(tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("mine")
    manifest = build(PLAN, tmp_path / "a").manifest
    found = json.loads(manifest.read_text())
    names = ("../outside.txt", str(outside))
    manifest.write_text(json.dumps({**found, "files": {**found["files"], **dict.fromkeys(names, "")}}))
    build(PLAN, tmp_path / "a")
    assert outside.read_text() == "mine"


def test_the_report_of_another_study_is_not_replaced(tmp_path: Path) -> None:
    build(PLAN, tmp_path)
    before = contents(tmp_path)
    with pytest.raises(HarnessError, match=r"holds that of 'mafn & friends', not of 'other'; give another folder"):
        build(replace(PLAN, study="other"), tmp_path)
    assert contents(tmp_path) == before


def test_a_report_that_was_killed_does_not_lock_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(PLAN, tmp_path / "a")
    fewer = replace(PLAN, tables=PLAN.tables[:1])
    copied = []

    def killed(source: Path, target: Path) -> None:
        copied.append(target.write_bytes(source.read_bytes()))
        if len(copied) == 3:
            raise KeyboardInterrupt

    for plan, folder in ((PLAN, "new"), (fewer, "a")):
        copied.clear()
        with monkeypatch.context() as patch:
            patch.setattr(reports.report_folder.shutil, "copyfile", killed)
            with pytest.raises(KeyboardInterrupt, match=r"^$"):
                build(plan, tmp_path / folder)
        manifest = read_manifest(tmp_path / folder)
        assert manifest is not None
        here = {name.removesuffix(".part") for name in contents(tmp_path / folder)}
        assert here <= {*manifest.files, "manifest.json"}
    build(fewer, tmp_path / "a")
    build(fewer, tmp_path / "new")
    build(fewer, tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "new") == contents(tmp_path / "b")


def test_a_folder_of_the_harness_takes_a_report_whatever_was_left_there(tmp_path: Path) -> None:
    write(tmp_path, "tables.tex", "report.html", "note.txt")
    files = build(PLAN, tmp_path, is_own=True)
    assert files.document.read_text().startswith("%")
    assert (tmp_path / "note.txt").read_text() == "mine: note.txt"
    (tmp_path / "tables.tex").unlink()
    (tmp_path / "tables.tex").mkdir()
    with pytest.raises(HarnessError, match=r"in its way: tables\.tex/; give"):
        build(PLAN, tmp_path, is_own=True)


def test_reports_of_several_drivers_wait_for_each_other(tmp_path: Path) -> None:
    files = build(PLAN, tmp_path / "a")
    manifest = read_manifest(tmp_path / "a")
    assert manifest is not None
    (tmp_path / "b").mkdir()
    with ThreadPoolExecutor(8) as pool:
        job = partial(replace_report, tmp_path / "b", files.document.parent, manifest, is_own=False)
        jobs = [pool.submit(job) for _ in range(24)]
    assert [job.exception() for job in jobs] == [None] * 24
    assert contents(tmp_path / "b") == contents(tmp_path / "a")


def test_what_cannot_be_a_folder_is_one_line(harness: Command, ran_tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    report = ["report", ran_tiny / "tiny.yaml", "--storage", ran_tiny]
    for place in (tmp_path / "file", tmp_path / "file" / "below", "/proc/none"):
        assert_refused(
            harness(*report, "--out", place), "a report's folder must be one that can be written to", str(place)
        )
    assert_refused(harness(*report, "--out", ""), "--out must name a folder, got ''")
    assert_refused(harness("rebuild", "any.tar.gz", "--out", ""), "--out must name a folder, got ''")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_paper_keeps_its_files(harness: Command, ran_tiny: Path, tmp_path: Path) -> None:
    report = ["report", ran_tiny / "tiny.yaml", "--storage", ran_tiny]
    mine = write(tmp_path / "paper", "figures/arch.pdf", "tables.tex")
    refused = harness(*report, "--out", tmp_path / "paper")
    assert_refused(refused, f"{tmp_path / 'paper'} has others in its way: tables.tex; give an empty folder")
    assert contents(tmp_path / "paper") == mine
    (tmp_path / "paper" / "tables.tex").unlink()
    assert harness(*report, "--out", tmp_path / "paper").code == 0
    assert harness(*report, "--out", tmp_path / "paper").code == 0
    assert (tmp_path / "paper" / "figures" / "arch.pdf").read_bytes() == mine["figures/arch.pdf"]
    own = ran_tiny / "reports" / "tiny"
    (own / "manifest.json").unlink()
    assert harness(*report, "--out", own).code == 0
