"""Stale figures: flagged where a trial's own code or data changed, marked once per row, and cheap to find."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.artifacts import MlflowArtifacts
from harness.code_reach import Changes
from harness.frozen_code import code_files, code_sha, hash_files
from harness.origins import origins
from harness.panels import DatasetPanels
from harness.records import Plan
from harness.results import results_frame
from reports.answer import answer
from reports.artifacts import Sources
from reports.build import fill_tables
from reports.csv_table import render_csv
from reports.latex import Origin as LatexOrigin
from reports.latex import render_table
from reports.markdown import render_markdown
from reports.numbers import numbers_of, render_numbers
from reports.origins import Origin
from reports.results import Results
from reports.stale import mark_stale, stale_notes
from reports.table_model import Flag, TableModel
from reports.terminal import render_terminal
from tests.command import Command
from tests.conftest import ROOT
from tests.report_frame import make_frame, make_plan, make_trial
from tests.test_explain import EPOCHS
from tests.test_tables import build, row_of
from tests.tiny import tiny_plan

CHANGED = ("code of the model: models/mafn.py",)


def come_from(plan: Plan, stale: Collection[str], cause: tuple[str, ...] = CHANGED) -> dict[str, Origin]:
    """Origins of the completed runs of `make_frame`."""
    return {t.id: Origin(f"{t.id}complete1", stale=cause if t.id in stale else ()) for t in plan.trials}


def notes_of(model: TableModel) -> dict[str, str]:
    return {note.mark: note.text for note in model.footnotes if note.mark.startswith("stale")}


def test_a_stale_row_is_marked_once_and_each_of_its_figures_flagged() -> None:
    plan = make_plan()
    model = build("components", costs=True)
    ids = next(row for row in plan.tables[1].rows if row.label == "+ adaptive noise").trial_ids
    found = mark_stale(model, plan, come_from(plan, ids))
    row, before = row_of(found, "+ adaptive noise"), row_of(model, "+ adaptive noise")
    assert all(Flag.STALE in cell.flags for cell in row.cells)
    assert [cell.marks for cell in row.cells] == [cell.marks for cell in before.cells]
    assert row.marks == ("stale",)
    assert notes_of(found) == {"stale": f"Stale: changed since its trials ran: {CHANGED[0]}"}
    assert [r for r, c in found.cells() if c.stale and r.label != row.label] == []
    assert stale_notes([found])[0].startswith("8 of 31 figures are stale (table components): code or data")
    unmarked = [note for note in found.footnotes if not note.mark]
    assert found.footnotes[-len(unmarked) :] == tuple(unmarked)


def test_differences_to_a_stale_reference_are_stale() -> None:
    plan = make_plan()
    full = plan.tables[1].rows[-1]
    found = mark_stale(build("components"), plan, come_from(plan, full.trial_ids))
    assert row_of(found, "+ MSRC").marks == ("stale 2",)
    row = row_of(found, "default")
    assert row.marks == ()
    assert [bool(cell.stale) for cell in row.cells] == [False] * 5 + [True]
    assert row.cells[-1].marks == ("*", "stale")
    assert notes_of(found)["stale"] == f"Stale: changed since the reference ran: {CHANGED[0]}"


def test_replicates_are_named_where_only_some_are_stale() -> None:
    plan = make_plan()
    rows = {row.label: row for row in plan.tables[2].rows}
    some = {*rows["[1, 3, 5, 7]"].trial_ids[1:], *rows["[1, 3]"].trial_ids[:1]}
    found = mark_stale(build("kernels"), plan, come_from(plan, some, ("a" * 200,)))
    assert notes_of(found) == {
        "stale": f"Stale: changed since replicate 0 ran: {'a' * 159}…",
        "stale 2": f"Stale: changed since replicates 1 and 2 ran: {'a' * 159}…",
    }
    all_that_ran = mark_stale(build("kernels"), plan, come_from(plan, rows["[1]"].trial_ids))
    assert notes_of(all_that_ran) == {"stale": f"Stale: changed since its trials ran: {CHANGED[0]}"}


def test_what_is_not_stale_is_left_alone() -> None:
    plan, model = make_plan(), build("comparison")
    assert mark_stale(model, plan, come_from(plan, ())) == model
    assert mark_stale(model, plan, {}) == model
    lost = plan.tables[0].rows[3]
    failed = {t: Origin(f"{t}failed1", stale=CHANGED) for t in lost.trial_ids}
    assert mark_stale(model, plan, failed) == model, "a row that failed has no figure to be stale"
    assert stale_notes([model]) == []


def test_every_renderer_shows_it() -> None:
    plan = make_plan()
    ids = plan.tables[1].rows[0].trial_ids
    model = mark_stale(build("components"), plan, come_from(plan, ids))
    assert "default<sup>stale</sup>" in render_markdown(model)
    assert "<sup>stale</sup>Stale: changed since its trials ran" in render_markdown(model)
    assert r"default\textsuperscript{stale}" in render_table(model)
    assert "default stale" in [str(cell) for cell in render_terminal(model).columns[0].cells]
    lines = list(csv.DictReader(io.StringIO(render_csv(model))))
    said = {line["row"]: line["stale"] for line in lines if line["published"] == "false"}
    assert said["default"] == f"changed since its trials ran: {CHANGED[0]}"
    assert {text for label, text in said.items() if label != "default"} == {""}


@pytest.fixture(scope="module")
def recorded(ran_tiny: Path) -> tuple[Path, Plan, MlflowArtifacts]:
    return ran_tiny, tiny_plan(ran_tiny, EPOCHS), MlflowArtifacts(f"sqlite:///{ran_tiny / 'mlflow.db'}")


def copy_of_code(folder: Path) -> Path:
    for package in ("harness", "models", "reports"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_documents_are_fetched_once_per_state_of_the_code_and_not_at_all_for_the_present_one(
    recorded: tuple[Path, Plan, MlflowArtifacts], tmp_path: Path
) -> None:
    storage, plan, artifacts = recorded
    frame = results_frame(f"sqlite:///{storage / 'mlflow.db'}", (t.id for t in plan.trials))
    asked: list[str] = []

    def document(run_id: str) -> dict[str, Any] | None:
        asked.append(run_id)
        return artifacts.document(run_id, "code.json")

    now = origins(Results(plan, frame), Changes(code_files(), document), storage)
    assert asked == []
    assert [(o.stale, o.also) for o in now.values()] == [((), ())] * len(plan.trials)
    one = now[plan.trials[0].id]
    assert (one.log, one.dirty is None) == (f"trials/{plan.trials[0].id}/log-0.txt", False)
    assert (storage / one.checkpoint).is_file()
    assert not Path(one.checkpoint).is_absolute()
    assert one.data_fingerprint == plan.trials[0].data_fingerprint
    code = copy_of_code(tmp_path)
    with (code / "models" / "mafn.py").open("a") as file:
        file.write("# longer\n")
    then = origins(Results(plan, frame), Changes(code_files(code), document), storage)
    assert len(asked) == 1
    assert {o.stale for o in then.values()} == {CHANGED}
    sources = Sources(artifacts, DatasetPanels(plan.trials[0], storage), then)
    filled = fill_tables(Results(replace(plan, breakdowns=("cost",)), frame, sources), published_dir=storage)
    cells = [c for _, c in filled.tables[0].cells() if c.value is not None]
    assert all(c.stale for c in cells)
    counted = f"{len(cells)} of {len(cells)} figures are stale (table decoder)"
    assert filled.doubts[0].startswith(counted)
    assert answer(plan, filled.tables, finished=len(plan.trials)).endswith(f"; {counted}.")
    numbers = render_numbers(numbers_of(filled.tables), LatexOrigin(plan.study, plan.spec_sha))
    said = [line for line in numbers.splitlines() if line.startswith("% stale: ")]
    assert said[0].startswith(r"% stale: \res{decoder}{")
    assert said[0].endswith("code of the model: models/mafn.py")
    costs = pd.read_csv(io.StringIO(filled.csv["breakdown_cost_decoder"]))
    assert costs["stale"].str.endswith("code of the model: models/mafn.py").all()


def test_the_command_says_how_many_figures_are_stale(
    harness: Command, ran_tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = copy_of_code(tmp_path / "code")
    with (code / "harness" / "data" / "rrsis_d.py").open("a") as file:
        file.write("# longer\n")
    monkeypatch.setattr("harness.frozen_code.code_files", lambda: code_files(code))
    words = ["report", ran_tiny / "tiny.yaml", "--storage", ran_tiny, "--out", tmp_path / "report"]
    done = harness(*words)
    assert done.code == 0
    assert "note: 9 of 9 figures are stale (table decoder): code or data" in done.err
    assert "code of the data: harness/data/rrsis\\_d.py" in (tmp_path / "report" / "decoder.md").read_text()


def test_a_run_that_did_not_record_its_code_is_not_known_to_be_stale() -> None:
    here = code_files()
    changes = Changes(here, lambda _: None)
    trial = make_trial("v", 0)
    found = changes.since(trial, "run", "")
    assert found == ((), ("not known whether code changed: the run has no code.json",))
    assert changes.since(trial, "run", code_sha(hash_files(here))) == ((), ())
    frame = make_frame(make_plan())
    known = origins(Results(make_plan(), frame.assign(data_fingerprint="other")), changes, Path())
    one = next(iter(known.values()))
    assert one.stale == ("data: fingerprint other, now ffffffffffff",)
    assert replace(one, stale=()).commit == "c0ffee"
