"""The results frame: what MLflow knows of a set of trials, one row per score, columns declared and checked."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from urllib.request import url2pathname

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from harness.errors import TrackingError
from harness.results_sql import NOT_SCORES, complete_in, is_database, probe, scored_on, scores_of, trial_runs

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
    "fault": "str",
    "code_sha": "str",
    "resumed_sha": "str",
    "dirty": "str",
    "data_fingerprint": "str",
    "checkpoint": "str",
}
"""Column -> dtype. A run without scores has one row with a missing split, metric and value; fault and the columns
behind it are missing where none is recorded."""

TAGS = {
    "study": "harness.study",
    "variant": "harness.variant",
    "trial_id": "harness.trial_id",
    "replicate": "harness.replicate",
    "commit": "harness.git_commit",
    "note": "harness.error",
    "fault": "harness.fault",
    "code_sha": "harness.code_sha",
    "resumed_sha": "harness.resumed.code_sha",
    "dirty": "harness.dirty",
    "data_fingerprint": "harness.data_fingerprint",
    "checkpoint": "harness.checkpoint",
}
"""Column -> tag of the run that it comes from."""

ABSENT = {"commit": "unknown", "note": ""}
"""Column -> value where a run lacks its tag; the others are missing then."""

FEW = 30
"""Up to so many trials are asked for one by one, instead of reading every run of the store."""

STATES = {"FINISHED": "COMPLETE", "FAILED": "FAILED", "KILLED": "PRUNED", "RUNNING": "RUNNING", "SCHEDULED": "WAITING"}
"""MLflow's status -> ours."""

VARIANTS_VIEW = "variants"
"""The view of a study's runs in the MLflow UI (`harness.run_views`) that its address opens."""

ARTIFACTS = "artifacts"
"""Folder of a storage folder with the files of a local store: `<study>/<run>/artifacts/`."""

PAGE = 1000
"""Entries asked for at once."""

IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""For the first question to a store: MLflow's own settings try for four minutes to reach a server that is not there."""


REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "INVALID_STATE")
"""MLflow's codes of errors that the same question will meet again."""

AWAY = ("TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED", "UNAUTHENTICATED")
"""Its codes of errors that have nothing to do with the question."""

AWAY_STATUS = ("too many 429", "too many 502", "too many 503", "too many 504")
"""What it says of a server behind a gateway that answers with such a status."""


def shown(uri: str) -> str:
    """The URI of a store without its password."""
    try:
        return make_url(uri).render_as_string(hide_password=True) if "@" in uri else uri
    except (ArgumentError, ValueError):
        return uri


def is_permanent(error: Exception) -> bool:
    """Whether a store will answer the same question with the same error for ever."""
    return isinstance(error, MlflowException) and error.error_code in REFUSALS


def is_away(error: Exception, uri: str) -> bool:
    """Whether it is the store that failed, and not the question: it does not answer any other one either."""
    if isinstance(error, MlflowException):
        if error.error_code in AWAY or any(status in str(error) for status in AWAY_STATUS):
            return True
    elif not isinstance(error, SQLAlchemyError | sqlite3.Error | OSError):
        return isinstance(error, TrackingError)
    try:
        connect(uri)
    except TrackingError:
        return True
    return False


@contextmanager
def store_errors(uri: str) -> Iterator[None]:
    """Turn whatever a store raises into a `TrackingError` of one line."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise TrackingError(f"the tracking store {shown(uri)} must be reachable and writable; got: {first}") from None


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
            path = Path(uri.removeprefix("sqlite:///"))
            _create_sqlite(path)
            _probe_sqlite(path)
        elif is_database(uri):
            probe(uri)
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
    return client


def local_folder(place: str) -> Path | None:
    """The folder that a `file:` URI means; None for any other place."""
    return Path(url2pathname(urlsplit(place).path)) if place.startswith("file:") else None


def moved_from(uri: str, storage: Path, study: str) -> Path | None:
    """Where a store says that a study's storage folder is, if the folder was moved or copied; else None."""
    if not is_database(uri):
        return None
    client = connect(uri)
    with store_errors(uri):
        found = client.get_experiment_by_name(study)
    there, here = local_folder(found.artifact_location) if found else None, storage / ARTIFACTS / study
    if there is None or not here.is_dir() or there.resolve() == here.resolve():
        return None
    return there.parent.parent


def runs_page(uri: str, study: str) -> str:
    """Address of a study's runs in the MLflow UI; for a store without a server, the address `mlflow ui` serves.

    Without `workflowType` the UI opens an experiment on its pages for language-model traces, and without the view on
    columns that hold no score.
    """
    found = connect(uri).get_experiment_by_name(study)
    options = f"workflowType=machine_learning&viewStateShareKey={VARIANTS_VIEW}"
    place = f"/experiments/{found.experiment_id}/runs?{options}" if found else "/experiments"
    return f"{_server(uri)}/#{place}"


def run_page(uri: str, experiment_id: str, run_id: str) -> str:
    """Address of a run in the MLflow UI, as `runs_page` gives that of a study."""
    return f"{_server(uri)}/#/experiments/{experiment_id}/runs/{run_id}"


def _server(uri: str) -> str:
    return shown(uri).rstrip("/") if uri.startswith("http") else "http://127.0.0.1:5000"


