"""Brings records of studies into an MLflow store: one experiment per study, a parent run per variant, a run per trial.

Delivering a record twice changes nothing: a trial's run is found by the key that its records carry, metrics keep the
times of what happened, and everything else is set to the same value again.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from harness.canonical import flatten
from harness.faults import TRACEBACK
from harness.records import Trial, TrialResult, TrialState
from harness.results import ARTIFACTS, connect, find_runs, is_permanent
from harness.run_note import note_of
from harness.run_objects import dataset_of, log_dataset, log_model, log_pictures
from harness.spool import one_creator
from harness.tuning import SEARCH

STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED", TrialState.FAILED: "FAILED"}
MAX_BATCH = 500
MAX_PARAMS = 100
MAX_TAG = 4000
FILES = ("samples_*.parquet", "predictions_*.parquet", "feature_maps.npz", "data.json")
"""Files of a complete trial's folder that become artifacts of its run."""
ALWAYS = ("environment.json", "seeds.json", "attempts.jsonl")
"""Files of any trial's folder that do."""
REMOTE = ("http://", "https://", "databricks")
"""How the URI of a store begins that keeps artifacts itself."""

Record = Mapping[str, Any]


class RefusedError(Exception):
    """A record, or a part of one, that the store will never take."""


def params_of(value: Mapping[str, Any]) -> dict[str, str]:
    """Nested mappings as dotted keys with JSON values, the form MLflow's UI compares; empty ones are left out."""
    found = {path: item for path, item in flatten(value).items() if item != {}}
    return {path: item if isinstance(item, str) else json.dumps(item) for path, item in found.items()}


