"""A study without training: what an executor would tell a tracker, and what a store then holds of it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Run

from harness.pictures import Picture, write_pictures
from harness.records import Fault, Plan, Score, Trial, TrialResult, TrialState
from harness.tracking import MlflowTracker
from harness.trial_folder import EpochScores, trial_folder

STARTED = 1_700_000_000.0
PER_RUN = ("harness.run_key", "mlflow.parentRunId", "mlflow.user")
"""Tags that no two runs share."""
IMAGE = re.compile(r"timestamp\+\d+\+[0-9a-f]{32}")
"""The part of an image's name that no two runs share."""


def nothing() -> None:
    """Between two events nothing happens."""


def fill_folder(folder: Path, index: int) -> None:
    """What a trial leaves behind."""
    (folder / "samples_val.parquet").write_bytes(b"rows %d" % index)
    shade = np.full((8, 8, 3), index, np.uint8)
    write_pictures(folder, "val", [Picture(shade, shade, shade, ["word"])])
    (folder / "environment.json").write_text(json.dumps({"cpus": index}))
    (folder / "seeds.json").write_text(json.dumps({"init": 100 + index, "order": 200 + index}))
    lines = [{"time": STARTED + n, "system/cpu_utilization_percentage": 10.0 * n} for n in range(5)]
    (folder / "system.jsonl").write_text("".join("\n" + json.dumps(line) for line in lines))


def result_of(trial: Trial, index: int) -> TrialResult:
    """Scores that tell trials apart; the last one of four fails."""
    if index % 4 == 3:
        return TrialResult(trial.id, TrialState.FAILED, error="Traceback\nValueError: no\n", fault=Fault.DIVERGED)
    scores = (Score("val", "miou", 0.1 + index / 10), Score("test", "oiou", 0.2 + index / 10))
    cost, notes = {"gmacs": 1.5, "train_s": 3.0}, {"restarts": 1}
    return TrialResult(
        trial.id, TrialState.COMPLETE, scores, best_epoch=2, cost=cost, checkpoint="best-2.pt", notes=notes
    )


def play(
    plan: Plan, tracker: MlflowTracker, storage: Path, *, between: Callable[[], None] = nothing, epochs: int = 3
) -> None:
    """Tell a tracker of the whole plan."""
    for index, trial in enumerate(plan.trials):
        folder = trial_folder(storage, trial)
        tracker.started(trial)
        fill_folder(folder, index)
        between()
        for n in range(1, epochs + 1):
            tracker.reported(trial, EpochScores(n, {"train/loss": 1 / n, "val/miou": n / 10}, STARTED + 60 * n))
            between()
        tracker.finished(trial, result_of(trial, index), folder)
        between()


def record_of(uri: str, study: str) -> dict[str, Any]:
    """Everything a store holds of a study, but ids and times."""
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(study)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    names = {run.info.run_id: run.info.run_name for run in runs}
    found: dict[str, Any] = {"tags": experiment.tags}
    for run in runs:
        name = f"{run.data.tags['harness.kind']} {run.info.run_name}"
        assert name not in found, f"{name} is there twice"
        found[name] = {
            "status": run.info.status,
            "parent": names.get(run.data.tags.get("mlflow.parentRunId", "")),
            "tags": {k: v for k, v in run.data.tags.items() if k not in PER_RUN},
            "params": run.data.params,
            "metrics": {key: _history(client, run, key) for key in run.data.metrics},
            "files": _files(client, run.info.run_id),
            "datasets": [(d.dataset.name, d.dataset.digest) for d in run.inputs.dataset_inputs],
            "models": [_model(client, m.model_id) for m in run.outputs.model_outputs] if run.outputs else [],
        }
    found["all models"] = len(client.search_logged_models([experiment.experiment_id]))
    return found


def _history(client: MlflowClient, run: Run, key: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, key)]


def _files(client: MlflowClient, run_id: str) -> dict[str, str]:
    with TemporaryDirectory() as folder:
        client.download_artifacts(run_id, "", folder)
        paths = [path for path in Path(folder).rglob("*") if path.is_file()]
        found = {IMAGE.sub("", p.relative_to(folder).as_posix()): p for p in paths}
        assert len(found) == len(paths), "an image is there twice"
        return {name: hashlib.sha256(p.read_bytes()).hexdigest() for name, p in found.items()}


def _model(client: MlflowClient, model_id: str) -> dict[str, Any]:
    model = client.get_logged_model(model_id)
    metrics = sorted((m.key, m.step, m.value, m.dataset_name) for m in model.metrics or [])
    return {"name": model.name, "status": str(model.status), "params": model.params, "metrics": metrics}