def run_pages(uri: str, frame: pd.DataFrame) -> Callable[[str], str | None]:
    """Run id -> its page in the MLflow UI; None for runs outside the frame, and for all of a store without a server."""
    if not uri.startswith(("http://", "https://")):
        return lambda _: None
    client, server = connect(uri), _public(uri)
    with store_errors(uri):
        found = {study: client.get_experiment_by_name(study) for study in frame["study"].dropna().unique()}
    experiments = {study: experiment.experiment_id for study, experiment in found.items() if experiment}
    known = frame.drop_duplicates("run_id").set_index("run_id")["study"].to_dict()

    def page(run_id: str) -> str | None:
        experiment = experiments.get(known.get(run_id))
        return f"{server}/#/experiments/{experiment}/runs/{run_id}" if experiment is not None else None

    return page


def _public(uri: str) -> str:
    """A server's address without user and password, which a browser asks for."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")


def _create_sqlite(path: Path) -> None:
    """Make a database file that is not there, as a whole: one half made, by a process that is killed, opens never."""
    if path.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # takes a second

    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-", suffix=".tmp") as folder:
        draft = Path(folder, path.name)
        SqlAlchemyStore(f"sqlite:///{draft}", DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH).engine.dispose()
        try:
            path.hardlink_to(draft)
        except FileExistsError:  # another process was first
            return
        except OSError:  # a file system without links
            draft.replace(path)


def _probe_sqlite(path: Path) -> None:
    """Open a database file; MLflow tries for minutes to open one that is damaged."""
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
        found = _rows_in_database(uri, wanted) if is_database(uri) else _rows_of_server(client, wanted)
    frame = found.astype(COLUMNS)[list(COLUMNS)]
    return frame.sort_values(["trial_id", "started", "run_id", "split", "metric"], ignore_index=True)


def complete_trials(uri: str, trial_ids: Iterable[str]) -> frozenset[str]:
    """Those of the given trials that are COMPLETE in the store, in whatever study.

    Raises:
        TrackingError: The store cannot be read.
    """
    wanted = set(trial_ids)
    client = connect(uri)
    with store_errors(uri):
        if is_database(uri):
            return frozenset(wanted & complete_in(uri))
        runs = _trial_runs(client, wanted, " and attributes.status = 'FINISHED'")
    return frozenset(run.data.tags["harness.trial_id"] for run in runs)


def looks_at(uri: str, split: str, fingerprints: Collection[str]) -> frozenset[tuple[str, str]]:
    """Every look at a split: study and id of each complete trial that was scored on it, in whatever study.

    Args:
        uri: Tracking server or store.
        split: For example `test`.
        fingerprints: Of the data.

    Raises:
        TrackingError: The store cannot be read.
    """
    client = connect(uri)
    with store_errors(uri):
        if is_database(uri):
            return frozenset(scored_on(uri, split, fingerprints))
        query = "tags.`harness.kind` = 'trial' and attributes.status = 'FINISHED' and tags.`harness.data_fingerprint`"
        runs = [run for name in sorted(fingerprints) for run in find_runs(client, f"{query} = '{name}'")]
    scored = [run.data for run in runs if any(key.startswith(f"{split}/") for key in run.data.metrics)]
    return frozenset((data.tags[TAGS["study"]], data.tags[TAGS["trial_id"]]) for data in scored)


def _trial_runs(client: MlflowClient, wanted: set[str], condition: str = "") -> list[Run]:
    """Runs of trials, without those of a search."""
    query = f"tags.`harness.kind` = 'trial'{condition}"
    if len(wanted) > FEW:
        runs = find_runs(client, query)
        return [run for run in runs if run.data.tags.get(TAGS["trial_id"]) in wanted]
    return [run for i in sorted(wanted) for run in find_runs(client, f"{query} and tags.`harness.trial_id` = '{i}'")]


def _rows_of_server(client: MlflowClient, wanted: set[str]) -> pd.DataFrame:
    rows = [row for run in _trial_runs(client, wanted) for row in run_rows(run)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _rows_in_database(uri: str, wanted: set[str]) -> pd.DataFrame:
    """The same as from a server, read from MLflow's tables."""
    runs = trial_runs(uri, wanted, TAGS)
    for column, value in ABSENT.items():
        runs[column] = runs[column].astype("object").fillna(value)
    runs["state"] = runs["state"].map(STATES)
    runs["started"] = pd.to_datetime(runs["started"], unit="ms", utc=True)
    scores = scores_of(uri, wanted)
    names = [(key, *key.split("/", 1), "")[:3] for key in scores["key"].unique()]
    scores = scores.merge(pd.DataFrame(names, columns=["key", "split", "metric"]), on="key")
    return runs.merge(scores[["run_id", "split", "metric", "value"]], on="run_id", how="left")


def run_rows(run: Run) -> list[dict[str, Any]]:
    """The rows of one trial run; learning curves (`epoch/...`) are left in MLflow."""
    tags = run.data.tags
    common = {column: tags.get(tag, ABSENT.get(column)) for column, tag in TAGS.items()}
    common |= {
        "replicate": int(tags["harness.replicate"]),
        "state": STATES[run.info.status],
        "run_id": run.info.run_id,
        "started": pd.Timestamp(run.info.start_time, unit="ms", tz="UTC"),
    }
    scores = {k: v for k, v in run.data.metrics.items() if not k.startswith(NOT_SCORES)}
    if not scores:
        return [{**common, "split": None, "metric": None, "value": None}]
    rows = []
    for key, value in scores.items():
        split, _, metric = key.partition("/")
        rows.append({**common, "split": split, "metric": metric, "value": value})
    return rows
