"""MLflow as the record of every study: one experiment per study, a parent run per variant, a child run per trial.

Only the driver writes, one trial event at a time, so a fresh sqlite store is never opened by two processes. A child
run's metrics are its final scores (`val/miou`, `test/oiou`, `cost/gmacs`) and, under `epoch/`, its learning curves; the
parent's are the means over the replicates finished so far.
"""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run

from harness.environment import code_state, versions
from harness.errors import TrackingError
from harness.records import Plan, Trial, TrialResult, TrialState, canonical_json
from harness.results import connect, find_runs, store_errors
from harness.trial_folder import EpochScores
from harness.tuning import SEARCH

STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED", TrialState.FAILED: "FAILED"}
MAX_BATCH = 500
MAX_PARAMS = 100
MAX_TAG = 4000
FILES = ("samples_*.parquet", "predictions_*.parquet", "feature_maps.npz", "environment.json", "data.json")
"""Files of a trial's folder that become artifacts of its run."""
REMOTE = ("http://", "https://", "databricks")
"""How the URI of a store begins that keeps artifacts itself."""

P = ParamSpec("P")
T = TypeVar("T")


def default_uri(storage: Path) -> str:
    """The sqlite store of a storage folder."""
    return f"sqlite:///{storage / 'mlflow.db'}"


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mappings as dotted keys with JSON values, the form MLflow's UI compares."""
    found: dict[str, str] = {}
    for key, item in value.items():
        path = f"{prefix}{key}"
        if isinstance(item, Mapping):
            found |= flatten(item, f"{path}.")
        else:
            found[path] = item if isinstance(item, str) else json.dumps(item)
    return found


def variant_id(trial: Trial) -> str:
    """12 hex digits of what the replicates of a variant share; a label may come to mean another configuration."""
    shared = {key: value for key, value in trial.identity.items() if key != "replicate"}
    return hashlib.sha256(canonical_json(shared).encode()).hexdigest()[:12]


