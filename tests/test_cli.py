"""The command line as a user meets it: what is printed, what is written, what the exit code says."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from markupsafe import escape

from harness.errors import TrialStopped
from harness.records import Trial, TrialResult
from harness.train import TrialContext
from harness.verbs.options import default_storage
from tests.command import Command, assert_refused
from tests.conftest import ROOT
from tests.tiny import write_study

Change = tuple[str, str]


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (("model.decoder: [", "model.decodr: ["), ("tiny.yaml:", "model.decodr", "did you mean 'decoder'")),
        (("metric: miou", "metric: mious"), ("tiny.yaml:", "unknown metric 'mious'", "did you mean 'miou'")),
        (("name: mafn", "name: mafm"), ("tiny.yaml:", "'mafm'", "did you mean 'mafn'")),
        (("  epochs: 3", "  epoch: 3"), ("tiny.yaml:", "epoch", "epochs")),
        (
            ("image_size: 32, synthetic: {train: 10, val: 5, test: 4, size: 32}", "root: no-such-folder"),
            ("tiny.yaml:", "must be a folder", "--set data.root=DIR"),
        ),
    ],
)
def test_misspelt_studies(harness: Command, tmp_path: Path, change: Change, parts: tuple[str, ...]) -> None:
    assert_refused(harness("run", write_study(tmp_path, change), "--executor", "local"), *parts)


def test_misspelt_commands(harness: Command, tmp_path: Path) -> None:
    study = write_study(tmp_path)
    assert_refused(harness("rnu"), "No such command 'rnu'", "Did you mean 'run'")
    assert_refused(harness("run", study, "--storag", "x"), "--storag")
    assert_refused(harness("run"), "Missing argument")
    assert_refused(harness("run", study, "--executor", "locale"), "--executor must be 'ray' or 'local', got 'locale'")
    assert_refused(harness("run", study, "--set", "train.epoch=3"), "epoch", "epochs")
    assert_refused(harness("run", tmp_path / "missing.yaml"), "missing.yaml")
    assert_refused(harness("report", study), "nothing has been recorded in", "harness run")
    assert_refused(harness("data", "check", "rrsis-d", "x"), "unknown dataset 'rrsis-d'", "rrsis_d")
    assert_refused(harness("data", "check", "rrsis_d", tmp_path / "nowhere"), "nowhere")


def test_a_mistake_is_json_where_json_is_asked_for(harness: Command, tmp_path: Path) -> None:
    done = harness("plan", tmp_path / "missing.yaml", "--json")
    assert (done.code, done.err) == (2, f"error: {json.loads(done.out)['error']}\n")
    assert "missing.yaml" in done.err


def test_a_storage_that_cannot_be(harness: Command, tmp_path: Path) -> None:
    study = write_study(tmp_path)
    done = harness("run", study, "--executor", "local", "--storage", study / "below")
    assert_refused(done, "the storage folder must be writable")
    done = harness("plan", study, "--tracking-uri", f"sqlite:///{study}/below/mlflow.db")
    assert_refused(done, "the tracking store", "must be reachable and writable")


def test_help_is_no_error_message(harness: Command) -> None:
    done = harness()
    assert done.code == 2
    assert "error:" not in done.err
    assert "report" in done.out + done.err
    assert harness("--help").code == 0


def test_plan_writes_nothing(harness: Command, tmp_path: Path) -> None:
    study = write_study(tmp_path)
    done = harness("plan", study)
    assert (done.code, done.err) == (0, "")
    assert "MAFN" in done.out
    value = json.loads(harness("plan", study, "--json", "--set", "replicates=2").out)
    assert len(value["trials"]) == 4
    assert value["skipped"] == []
    assert list(Path.cwd().iterdir()) == []


SEARCH = "search: {space: {train.lr: {choices: [2.0e-3, 4.0e-3]}}, sampler: grid}\nvariants:\n"


def test_variants_are_tuned_before_they_are_compared(harness: Command, tmp_path: Path, empty_store: Path) -> None:
    study = write_study(tmp_path, ("variants:\n", SEARCH), ("[arc, msrc]", "[msrc]"), ("epochs: 3", "epochs: 1"))
    storage = tmp_path / "runs"
    storage.mkdir()
    shutil.copy(empty_store, storage)
    before = harness("plan", study, "--storage", storage)
    assert "2 search trials to run first, for 1 variant still to be tuned" in before.out
    assert "to be tuned: 2 trials" in before.out
    assert "no variant has been tuned yet; run `harness run" in harness("report", study, "--storage", storage).err
    done = harness("run", study, "--executor", "local", "--storage", storage)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert sum(line.startswith("complete  MAFN (search)") for line in lines) == 2
    assert sum(line.startswith("complete  MAFN #0") for line in lines) == 1
    after = json.loads(harness("plan", study, "--storage", storage, "--json").out)
    (search,) = after["searches"]
    assert (search["done"], search["spent"]["complete"]) == (True, 2)
    (trial,) = after["trials"]
    assert trial["state"] == "done"
    kept = json.loads((storage / "trials" / trial["id"] / "trial.json").read_text())
    assert kept["train"]["lr"] == search["best"]["values"]["train.lr"]
    table = (storage / "reports" / "tiny" / "decoder.md").read_text()
    assert "Tuned on the validation split in 2 trials (2 complete; " in table
    again = harness("run", study, "--executor", "local", "--storage", storage)
    assert again.code == 0
    assert "started" not in again.out


@pytest.mark.parametrize(
    ("verb", "value", "message"),
    [
        ("plan", "rrsisd", "no published numbers named 'rrsisd'; did you mean 'rrsis_d'?"),
        ("run", "rrsisd", "no published numbers named 'rrsisd'; did you mean 'rrsis_d'?"),
        ("plan", "whu_opt_sar", "published numbers of WHU-OPT-SAR have no table 'components'"),
    ],
)
def test_numbers_that_a_table_quotes_must_be_there_before_anything_runs(
    harness: Command, verb: str, value: str, message: str
) -> None:
    done = harness(verb, ROOT / "experiments" / "demo.yaml", "--set", f"report.tables.0.published={value}")
    assert_refused(done, "report.tables.0.published: ", message)


def test_plan_without_the_data_says_so(harness: Command, tmp_path: Path) -> None:
    data = "image_size: 32, synthetic: {train: 10, val: 5, test: 4, size: 32}"
    study = write_study(tmp_path, (data, "root: no-such-folder"))
    done = harness("plan", study, "--json")
    assert done.code == 0
    assert len(json.loads(done.out)["trials"]) == 2
    assert "ids are provisional" in done.err


def test_run_report_and_run_again(harness: Command, tmp_path: Path) -> None:
    study = write_study(tmp_path, ("  epochs: 3", "  epochs: 1"))
    first = harness("run", study, "--executor", "local")
    assert (first.code, first.err) == (0, "")
    runs = Path("runs").absolute()
    assert f"storage {runs}" in first.out
    assert first.out.count("complete  ") == 2
    tables = runs / "reports" / "tiny"
    before = (tables / "decoder.md").read_text()
    assert {"decoder.tex", "decoder.md", "decoder.csv", "manifest.json"} <= {p.name for p in tables.iterdir()}
    assert f"mlflow ui --backend-store-uri sqlite:///{runs}/mlflow.db" in first.out

    written = {p: p.stat().st_mtime_ns for p in runs.glob("trials/*/*")}
    again = harness("run", study, "--executor", "local")
    assert (again.code, again.err) == (0, "")
    assert "started" not in again.out
    assert {p: p.stat().st_mtime_ns for p in runs.glob("trials/*/*")} == written

    (tables / "decoder.md").unlink()
    rebuilt = harness("report", study, "--json")
    assert rebuilt.code == 0
    assert str(tables / "decoder.md") in json.loads(rebuilt.out)["files"]
    assert f"tables     {tables}" in rebuilt.err
    assert f"page       {tables / 'report.html'}" in rebuilt.err
    page = (tables / "report.html").read_text(encoding="utf-8")
    assert "<dt>torch</dt>" in page
    assert escape(study.read_text(encoding="utf-8")) in page
    assert (tables / "decoder.md").read_text() == before
    assert json.loads(harness("run", study, "--executor", "local", "--json").out)["counts"] == {
        "trials": 2,
        "failed": 0,
        "left": 0,
    }
    power = harness("power", study)
    assert power.code == 0
    assert "decoder: mIoU, validation, difference to “decoder = msrc” (points)" in power.out
    assert json.loads(harness("plan", study, "--json").out)["counts"]["missing"] == 0


def test_an_interrupted_study_says_how_to_go_on(
    harness: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = write_study(tmp_path)

    def interrupted(trial: Trial, context: TrialContext) -> TrialResult:
        assert not context.stop_requested()
        os.kill(os.getpid(), signal.SIGINT)
        assert context.stop_requested()
        raise TrialStopped(trial.id)

    monkeypatch.setattr("harness.local_executor.run_trial", interrupted)
    result = harness("run", study, "--executor", "local")
    assert result.code == 130
    assert result.err == (
        "stopping: no more trials are started, the running ones save their state; again to end at once\n"
        "2 of 2 trials are left; the same command goes on, with those that had started from their last saved state\n"
    )
    assert not list(tmp_path.glob("**/claim.json")), "nothing is claimed by a driver that is gone"


def test_a_failing_trial(harness: Command, tmp_path: Path) -> None:
    changes = (
        ("axes: {model.decoder: [arc, msrc]}", "axes: {model.text.max_tokens: [12]}"),
        ("epochs: 3", "epochs: 1"),
    )
    study = write_study(tmp_path, *changes, ("global_batch: 4", "global_batch: 11"))
    done = harness("run", study, "--executor", "local")
    assert done.code == 1
    lines = done.err.splitlines()
    assert "1 of 1 trials failed:" in lines
    (line,) = [line for line in lines if "MAFN #0" in line]
    assert "train.global_batch must be at most the number of training samples, got 11 for 10" in line
    (folder,) = [line.split()[-1] for line in lines if "files:" in line]
    assert "Traceback" in json.loads((Path(folder) / "result.json").read_text())["error"]


def test_data(harness: Command, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    done = harness("data", "synth", "rrsis_d", folder, "--train", 4, "--val", 2, "--test", 2, "--size", 32)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("rrsis_d: 4 + 2 + 2 samples in ")
    done = harness("data", "check", "rrsis_d", folder)
    assert done.code == 0
    assert "RRSIS-D: 8 samples" in done.out
    next(folder.rglob("*.jpg")).unlink()
    assert harness("data", "check", "rrsis_d", folder).code == 1
    done = harness("data", "check", "rrsis_d", folder, "--json")
    assert done.code == 1
    assert json.loads(done.out)["counts"] == {"train": 4, "val": 2, "test": 2}


def test_data_of_a_semantic_dataset_with_known_defects(harness: Command, tmp_path: Path) -> None:
    folder = tmp_path / "ready"
    done = harness(
        "data", "synth", "vaihingen", folder, "--train", 99, "--val", 2, "--test", 2, "--size", 32, "--quirks"
    )
    assert (done.code, "vaihingen: 11 + 2 + 2 samples" in done.out) == (0, True)
    checked = harness("data", "check", "vaihingen", folder)
    assert (checked.code, "unknown label codes, ignored: 1" in checked.out) == (0, True)
    next((folder / "dsm").glob("*.tif")).unlink()
    assert_refused(harness("data", "check", "vaihingen", folder), "must be a raster file, found: No such file")


def test_list(harness: Command) -> None:
    listed = json.loads(harness("list", "--json").out)
    assert {"kind": "metric", "name": "oiou"}.items() <= next(x for x in listed if x["name"] == "oiou").items()
    done = harness("list")
    assert done.code == 0
    for name in ("mafn", "rrsis_d", "oiou"):
        assert name in done.out


def test_a_submitted_job_keeps_its_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert default_storage() == Path("runs")
    unpacked = tmp_path / "runtime_resources" / "working_dir_files" / "x"
    unpacked.mkdir(parents=True)
    monkeypatch.chdir(unpacked)
    assert default_storage() == Path.home() / "harness-runs"
