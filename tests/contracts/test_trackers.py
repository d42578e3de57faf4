"""What a record of studies must do, on a fresh MLflow store."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

import harness.courier
import harness.delivery
import harness.tracking
from harness.delivery import params_of
from harness.environment import Code
from harness.errors import TrackingError
from harness.records import Fault, Plan, Score, Trial, TrialResult, TrialState
from harness.sync import sync
from harness.tracking import MlflowTracker, default_uri
from harness.trial_folder import EpochScores
from tests.tiny import tiny_plan


@pytest.fixture
def plan(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Two variants with two replicates, and a store without runs."""
    shutil.copy(empty_store, tmp_path)
    monkeypatch.setattr(harness.tracking, "code_state", lambda: Code("c0ffee", True))
    monkeypatch.setattr(harness.tracking, "code_diff", lambda: "+ a line")
    return tiny_plan(tmp_path, ("replicates: 1", "replicates: 2"))


def opened(storage: Path, plan: Plan, text: str = "name: tiny") -> MlflowTracker:
    tracker = MlflowTracker(default_uri(storage), storage)
    tracker.open(plan, text)
    return tracker


def client(storage: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=default_uri(storage))


def runs(storage: Path, study: str = "tiny", **tags: str) -> list[Run]:
    """Runs of a study with the given `harness.` tags, oldest first."""
    query = " and ".join(f"tags.`harness.{name}` = '{value}'" for name, value in tags.items())
    experiment = client(storage).get_experiment_by_name(study).experiment_id
    return list(client(storage).search_runs([experiment], query, order_by=["attributes.start_time"]))


def epoch(number: int, miou: float = 0.1) -> EpochScores:
    return EpochScores(number, {"train/loss": 1.0 / number, "val/miou": miou}, 1_700_000_000.0 + number)


def complete(trial: Trial, value: float) -> TrialResult:
    scores = (Score("val", "miou", value), Score("test", "oiou", value / 2))
    return TrialResult(
        trial.id, TrialState.COMPLETE, scores, best_epoch=2, cost={"gmacs": 1.5}, checkpoint="/x/best-2.pt"
    )


def finish(tracker: MlflowTracker, trial: Trial, folder: Path, value: float) -> None:
    tracker.started(trial)
    tracker.finished(trial, complete(trial, value), folder)
    settle(tracker)


def settle(tracker: MlflowTracker) -> None:
    """Wait until the store has everything."""
    assert tracker.flush(20) == 0


def folder_of(storage: Path) -> Path:
    """A trial's folder with files."""
    folder = storage / "folder"
    folder.mkdir(exist_ok=True)
    (folder / "samples_val.parquet").write_bytes(b"rows")
    (folder / "environment.json").write_text("{}")
    return folder


def test_structure_and_tags(tmp_path: Path, plan: Plan) -> None:
    tracker = opened(tmp_path, plan)
    trial = plan.trials[1]
    tracker.started(trial)
    tracker.reported(trial, epoch(1))
    tracker.reported(trial, epoch(2, 0.3))
    tracker.finished(trial, complete(trial, 0.5), folder_of(tmp_path))
    settle(tracker)

    store = client(tmp_path)
    experiment = store.get_experiment_by_name("tiny")
    assert experiment.tags["mlflow.note.content"] == plan.question
    assert experiment.tags["harness.spec_sha"] == plan.spec_sha
    assert Path(experiment.artifact_location.removeprefix("file://")).is_relative_to(tmp_path)
    parents = {run.info.run_name: run for run in runs(tmp_path, kind="variant")}
    assert parents.keys() == {t.variant for t in plan.trials}
    (child,) = runs(tmp_path, kind="trial")
    tags = child.data.tags
    assert tags["mlflow.parentRunId"] == parents[trial.variant].info.run_id
    assert {name: tags[f"harness.{name}"] for name in ("trial_id", "variant", "replicate", "git_commit", "dirty")} == {
        **{"trial_id": trial.id, "variant": trial.variant, "replicate": "1", "git_commit": "c0ffee", "dirty": "true"}
    }
    assert tags["harness.spec_sha"] == plan.spec_sha
    assert tags["harness.data_fingerprint"] == trial.data_fingerprint
    assert "harness.version.torch" in tags
    assert tags["harness.checkpoint"] == "/x/best-2.pt"
    assert child.info.status == "FINISHED"
    assert child.data.params["model.kernels"] == "[1, 3]"
    assert child.data.params["train.lr"] == "0.002"
    assert child.data.metrics == {
        **{"val/miou": 0.5, "test/oiou": 0.25, "cost/gmacs": 1.5, "epoch/train/loss": 0.5, "epoch/val/miou": 0.3}
    }
    files = {f.path for f in store.list_artifacts(child.info.run_id)}
    assert files == {"trial.json", "samples_val.parquet", "environment.json", "code.diff"}
    kept = store.download_artifacts(child.info.run_id, "trial.json", str(tmp_path))
    assert Trial.from_json(json.loads(Path(kept).read_text())).id == trial.id


