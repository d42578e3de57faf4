"""The results frame: what MLflow knows of a set of trials, one row per score, columns declared and checked."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from harness.errors import TrackingError

COLUMNS: dict[str, str] = {
    "study": "str",
    "variant": "str",
    "trial_id": "str",
    "replicate": "int64",
    "state": "str",
    "run_id": "str",
    "started": "datetime64[ms, UTC]",
    "split": "str",
    "metric": "str",
    "value": "float64",
    "commit": "str",
    "note": "str",
}
"""Column -> dtype. A run without scores has one row with a missing split, metric and value."""

STATES = {"FINISHED": "COMPLETE", "FAILED": "FAILED", "KILLED": "PRUNED", "RUNNING": "RUNNING", "SCHEDULED": "WAITING"}
"""MLflow's status -> ours."""

PAGE = 1000
"""Entries asked for at once."""

IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""For the first question to a store: MLflow's own settings try for four minutes to reach a server that is not there."""


@contextmanager
def store_errors(uri: str) -> Iterator[None]:
    """Turn whatever a store raises into a `TrackingError` of one line."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise TrackingError(f"the tracking store {uri} must be reachable and writable; got: {first}") from None


@contextmanager
def default_environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables that the user has not set, for a while."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def connect(uri: str) -> MlflowClient:
    """A client of a store that has answered.

    Raises:
        TrackingError: The store does not answer within seconds, or is no MLflow store.
    """
    with store_errors(uri), default_environment(IMPATIENT):
        if uri.startswith("sqlite:///"):
            _probe_sqlite(Path(uri.removeprefix("sqlite:///")))
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
    return client


def runs_page(uri: str, study: str) -> str:
    """Address of a study's runs in the MLflow UI; for a store without a server, the address `mlflow ui` serves.

    Without `workflowType` the UI opens an experiment on its pages for language-model traces.
    """
    server = uri.rstrip("/") if uri.startswith("http") else "http://127.0.0.1:5000"
    found = connect(uri).get_experiment_by_name(study)
    place = f"/experiments/{found.experiment_id}/runs?workflowType=machine_learning" if found else "/experiments"
    return f"{server}/#{place}"


def _probe_sqlite(path: Path) -> None:
    """Open a database file; MLflow tries for minutes to open one that is damaged."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA schema_version")


def find_runs(client: MlflowClient, query: str, experiment: str | None = None) -> list[Run]:
    """Runs that match, the last started first, in one experiment or in all that are not deleted."""
    if experiment is not None:
        ids = [experiment]
    else:
        pages = _pages(lambda token: client.search_experiments(max_results=PAGE, page_token=token))
        ids = [e.experiment_id for e in pages]
    if not ids:
        return []
    return list(_pages(lambda token: client.search_runs(ids, query, max_results=PAGE, page_token=token)))


def _pages(fetch: Callable[[str | None], Any]) -> Iterator[Any]:
    token: str | None = None
    while True:
        page = fetch(token)
        yield from page
        token = page.token
        if not token:
            return


def results_frame(uri: str, trial_ids: Iterable[str]) -> pd.DataFrame:
    """Every score of every run of the given trials, in whatever study of the store they ran.

    Args:
        uri: Tracking server or store.
        trial_ids: Ids to look for.

    Returns:
        A frame with `COLUMNS`, ordered by trial, start time, split and metric. Splits are `val`, `test`, their
        `_shuffled` controls, and `cost`.

    Raises:
        TrackingError: The store cannot be read.
    """
    wanted = set(trial_ids)
    client = connect(uri)
    with store_errors(uri):
        runs = find_runs(client, "tags.`harness.kind` = 'trial'")
    rows = [row for run in runs if run.data.tags.get("harness.trial_id") in wanted for row in run_rows(run)]
    frame = pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    return frame.sort_values(["trial_id", "started", "run_id", "split", "metric"], ignore_index=True)


def run_rows(run: Run) -> list[dict[str, Any]]:
    """The rows of one trial run; learning curves (`epoch/...`) are left in MLflow."""
    tags = run.data.tags
    common = {
        "study": tags["harness.study"],
        "variant": tags["harness.variant"],
        "trial_id": tags["harness.trial_id"],
        "replicate": int(tags["harness.replicate"]),
        "state": STATES[run.info.status],
        "run_id": run.info.run_id,
        "started": pd.Timestamp(run.info.start_time, unit="ms", tz="UTC"),
        "commit": tags.get("harness.git_commit", "unknown"),
        "note": tags.get("harness.error", ""),
    }
    scores = {k: v for k, v in run.data.metrics.items() if not k.startswith(("epoch/", "system/"))}
    if not scores:
        return [{**common, "split": None, "metric": None, "value": None}]
    rows = []
    for key, value in scores.items():
        split, _, metric = key.partition("/")
        rows.append({**common, "split": split, "metric": metric, "value": value})
    return rows