def _recorded(
    method: Callable[Concatenate[MlflowTracker, P], T],
) -> Callable[Concatenate[MlflowTracker, P], T]:
    """Let a method raise `TrackingError` for whatever the store raises."""

    @functools.wraps(method)
    def guarded(self: MlflowTracker, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with store_errors(self.uri):
            return method(self, *args, **kwargs)

    return guarded


class MlflowTracker:
    """Writes a study to MLflow.

    Args:
        uri: Tracking server or store.
        storage: Folder of the study's runs; holds the artifacts of a local store.
    """

    def __init__(self, uri: str, storage: Path) -> None:
        self.uri, self._storage = uri, storage
        self._experiment = ""
        self._plan: Plan | None = None
        self._parents: dict[str, str] = {}
        self._runs: dict[str, str] = {}
        self._logged: dict[str, int] = {}

    @functools.cached_property
    def _client(self) -> MlflowClient:
        return connect(self.uri)

    @_recorded
    def open(self, plan: Plan, study_text: str) -> None:
        """Create what is missing, the experiment and a parent run per variant, and mark the parents as running.

        Raises:
            TrackingError: The store cannot be reached.
        """
        self._plan = plan
        self._experiment = self._open_experiment(plan)
        runs = find_runs(self._client, "tags.`harness.kind` = 'variant'", self._experiment)
        known = {run.data.tags.get("harness.variant_id"): str(run.info.run_id) for run in runs}
        for variant, row_labels in _labels(plan).items():
            trial = next(t for t in plan.trials if t.variant == variant)
            run_id = known.get(variant_id(trial)) or self._create_parent(plan, trial)
            self._client.update_run(run_id, status="RUNNING", name=variant)
            self._client.set_tag(run_id, "harness.variant", variant)
            self._client.set_tag(run_id, "harness.rows", "; ".join(row_labels)[:MAX_TAG])
            self._client.log_text(run_id, study_text, "study.yaml")
            self._parents[variant] = run_id

    def _open_experiment(self, plan: Plan) -> str:
        found = self._client.get_experiment_by_name(plan.study)
        tags = {
            "harness.study": plan.study,
            "harness.spec_sha": plan.spec_sha,
            "mlflow.note.content": plan.question,
            "mlflow.experimentKind": "custom_model_development",  # the UI opens on runs, not on GenAI traces
        }
        if found is None:
            is_local = not self.uri.startswith(REMOTE)
            place = (self._storage / "artifacts" / plan.study).as_uri() if is_local else None
            return str(self._client.create_experiment(plan.study, artifact_location=place, tags=tags))
        if found.lifecycle_stage == "deleted":
            raise TrackingError(
                f"the MLflow experiment {plan.study!r} must not be deleted; it is in the trash: restore it "
                f"(mlflow experiments restore -x {found.experiment_id}) or rename the study"
            )
        for key, value in tags.items():
            self._client.set_experiment_tag(found.experiment_id, key, value)
        return str(found.experiment_id)

    def _create_parent(self, plan: Plan, trial: Trial) -> str:
        tags = {"harness.kind": "variant", "harness.study": plan.study, "harness.variant_id": variant_id(trial)}
        run = self._client.create_run(self._experiment, run_name=trial.variant, tags=tags)
        self._log(run.info.run_id, params=flatten({"model": trial.model, "train": trial.train, "data": trial.data}))
        return str(run.info.run_id)

    @_recorded
    def complete(self, trial_ids: Iterable[str]) -> frozenset[str]:
        """Those of `trial_ids` that are COMPLETE in this store, in whatever study."""
        wanted = set(trial_ids)
        runs = find_runs(self._client, "tags.`harness.kind` = 'trial' and attributes.status = 'FINISHED'")
        return frozenset(wanted & {run.data.tags.get("harness.trial_id", "") for run in runs})

    @_recorded
    def started(self, trial: Trial) -> None:
        """Open the trial's run, or the one an interrupted driver left open."""
        query = f"tags.`harness.trial_id` = '{trial.id}' and attributes.status = 'RUNNING'"
        left = find_runs(self._client, query, self._experiment)
        if left:
            run_id = str(left[0].info.run_id)
            history = self._client.get_metric_history(run_id, "epoch/train/loss")
            self._logged[trial.id] = max((m.step for m in history), default=0)
        else:
            run_id = self._create_run(trial)
            self._logged[trial.id] = 0
        self._runs[trial.id] = run_id
        # again for a run left open: its driver may have stopped before it got here
        self._log(run_id, params=flatten({k: v for k, v in trial.identity.items() if k != "version"}))
        self._client.log_dict(run_id, trial.to_json(), "trial.json")

    def _create_run(self, trial: Trial) -> str:
        assert self._plan is not None
        code = code_state()
        tags = {
            "mlflow.parentRunId": self._parents[trial.variant],
            "harness.kind": trial.kind,
            "harness.study": self._plan.study,
            "harness.trial_id": trial.id,
            "harness.variant": trial.variant,
            "harness.replicate": str(trial.replicate),
            "harness.git_commit": code.commit,
            "harness.dirty": str(code.dirty).lower(),
            "harness.spec_sha": self._plan.spec_sha,
            "harness.data_fingerprint": trial.data_fingerprint,
            **{f"harness.version.{name}": version for name, version in versions().items()},
        }
        name = f"{trial.variant} / {trial.id if trial.kind == SEARCH else f'replicate {trial.replicate}'}"
        run = self._client.create_run(self._experiment, run_name=name, tags=tags)
        return str(run.info.run_id)

    @_recorded
    def reported(self, trial: Trial, epoch: EpochScores) -> None:
        """Log an epoch's scores, unless that epoch is in the run already."""
        if epoch.epoch <= self._logged[trial.id]:
            return
        stamp = int(epoch.time * 1000)
        metrics = [Metric(f"epoch/{k}", v, stamp, epoch.epoch) for k, v in epoch.scores.items()]
        self._log(self._runs[trial.id], metrics=metrics)
        self._logged[trial.id] = epoch.epoch

    @_recorded
    def finished(self, trial: Trial, result: TrialResult, folder: Path) -> None:
        """Log the trial's scores and files, close its run, and bring its variant's means up to date."""
        run_id = self._runs[trial.id]
        now, step = int(time.time() * 1000), result.best_epoch or 0
        values = {f"{s.split}/{s.metric}": s.value for s in result.scores}
        values |= {f"cost/{name}": value for name, value in result.cost.items()}
        self._log(run_id, metrics=[Metric(k, v, now, step) for k, v in values.items()])
        for path in sorted(path for pattern in FILES for path in folder.glob(pattern)):
            if result.state is TrialState.COMPLETE or path.name == "environment.json":
                self._client.log_artifact(run_id, str(path))
        if result.checkpoint:
            self._client.set_tag(run_id, "harness.checkpoint", result.checkpoint)
        if result.error:
            self._client.log_text(run_id, result.error, "traceback.txt")
            self._client.set_tag(run_id, "harness.error", cause(result.error)[:MAX_TAG])
        self._client.set_terminated(run_id, STATUS[result.state])
        self._update_parent(trial.variant)

    def _trials(self, variant: str) -> list[Trial]:
        assert self._plan is not None
        return [trial for trial in self._plan.trials if trial.variant == variant]

    def _finished_runs(self, variant: str) -> list[Run]:
        """The last finished run of each of the variant's trials, in whatever study it ran."""
        condition = "tags.`harness.kind` = 'trial' and attributes.status = 'FINISHED'"
        found = [
            find_runs(self._client, f"{condition} and tags.`harness.trial_id` = '{trial.id}'")[:1]
            for trial in self._trials(variant)
        ]
        return [run for runs in found for run in runs]

    def _update_parent(self, variant: str) -> int:
        """Bring a variant's means up to date; the number of its finished trials."""
        parent = self._parents[variant]
        done = self._finished_runs(variant)
        values: dict[str, list[float]] = defaultdict(list)
        for run in done:
            for key, value in run.data.metrics.items():
                if not key.startswith("epoch/"):
                    values[key].append(value)
        now = int(time.time() * 1000)
        self._log(parent, metrics=[Metric(k, float(np.mean(v)), now, len(v)) for k, v in values.items()])
        self._client.set_tag(parent, "harness.replicates_done", str(len(done)))
        return len(done)

    @_recorded
    def close(self) -> None:
        """Mark every variant's run by how its trials stand: finished, or failed where a trial is missing."""
        for variant, run_id in self._parents.items():
            done = self._update_parent(variant)
            is_whole = done == sum(trial.kind != SEARCH for trial in self._trials(variant))
            self._client.set_terminated(run_id, "FINISHED" if is_whole else "FAILED")

    @_recorded
    def log_report(self, plan: Plan, files: Iterable[Path], folder: Path) -> None:
        """Log a report's files, which lie under `folder`, to the run `report` of the study's experiment."""
        experiment = self._open_experiment(plan)
        found = find_runs(self._client, "tags.`harness.kind` = 'report'", experiment)
        tags = {"harness.kind": "report", "harness.study": plan.study}
        run = found[0] if found else self._client.create_run(experiment, run_name="report", tags=tags)
        run_id = str(run.info.run_id)
        self._client.set_tag(run_id, "harness.spec_sha", plan.spec_sha)
        for path in files:
            place = path.parent.relative_to(folder).as_posix()
            self._client.log_artifact(run_id, str(path), None if place == "." else place)
        self._client.set_terminated(run_id, "FINISHED")

    def _log(self, run_id: str, *, metrics: list[Metric] | None = None, params: dict[str, str] | None = None) -> None:
        for start in range(0, len(metrics or []), MAX_BATCH):
            self._client.log_batch(run_id, metrics=(metrics or [])[start : start + MAX_BATCH])
        entries = [Param(k, v[:MAX_TAG]) for k, v in (params or {}).items()]
        for start in range(0, len(entries), MAX_PARAMS):
            self._client.log_batch(run_id, params=entries[start : start + MAX_PARAMS])


def cause(traceback_text: str) -> str:
    """The last line of a traceback that says what happened."""
    lines = [line.strip() for line in traceback_text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _labels(plan: Plan) -> dict[str, list[str]]:
    """Variant -> the rows it fills, as `table: label`."""
    found: dict[str, list[str]] = {trial.variant: [] for trial in plan.trials}
    for table in plan.tables:
        for row in table.rows:
            found[row.variant].append(f"{table.name}: {row.label}")
    return found