def test_an_epoch_told_again_is_logged_once(tmp_path: Path, plan: Plan) -> None:
    trial = plan.trials[0]
    first = opened(tmp_path, plan)
    first.started(trial)
    for number in (1, 2, 1, 2):
        first.reported(trial, epoch(number))
    settle(first)
    second = opened(tmp_path, plan)  # a driver that takes over
    second.started(trial)
    for number in (1, 2, 3):
        second.reported(trial, epoch(number))
    settle(second)
    (run,) = runs(tmp_path, kind="trial")
    history = client(tmp_path).get_metric_history(run.info.run_id, "epoch/val/miou")
    assert [(m.step, m.timestamp) for m in history] == [(n, 1_700_000_000_000 + 1000 * n) for n in (1, 2, 3)]


def test_a_stopped_trial_waits_in_the_run_that_it_goes_on_with(tmp_path: Path, plan: Plan) -> None:
    trial, found = plan.trials[0], []
    for again in range(2):
        tracker = opened(tmp_path, plan)
        tracker.started(trial)
        tracker.reported(trial, epoch(1 + again))
        settle(tracker)
        found.append(runs(tmp_path, kind="trial"))
        tracker.stopped(trial)
        tracker.close()
        found.append(runs(tmp_path, kind="trial"))
    assert [run.info.status for (run,) in found] == ["RUNNING", "SCHEDULED"] * 2
    assert len({run.info.run_id for (run,) in found}) == 1


def test_an_epoch_trained_again_is_logged_once(tmp_path: Path, plan: Plan) -> None:
    """A trial that goes on from its checkpoint repeats the epochs after it, at other times."""
    trial = plan.trials[0]
    first = opened(tmp_path, plan)
    first.started(trial)
    for number in (1, 2):
        first.reported(trial, epoch(number))
    settle(first)
    second = opened(tmp_path, plan)
    second.started(trial)
    for number in (2, 3):
        second.reported(trial, replace(epoch(number, 0.2), time=1_800_000_000.0 + number))
    settle(second)
    (run,) = runs(tmp_path, kind="trial")
    history = client(tmp_path).get_metric_history(run.info.run_id, "epoch/val/miou")
    assert [(m.step, m.value) for m in history] == [(1, 0.1), (2, 0.1), (3, 0.2)]


