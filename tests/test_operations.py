"""Watching, stopping, retrying and comparing trials, as a user meets it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness.claims import DRIVERS, read_drivers
from harness.records import Fault, TrialResult, TrialState
from harness.trial_folder import append_attempt, read_result, write_result
from tests.command import Command, Done
from tests.conftest import ROOT


@pytest.fixture
def storage(ran_tiny: Path, tmp_path: Path) -> Path:
    """A copy of what the tiny study left."""
    return Path(shutil.copytree(ran_tiny, tmp_path / "storage"))


def ids(storage: Path) -> dict[str, str]:
    """Variant -> trial id."""
    found = [
        json.loads(p.read_text(encoding="utf-8")) | {"id": p.parent.name} for p in storage.glob("trials/*/trial.json")
    ]
    return {trial["variant"]: trial["id"] for trial in found}


def fail(storage: Path, trial_id: str, fault: Fault, error: str) -> Path:
    """Let a trial have failed."""
    folder = storage / "trials" / trial_id
    folder.mkdir(exist_ok=True)
    write_result(folder, TrialResult(trial_id, TrialState.FAILED, error=error, fault=fault))
    return folder


def refused(done: Done) -> str:
    """The only line on stderr of a command that refused what it was given."""
    assert (done.code, done.out) == (2, "")
    (line,) = done.err.splitlines()
    return line


@contextmanager
def driven(storage: Path, trial_id: str) -> Iterator[subprocess.Popen[str]]:
    """Another process runs a trial of the tiny study."""
    words = [sys.executable, "-m", "tests.driver", str(storage), "tiny", trial_id]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(words, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "driving\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_storage_folder_that_was_copied_is_reported_but_not_written_to(
    harness: Command, ran_tiny: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(ran_tiny, tmp_path / "copy"))
    refused = f"a storage folder must be where MLflow has recorded its files, {ran_tiny}; it is {copy} now"
    done = harness("run", copy / "tiny.yaml", "--executor", "local", "--storage", copy)
    assert (done.code, done.err.splitlines()) == (
        2,
        [f"error: {refused}: move it back or link it (ln -s {copy} {ran_tiny})"],
    )
    before = {path: path.stat().st_mtime_ns for path in ran_tiny.rglob("*")}
    done = harness("report", copy / "tiny.yaml", "--storage", copy)
    assert done.code == 0
    assert f"note: the report is written but not in MLflow: {refused}" in done.err
    assert {path: path.stat().st_mtime_ns for path in ran_tiny.rglob("*")} == before


def test_status_of_a_finished_study(harness: Command, ran_tiny: Path) -> None:
    done = harness("status", ran_tiny / "tiny.yaml", "--storage", ran_tiny)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == "tiny: Does the machinery work?"
    assert lines[1] == "2 of 2 trials complete"
    assert lines[2].startswith("used ")
    assert "to go" not in lines[2]
    assert "  decoder = arc   1/1       -        -        -" in lines
    value = status(harness, ran_tiny)
    assert value["done"] is True
    assert value["counts"] == {"trials": 2, "waiting": 0, "running": 0, "complete": 2, "pruned": 0, "failed": {}}
    for trial in value["trials"]:
        assert (trial["epoch"], trial["epochs"]) == (2, 2)
        assert 0 < trial["epoch_s"] < trial["spent_s"]
        result = read_result(ran_tiny / "trials" / trial["id"])
        assert result is not None
        assert trial["score"] == next(s.value for s in result.scores if (s.split, s.metric) == ("val", "miou"))


def status(harness: Command, storage: Path, *words: object) -> dict[str, Any]:
    done = harness("status", storage / "tiny.yaml", "--storage", storage, "--json", *words)
    assert done.code == 0
    value: dict[str, Any] = json.loads(done.out)
    return value


def test_live_ends_when_the_study_is_done(harness: Command, ran_tiny: Path) -> None:
    done = harness("status", ran_tiny / "tiny.yaml", "--storage", ran_tiny, "--live")
    assert (done.code, done.err) == (0, "")
    (line,) = done.out.splitlines()
    assert line.startswith("2 of 2 trials complete; used ")


def test_a_trial_that_only_mlflow_has_is_complete(harness: Command, storage: Path) -> None:
    shutil.rmtree(storage / "trials" / ids(storage)["MAFN"])
    assert status(harness, storage)["counts"]["complete"] == 2
    done = harness(
        "status", storage / "tiny.yaml", "--storage", storage, "--tracking-uri", f"sqlite:///{ROOT}/README.md"
    )
    assert done.code == 0
    assert "1 of 2 trials complete, 1 waiting" in done.out
    assert "nobody runs it now; harness run goes on with what is missing" in done.out
    assert done.err.startswith("note: the tracking store sqlite:///")


def test_each_failure_is_named(harness: Command, storage: Path) -> None:
    mafn, arc = ids(storage)["MAFN"], ids(storage)["decoder = arc"]
    error = "Traceback (most recent call last):\n  File x\nDivergedError: the loss is nan in step 7\n"
    fail(storage, mafn, Fault.DIVERGED, error)
    append_attempt(fail(storage, arc, Fault.MEMORY, "OutOfMemoryError: no [bold] memory\n"), {"fault": "out of memory"})
    done = harness("status", storage / "tiny.yaml", "--storage", storage)
    assert "0 of 2 trials complete, 1 failed: out of memory, 1 failed: diverged" in done.out
    assert f"  {mafn}  MAFN #0           diverged: DivergedError: the loss is nan in step 7" in done.out
    assert "OutOfMemoryError: no [bold] memory" in done.out
    assert f"harness logs {arc}" in done.out
    counts = status(harness, storage)
    assert counts["counts"]["failed"] == {"out of memory": 1, "diverged": 1}
    assert counts["tables"][0]["rows"][0]["failed"] == {"out of memory": 1}
    assert [t["restarts"] for t in counts["trials"]] == [1, 0]
    log = harness("logs", "MAFN#0", "--storage", storage)
    assert (log.code, log.out) == (0, f"this is MAFN\n{error}")
    value = json.loads(harness("logs", mafn[:6], "--storage", storage, "--json").out)
    assert (value["state"], value["log"], value["error"]) == ("FAILED", "this is MAFN\n", error)


def test_a_study_that_runs_can_be_watched_and_stopped(harness: Command, storage: Path) -> None:
    mafn = ids(storage)["MAFN"]
    shutil.rmtree(storage / "trials" / mafn)
    (storage / "mlflow.db").unlink()
    with driven(storage, mafn) as process:
        value = status(harness, storage)
        assert value["counts"]["running"] == 1
        (driver,) = value["drivers"]
        assert (driver["pid"], driver["alive"]) == (process.pid, True)
        running = next(t for t in value["trials"] if t["id"] == mafn)
        other = next(t for t in value["trials"] if t["id"] != mafn)
        assert (running["epoch"], running["score"], running["host"]) == (1, 0.25, driver["host"])
        assert 0 <= value["eta_s"] <= other["spent_s"]
        shown = harness("status", storage / "tiny.yaml", "--storage", storage).out
        assert f"driven by process {process.pid} on {driver['host']}" in shown
        assert "epoch 1/2" in shown
        threading.Timer(0.5, lambda: stop_file(storage).write_text("now")).start()
        followed = harness("logs", mafn, "--storage", storage, "--follow")
        assert (followed.code, followed.out) == (0, "first epoch\nasked to stop: 'now'\n")
        process.wait(timeout=10)
    done = harness("status", storage / "tiny.yaml", "--storage", storage)
    assert "MAFN #0  1/2 epochs done" in done.out


def stop_file(storage: Path) -> Path:
    (driver,) = read_drivers(storage)
    return storage / DRIVERS / f"{driver.token}.stop"


def test_stop(harness: Command, storage: Path) -> None:
    study, mafn = storage / "tiny.yaml", ids(storage)["MAFN"]
    done = harness("stop", study, "--storage", storage)
    assert (done.code, done.out, done.err) == (0, f"nobody runs tiny in {storage}\n", "")
    with driven(storage, mafn) as process:
        done = harness("stop", study, "--storage", storage)
        assert (done.code, done.err) == (0, "")
        assert f"asked process {process.pid} on " in done.out
        assert f"tiny has stopped; it goes on with: harness run {study} --storage {storage}" in done.out
        process.wait(timeout=10)
    with driven(storage, mafn) as process:
        os.kill(process.pid, 19)  # SIGSTOP: it lives and does not listen
        done = harness("stop", study, "--storage", storage, "--now", "--wait", 0.2, "--json")
        assert done.code == 1
        assert "tiny still runs after 0.2 s" in done.err
        assert [d["pid"] for d in json.loads(done.out)["asked"]] == [process.pid]
        assert stop_file(storage).read_text() == "now"
    value = json.loads(harness("stop", study, "--storage", storage, "--json").out)
    assert (value["asked"], value["left"]) == ([], [])


def test_retry(harness: Command, storage: Path) -> None:
    study, mafn, arc = storage / "tiny.yaml", ids(storage)["MAFN"], ids(storage)["decoder = arc"]
    place = ("--storage", storage)
    assert harness("retry", study, "--failed", *place).out == "no trial failed\n"
    folders = [fail(storage, mafn, Fault.DIVERGED, "nan"), fail(storage, arc, Fault.MEMORY, "no memory")]
    done = harness("retry", study, "--fault", "diverged", "--set", "train.epochs=2", *place)
    again = f"harness run {study} --set train.epochs=2 --storage {storage}"
    assert done.out == f"{mafn}  MAFN #0  diverged\n1 to try again: {again}\n"
    assert [read_result(f) is None for f in folders] == [True, False]
    assert all(list(f.glob("state-*.pt")) for f in folders)
    assert "is without a result" in refused(harness("retry", study, mafn, *place))
    assert "add --yes" in refused(harness("retry", study, "decoder = arc#0", "--from-scratch", *place))
    assert list(folders[1].glob("state-*.pt"))
    done = harness("retry", study, "decoder = arc#0", "--from-scratch", "--yes", "--json", *place)
    assert [(t["id"], t["fault"]) for t in json.loads(done.out)["cleared"]] == [(arc, "out of memory")]
    assert not [p.name for p in folders[1].iterdir() if p.suffix == ".pt" or p.name in ("history.jsonl", "result.json")]
    assert (folders[1] / "log-0.txt").exists()


def test_diff(harness: Command, storage: Path) -> None:
    mafn, arc = ids(storage)["MAFN"], ids(storage)["decoder = arc"]
    done = harness("diff", arc[:5], "MAFN#0", "--storage", storage)
    assert (done.code, done.err) == (0, "")
    assert [line.split() for line in done.out.splitlines()] == [
        ["what", "can", "change", "the", "result"],
        [arc, "decoder", "=", "arc", "#0", mafn, "MAFN", "#0"],
        ["model.decoder", '"arc"', '"msrc"'],
    ]
    same = harness("diff", mafn, mafn, "--storage", storage)
    assert same.out == "the same configuration, under the same circumstances as far as is known\n"
    path = storage / "trials" / arc / "trial.json"
    changed = json.loads(path.read_text())
    changed["resources"]["workers"] = 4
    del changed["model"]["kernels"]
    path.write_text(json.dumps(changed))
    value = json.loads(harness("diff", arc, mafn, "--storage", storage, "--json").out)
    assert value["configuration"] == [
        {"path": "model.decoder", "first": '"arc"', "second": '"msrc"'},
        {"path": "model.kernels", "first": "-", "second": "[1,3]"},
    ]
    assert value["circumstances"] == [{"path": "resources.workers", "first": "4", "second": "1"}]
    path.unlink()
    assert "name its study with --study" in refused(harness("diff", arc, mafn, "--storage", storage))
    assert harness("diff", "decoder = arc #0", mafn, "--storage", storage, "--study", storage / "tiny.yaml").code == 0


def test_what_is_mistyped(harness: Command, storage: Path) -> None:
    study, place = storage / "tiny.yaml", ("--storage", storage)
    mafn = ids(storage)["MAFN"]
    assert f"did you mean '{mafn}'" in refused(harness("logs", mafn[:-1] + "x", *place))
    assert "did you mean 'MAFN #0'" in refused(harness("logs", "MAFM#0", *place))
    assert "is not there; see --storage" in refused(harness("status", study, "--storage", storage / "nowhere"))
    assert "leave one out" in harness("status", study, *place, "--live", "--json").err
    assert "did you mean 'diverged'" in refused(harness("retry", study, *place, "--fault", "divergd"))
    assert "say --failed for all that failed" in refused(harness("retry", study, *place))
    assert "--rank must be one of 0, got 3" in refused(harness("logs", mafn, *place, "--rank", 3))
    assert "Did you mean 'status'" in refused(harness("statsu", study))
    (storage / "trials" / mafn / "log-0.txt").unlink()
    done = harness("logs", mafn, *place)
    assert (done.code, done.out) == (0, "")
    assert "no log of worker 0: the trial is COMPLETE, its files are in" in done.err