class Delivery:
    """Writes records to a store.

    Args:
        uri: Tracking server or store.
        storage: Folder of the study's runs; holds the artifacts of a local store.
    """

    def __init__(self, uri: str, storage: Path) -> None:
        self.uri, self._storage = uri, storage
        self._experiments: dict[str, str] = {}
        self._parents: dict[tuple[str, str], str] = {}
        self._runs: dict[str, str] = {}
        self._epochs: dict[str, dict[int, int]] = {}
        self._system: dict[str, int] = {}
        self._refusals: list[str] = []
        self._handlers: dict[str, Callable[[Record], None]] = {
            "opened": self.open_study,
            "started": self._started,
            "reported": self._reported,
            "finished": self._finished,
            "stopped": self._stopped,
            "closed": self._closed,
            "report": self._report,
        }

    @functools.cached_property
    def client(self) -> MlflowClient:
        """A client of the store, once it has answered."""
        return connect(self.uri)

    def deliver(self, record: Record) -> None:
        """Write one record.

        Raises:
            RefusedError: The store will never take it, or a part of it; the other parts are written.
        """
        handler = self._handlers.get(record.get("event", ""))
        if handler is None:
            raise RefusedError("the record is damaged")
        self._refusals = []
        with self._part():
            handler(record)
        if self._refusals:
            raise RefusedError("; ".join(self._refusals))

    @contextlib.contextmanager
    def _part(self) -> Iterator[None]:
        """Write a part of a record; if it is refused, that does not keep the other parts from the store."""
        try:
            yield
        except MlflowException as error:
            if not is_permanent(error):
                raise
            self._refusals.append(" ".join(str(error).split()))
        except RefusedError as error:
            self._refusals.append(str(error))
        except (ValueError, KeyError, TypeError) as error:
            self._refusals.append(f"{type(error).__name__}: {' '.join(str(error).split())}")

    # The experiment and its variants

    def open_study(self, record: Record) -> None:
        """Create what is missing, the experiment and a parent run per variant, and mark the parents as running."""
        self._experiments.pop(record["study"], None)
        self._experiment(record)
        for variant in record["variants"]:
            run_id = self._parent(record["study"], variant["id"])
            if run_id is None:
                run_id = self._create_parent(record["study"], variant["id"], Trial.from_json(variant["trial"]))
            self.client.update_run(run_id, status="RUNNING", name=variant["name"])
            tags = {"harness.variant": variant["name"], "harness.rows": "; ".join(variant["rows"])}
            self._log(run_id, tags=tags)
            self.client.log_text(run_id, record["text"], "study.yaml")

    def _experiment(self, record: Record) -> str:
        """The study's experiment, made if missing; its tags are brought up to date by records that bring any."""
        study = record["study"]
        if study in self._experiments:
            return self._experiments[study]
        tags = {
            "harness.study": study,
            "mlflow.experimentKind": "custom_model_development",  # the UI opens on runs, not on GenAI traces
            **record.get("experiment_tags", {}),
        }
        found = self.client.get_experiment_by_name(study)
        if found is None:
            is_local = not self.uri.startswith(REMOTE)
            place = (self._storage / ARTIFACTS / study).as_uri() if is_local else None
            self._experiments[study] = str(self.client.create_experiment(study, artifact_location=place, tags=tags))
            return self._experiments[study]
        if found.lifecycle_stage == "deleted":
            raise RefusedError(
                f"the MLflow experiment {study!r} must not be deleted; it is in the trash: restore it "
                f"(mlflow experiments restore -x {found.experiment_id}) or rename the study"
            )
        for key, value in tags.items():
            if found.tags.get(key) != value:
                self.client.set_experiment_tag(found.experiment_id, key, value)
        self._experiments[study] = str(found.experiment_id)
        return self._experiments[study]

    def _parent(self, study: str, variant: str) -> str | None:
        """The run of a variant, by the id of its configuration."""
        if (study, variant) not in self._parents:
            runs = find_runs(self.client, "tags.`harness.kind` = 'variant'", self._experiments[study])
            for run in runs:
                self._parents.setdefault((study, run.data.tags.get("harness.variant_id", "")), str(run.info.run_id))
        return self._parents.get((study, variant))

    def _create_parent(self, study: str, variant: str, trial: Trial) -> str:
        tags = {"harness.kind": "variant", "harness.study": study, "harness.variant_id": variant}
        run = self.client.create_run(self._experiments[study], run_name=trial.variant, tags=tags)
        self._parents[study, variant] = str(run.info.run_id)
        self._log(run.info.run_id, params=params_of({"model": trial.model, "train": trial.train, "data": trial.data}))
        return str(run.info.run_id)

    # One trial

    def _find(self, record: Record) -> Run | None:
        """The run that a record is about, asked of the store."""
        found = find_runs(self.client, f"tags.`harness.run_key` = '{record['run']}'", self._experiment(record))
        return found[0] if found else None

    def _known(self, record: Record) -> str:
        key = record["run"]
        if key not in self._runs:
            run = self._find(record)
            if run is None:
                raise RefusedError(f"trial {record['trial_id']} has no run in the store; it was deleted or never taken")
            self._runs[key] = str(run.info.run_id)
        return self._runs[key]

    def _started(self, record: Record) -> None:
        """Open the trial's run, or the one that an interrupted driver left open."""
        trial = Trial.from_json(record["trial"])
        self._epochs.pop(record["run"], None)
        run_id = self._runs[record["run"]] = self._open_run(record, trial)
        # again for a run left open: whoever opened it may have stopped before it got here
        self._log(run_id, tags=record["resumed"], params=params_of(_without(trial.identity, "version")))
        with self._part():
            log_dataset(self.client, run_id, trial)
        with self._part():
            self.client.log_dict(run_id, record["trial"], "trial.json")
            for name, place in record["code_files"].items():
                if Path(place).is_file():
                    self.client.log_text(run_id, Path(place).read_text(encoding="utf-8"), name)

    def _open_run(self, record: Record, trial: Trial) -> str:
        experiment = self._experiment(record)
        tags = {**record["tags"], "harness.run_key": record["run"]}
        parent = self._parent(record["study"], record["variant_id"])
        if parent is None and record["kind"] == "trial":
            parent = self._create_parent(record["study"], record["variant_id"], trial)
        if parent is not None:
            tags["mlflow.parentRunId"] = parent
        with one_creator(self._storage):
            run = self._find(record)
            if run is None:
                which = f"replicate {trial.replicate}" if trial.kind != SEARCH else trial.id
                name, start = f"{trial.variant} / {which}", _milliseconds(record["time"])
                run = self.client.create_run(experiment, start_time=start, tags=tags, run_name=name)
            elif run.info.status in ("FAILED", "KILLED", "SCHEDULED"):
                self.client.update_run(run.info.run_id, status="RUNNING")
        return str(run.info.run_id)

    def _reported(self, record: Record) -> None:
        """Log an epoch's scores, unless the run has that epoch from an earlier start of the trial."""
        run_id, stamp, step = self._known(record), _milliseconds(record["time"]), int(record["epoch"])
        if self._logged(run_id, record).setdefault(step, stamp) == stamp:
            self._log(run_id, metrics=[Metric(f"epoch/{k}", v, stamp, step) for k, v in record["scores"].items()])
        with self._part():
            self._log_system(run_id, Path(record["folder"]))

    def _logged(self, run_id: str, record: Record) -> dict[int, int]:
        """Epoch -> time stamp of the scores that the run has."""
        key = record["run"]
        if key not in self._epochs:
            name = "train/loss" if "train/loss" in record["scores"] else min(record["scores"])
            history = self.client.get_metric_history(run_id, f"epoch/{name}")
            self._epochs[key] = {int(m.step): int(m.timestamp) for m in history}
        return self._epochs[key]

    def _log_system(self, run_id: str, folder: Path) -> None:
        """Log what has been measured of the machine since the last time, under the names of MLflow's own monitor."""
        lines = list(_lines(folder / "system.jsonl", after=self._system.get(run_id, 0)))
        metrics = [
            Metric(name, float(value), _milliseconds(line["time"]), step)
            for step, line in lines
            for name, value in line.items()
            if name != "time"
        ]
        self._log(run_id, metrics=metrics)
        if lines:
            self._system[run_id] = lines[-1][0] + 1

    def _finished(self, record: Record) -> None:
        """Log the trial's scores and files, close its run, and bring its variant's means up to date."""
        trial, result = Trial.from_json(record["trial"]), TrialResult.from_json(record["result"])
        run_id, folder = self._known(record), Path(record["folder"])
        model_id = None
        with self._part():
            if result.state is TrialState.COMPLETE:
                model_id = log_model(self.client, run_id, trial, result, params_of({"model": trial.model}))
        with self._part():
            self._log_scores(run_id, record, model_id=model_id)
        with self._part():
            tags = {f"harness.note.{k}": v if isinstance(v, str) else json.dumps(v) for k, v in result.notes.items()}
            tags |= {"harness.checkpoint": result.checkpoint or "", "harness.error": record["cause"]}
            tags |= {"harness.best_epoch": str(result.best_epoch or "")}
            tags |= {"harness.fault": str(result.fault or ""), "mlflow.note.content": note_of(trial, result)}
            self._log(run_id, tags={k: v for k, v in tags.items() if v})
        with self._part():
            self._log(run_id, params=_seeds(folder))
        with self._part():
            self._log_files(run_id, result, folder)
        with self._part():
            if result.state is TrialState.COMPLETE:
                splits = [record.get("split", ""), *(score.split for score in result.scores)]
                log_pictures(self.client, run_id, folder, splits)
        with self._part():
            self._log_system(run_id, folder)
        with self._part():
            self.client.set_terminated(run_id, STATUS[result.state], _milliseconds(record["time"]))
        self._update_parent(record, record["variant_id"], record["siblings"])

    def _stopped(self, record: Record) -> None:
        """Let the run wait; `_started` takes it up again."""
        self.client.update_run(self._known(record), status="SCHEDULED")

    def _log_scores(self, run_id: str, record: Record, *, model_id: str | None) -> None:
        result, stamp = TrialResult.from_json(record["result"]), _milliseconds(record["time"])
        about = dataset_of(Trial.from_json(record["trial"]))
        of = {"model_id": model_id, "dataset_name": about.name, "dataset_digest": about.digest} if model_id else {}
        # of step 0: the UI compares runs in bars only where a metric has no other
        metrics = [Metric(f"{s.split}/{s.metric}", s.value, stamp, 0, **of) for s in result.scores]
        metrics += [Metric(f"cost/{name}", value, stamp, 0) for name, value in result.cost.items()]
        self._log(run_id, metrics=metrics)

    def _log_files(self, run_id: str, result: TrialResult, folder: Path) -> None:
        patterns = (*FILES, *ALWAYS) if result.state is TrialState.COMPLETE else ALWAYS
        for path in sorted(path for pattern in patterns for path in folder.glob(pattern)):
            self.client.log_artifact(run_id, str(path))
        if result.error:
            self.client.log_text(run_id, result.error, TRACEBACK)

    # A variant's means

    def _finished_runs(self, variant: str, trial_ids: list[str]) -> list[Run]:
        """The last finished run of each of a variant's trials, in whatever study it ran, in the order of the trials."""
        condition = "tags.`harness.kind` = 'trial' and attributes.status = 'FINISHED'"
        runs = find_runs(self.client, f"{condition} and tags.`harness.variant_id` = '{variant}'")
        last: dict[str, Run] = {}
        for run in runs:
            last.setdefault(run.data.tags["harness.trial_id"], run)
        return [last[trial_id] for trial_id in trial_ids if trial_id in last]

    def _update_parent(self, record: Record, variant: str, trial_ids: list[str]) -> bool:
        """Bring a variant's means up to date; whether all of its trials have finished."""
        parent = self._parent(record["study"], variant) if trial_ids else None
        if parent is None:
            return False
        done = self._finished_runs(variant, trial_ids)
        values: dict[str, list[float]] = defaultdict(list)
        for run in done:
            for key, value in run.data.metrics.items():
                if not key.startswith(("epoch/", "system/")):
                    values[key].append(value)
        stamp = max((run.info.end_time for run in done), default=0)  # the same runs give the same points
        metrics = [Metric(k, float(np.mean(v)), stamp, len(v)) for k, v in values.items()]
        self._log(parent, metrics=metrics, tags={"harness.replicates_done": str(len(done))})
        return len(done) == len(trial_ids)

    def _closed(self, record: Record) -> None:
        """Mark every variant's run by how its trials stand: finished, or failed where a trial is missing."""
        self._experiment(record)
        for variant, trial_ids in record["variants"].items():
            with self._part():
                is_search = not trial_ids  # whose trials are in no table and may fail
                status = "FINISHED" if is_search or self._update_parent(record, variant, trial_ids) else "FAILED"
                if parent := self._parent(record["study"], variant):
                    self.client.set_terminated(parent, status, _milliseconds(record["time"]))

    # The report

    def _report(self, record: Record) -> None:
        """Log a report's files to the run `report` of the study's experiment."""
        experiment = self._experiment(record)
        found = find_runs(self.client, "tags.`harness.kind` = 'report'", experiment)
        tags = {"harness.kind": "report", "harness.study": record["study"]}
        start = _milliseconds(record["time"])
        run = found[0] if found else self.client.create_run(experiment, start, tags=tags, run_name="report")
        run_id = str(run.info.run_id)
        self._log(run_id, tags={"harness.spec_sha": record["spec_sha"]})
        for path in map(Path, record["files"]):
            place = path.parent.relative_to(record["folder"]).as_posix()
            if path.is_file():
                self.client.log_artifact(run_id, str(path), None if place == "." else place)
        self.client.set_terminated(run_id, "FINISHED", _milliseconds(record["time"]))

    def _log(
        self,
        run_id: str,
        *,
        metrics: list[Metric] | None = None,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        found, marks = metrics or [], [RunTag(k, v[:MAX_TAG]) for k, v in (tags or {}).items()]
        for start in range(0, len(marks), MAX_PARAMS):
            self.client.log_batch(run_id, tags=marks[start : start + MAX_PARAMS])
        for start in range(0, len(found), MAX_BATCH):
            self.client.log_batch(run_id, metrics=found[start : start + MAX_BATCH])
        entries = [Param(k, v[:MAX_TAG]) for k, v in (params or {}).items()]
        for start in range(0, len(entries), MAX_PARAMS):
            self.client.log_batch(run_id, params=entries[start : start + MAX_PARAMS])


def _without(value: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in value.items() if k != key}


def _lines(path: Path, *, after: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbered lines of a file, the last of which may still be in the writing."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines() if path.is_file() else []):
        if number >= after and line.strip():
            with contextlib.suppress(json.JSONDecodeError):
                yield number, json.loads(line)


def _seeds(folder: Path) -> dict[str, str]:
    path = folder / "seeds.json"
    seeds = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {f"seed.{stream}": str(seed) for stream, seed in seeds.items()}


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