def test_a_run_left_before_its_parameters_gets_them(
    tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = plan.trials[0]
    tracker = opened(tmp_path, plan)
    log, calls = harness.delivery.Delivery._log, []

    def lost_once(self: harness.delivery.Delivery, *args: Any, **given: Any) -> None:
        calls.append(args)
        if len(calls) == 1:
            raise ConnectionResetError("the answer was lost")
        log(self, *args, **given)

    monkeypatch.setattr(harness.delivery.Delivery, "_log", lost_once)
    monkeypatch.setattr(harness.courier, "PAUSES", (0.05,))
    tracker.started(trial)
    settle(tracker)
    (run,) = runs(tmp_path, kind="trial")
    assert run.data.params["model.name"] == "mafn"


def test_a_failed_trial_keeps_its_traceback_and_may_run_again(tmp_path: Path, plan: Plan) -> None:
    trial = plan.trials[0]
    tracker = opened(tmp_path, plan)
    tracker.started(trial)
    text = "Traceback (most recent call last):\n  File x\nValueError: the cause\n"
    failed = TrialResult(trial.id, TrialState.FAILED, error=text, fault=Fault.ERROR)
    tracker.finished(trial, failed, folder_of(tmp_path))
    settle(tracker)
    (run,) = runs(tmp_path, kind="trial")
    assert (run.info.status, run.data.tags["harness.error"]) == ("FAILED", "ValueError: the cause")
    store = client(tmp_path)
    assert {f.path for f in store.list_artifacts(run.info.run_id)} == {
        *("trial.json", "environment.json", "traceback.txt", "code.diff")
    }
    assert Path(store.download_artifacts(run.info.run_id, "traceback.txt", str(tmp_path))).read_text() == text
    assert tracker.complete([trial.id]) == frozenset()
    finish(tracker, trial, folder_of(tmp_path), 0.5)
    assert [r.info.status for r in runs(tmp_path, kind="trial")] == ["FAILED", "FINISHED"]
    assert tracker.complete(t.id for t in plan.trials) == {trial.id}


def test_parents_hold_the_means_and_say_how_their_trials_stand(tmp_path: Path, plan: Plan) -> None:
    tracker = opened(tmp_path, plan)
    whole = [t for t in plan.trials if t.variant == plan.trials[0].variant]
    partial = [t for t in plan.trials if t.variant != whole[0].variant]
    for trial, value in zip((*whole, partial[0]), (0.2, 0.4, 0.9), strict=True):
        finish(tracker, trial, folder_of(tmp_path), value)
    tracker.close()
    parents = {run.info.run_name: run for run in runs(tmp_path, kind="variant")}
    first, second = parents[whole[0].variant], parents[partial[0].variant]
    assert first.data.metrics == pytest.approx({"val/miou": 0.3, "test/oiou": 0.15, "cost/gmacs": 1.5})
    assert second.data.metrics["val/miou"] == pytest.approx(0.9)
    assert [p.data.tags["harness.replicates_done"] for p in (first, second)] == ["2", "1"]
    assert [p.info.status for p in (first, second)] == ["FINISHED", "FAILED"]
    opened(tmp_path, plan)
    assert {run.info.status for run in runs(tmp_path, kind="variant")} == {"RUNNING"}
    assert len(runs(tmp_path, kind="variant")) == 2


def test_a_label_that_comes_to_mean_something_else(tmp_path: Path, plan: Plan) -> None:
    """Means are over one configuration: the longer training does not average with the short one."""
    tracker = opened(tmp_path, plan)
    finish(tracker, plan.trials[0], folder_of(tmp_path), 0.2)
    longer = replace(plan, trials=tuple(replace(t, train={**t.train, "epochs": 9}) for t in plan.trials))
    again = opened(tmp_path, longer, "name: tiny # longer")
    finish(again, longer.trials[0], folder_of(tmp_path), 0.8)
    found = [r for r in runs(tmp_path, kind="variant") if r.info.run_name == plan.trials[0].variant]
    assert sorted((r.data.params["train.epochs"], r.data.metrics["val/miou"]) for r in found) == [
        ("3", 0.2),
        ("9", 0.8),
    ]


def test_a_trial_of_another_study_counts(tmp_path: Path, plan: Plan) -> None:
    first = opened(tmp_path, plan)
    for trial in plan.trials:
        finish(first, trial, folder_of(tmp_path), 0.4)
    other = replace(plan, study="other")
    second = opened(tmp_path, other)
    assert second.complete(t.id for t in plan.trials) == {t.id for t in plan.trials}
    second.close()
    for parent in runs(tmp_path, "other", kind="variant"):
        assert parent.info.status == "FINISHED"
        assert parent.data.metrics["val/miou"] == pytest.approx(0.4)
    assert runs(tmp_path, "other", kind="trial") == []


def test_a_deleted_experiment(tmp_path: Path, plan: Plan) -> None:
    opened(tmp_path, plan)
    store = client(tmp_path)
    store.delete_experiment(store.get_experiment_by_name("tiny").experiment_id)
    with pytest.raises(TrackingError, match=r"experiment 'tiny' must not be deleted; it is in the trash: restore it"):
        opened(tmp_path, plan)


def test_unreachable_stores(tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (tmp_path / "file").touch()
    for uri in (f"sqlite:///{tmp_path}/file/mlflow.db", "http://127.0.0.1:9"):
        with pytest.raises(TrackingError, match=r"the tracking store .* must be reachable and writable; got: .+") as e:
            MlflowTracker(uri, tmp_path).open(plan, "")
        assert "\n" not in str(e.value)


def test_a_run_deleted_in_mid_study(tmp_path: Path, plan: Plan) -> None:
    """What the store refuses is set aside with the reason, and the rest goes on."""
    said: list[str] = []
    tracker = MlflowTracker(default_uri(tmp_path), tmp_path, say=said.append)
    tracker.open(plan, "")
    tracker.started(plan.trials[0])
    settle(tracker)
    client(tmp_path).delete_run(runs(tmp_path, kind="trial")[0].info.run_id)
    tracker.finished(plan.trials[0], complete(plan.trials[0], 0.5), folder_of(tmp_path))
    finish(tracker, plan.trials[1], folder_of(tmp_path), 0.4)
    tracker.close()
    assert [r.info.status for r in runs(tmp_path, kind="trial")] == ["FINISHED"]
    assert "refused a record" in said[0]
    assert "must be in the 'active' state" in said[0]
    assert said[-1] == "warning: the tracking store refused 1 records: `harness sync` says why"
    (one,) = sync(tmp_path)
    assert one.is_alive
    assert "must be in the 'active' state" in one.refused[0]


def test_params_of() -> None:
    assert params_of({"a": {"b": [1, "x"], "c": None}, "d": "text", "e": True}) == {
        **{"a.b": '[1, "x"]', "a.c": "null", "d": "text", "e": "true"}
    }
