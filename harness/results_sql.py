"""Reads runs and scores from the tables of an MLflow database: many times faster than by MLflow's own search.

MLflow's search builds an object for every parameter, tag and learning curve of every run. Here three columns of its
tables are read. Nothing is ever written.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pandas as pd
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.pool import NullPool

NOT_SCORES = ("epoch/", "system/")
"""How the names of metrics begin that are no final scores."""

DATABASES = ("sqlite:", "postgresql:", "postgresql+", "mysql:", "mysql+", "mssql:", "mssql+")
"""How the URI of a store begins that is a database."""

MAX_IDS = 500
"""More trials than that are not named in a query; all are read."""

Query = sa.Select[Any]

CONNECT_S = 10
"""Seconds to wait for an answer of a database server."""

_EXPERIMENTS = sa.table("experiments", sa.column("experiment_id"), sa.column("lifecycle_stage"))
_RUNS = sa.table(
    "runs",
    *(sa.column(c) for c in ("run_uuid", "status", "start_time", "lifecycle_stage", "experiment_id", "artifact_uri")),
)
_TAGS = sa.table("tags", sa.column("run_uuid"), sa.column("key"), sa.column("value"))
_LATEST = sa.table(
    "latest_metrics",
    *(sa.column(c) for c in ("run_uuid", "key", "value")),
    sa.column("is_nan", sa.Boolean()),
)


def is_database(uri: str) -> bool:
    """Whether a store is a database that can be read directly."""
    return uri.startswith(DATABASES)


def probe(uri: str) -> None:
    """Open a connection; MLflow itself tries for an hour to open a database that is not there."""
    with _reading(uri):
        pass


@contextmanager
def _reading(uri: str) -> Iterator[Connection]:
    limit = {"connect_timeout": CONNECT_S} if uri.startswith("postgresql") else {}
    engine = sa.create_engine(uri, poolclass=NullPool, connect_args=limit)
    with engine.connect() as connection:
        yield connection


def _with_tag(statement: Query, run: sa.ColumnElement[str], name: str, values: list[str] | None) -> Query:
    """The statement for runs with a tag, of one of some values."""
    tag = _TAGS.alias()
    found: Query = statement.join(tag, sa.and_(tag.c.run_uuid == run, tag.c.key == name))
    return found if values is None else found.where(tag.c.value.in_(values))


def _living(statement: Query) -> Query:
    """The statement without deleted runs and experiments, for trials that belong to no search."""
    found = statement.join(_EXPERIMENTS, _EXPERIMENTS.c.experiment_id == _RUNS.c.experiment_id)
    found = found.where(_RUNS.c.lifecycle_stage == "active", _EXPERIMENTS.c.lifecycle_stage == "active")
    return _with_tag(found, _RUNS.c.run_uuid, "harness.kind", ["trial"])


def _frame(connection: Connection, statement: Query, columns: list[str]) -> pd.DataFrame:
    """What a statement finds, by columns: pandas takes ten times as long over SQLAlchemy's rows."""
    cursor = connection.execute(statement).cursor
    rows = cursor.fetchall() if cursor is not None else []
    return pd.DataFrame(dict(zip(columns, zip(*rows, strict=True), strict=True)) if rows else {}, columns=columns)


def complete_in(uri: str) -> set[str]:
    """Ids of all trials with a finished run."""
    tag = _TAGS.alias()
    statement = sa.select(tag.c.value).select_from(_RUNS)
    statement = statement.join(tag, sa.and_(tag.c.run_uuid == _RUNS.c.run_uuid, tag.c.key == "harness.trial_id"))
    with _reading(uri) as connection:
        rows = connection.execute(_living(statement).where(_RUNS.c.status == "FINISHED").distinct())
        return {str(row[0]) for row in rows}


def scored_on(uri: str, split: str, fingerprints: Collection[str]) -> set[tuple[str, str]]:
    """Study and id of every trial with a finished run on some data that has a score of a split."""
    study, trial = _TAGS.alias(), _TAGS.alias()
    runs: Query = sa.select(study.c.value, trial.c.value).select_from(_RUNS)
    for tag, name in ((study, "harness.study"), (trial, "harness.trial_id")):
        runs = runs.join(tag, sa.and_(tag.c.run_uuid == _RUNS.c.run_uuid, tag.c.key == name))
    runs = _with_tag(_living(runs), _RUNS.c.run_uuid, "harness.data_fingerprint", sorted(fingerprints))
    scored = sa.exists().where(_LATEST.c.run_uuid == _RUNS.c.run_uuid, _LATEST.c.key.startswith(f"{split}/"))
    with _reading(uri) as connection:
        found = _frame(connection, runs.where(_RUNS.c.status == "FINISHED", scored), ["study", "trial_id"])
    return set(found.itertuples(index=False, name=None))


def trial_runs(uri: str, trial_ids: set[str], tags: Mapping[str, str]) -> pd.DataFrame:
    """The runs of some trials.

    Args:
        uri: The store.
        trial_ids: Ids of the trials.
        tags: Column -> name of the tag that fills it; one of the columns is `trial_id`.

    Returns:
        Columns `run_id`, `state` (as MLflow says it), `started` (ms) and those of `tags`.
    """
    wanted = sorted(trial_ids) if len(trial_ids) <= MAX_IDS else None
    runs: Query = sa.select(_RUNS.c.run_uuid, _RUNS.c.status, _RUNS.c.start_time).select_from(_RUNS)
    runs = _with_tag(_living(runs), _RUNS.c.run_uuid, "harness.trial_id", wanted)
    marks: Query = sa.select(_TAGS.c.run_uuid, _TAGS.c.key, _TAGS.c.value).where(_TAGS.c.key.in_(tags.values()))
    if wanted is not None:
        marks = _with_tag(marks, _TAGS.c.run_uuid, "harness.trial_id", wanted)
    with _reading(uri) as connection:
        found = _frame(connection, runs, ["run_id", "state", "started"])
        rows = _frame(connection, marks, ["run_id", "tag", "value"])
    wide = rows.pivot(index="run_id", columns="tag", values="value").reindex(columns=list(tags.values()))
    wide.columns = list(tags)
    frame = found.merge(wide, left_on="run_id", right_index=True, how="left")
    return frame[frame["trial_id"].isin(trial_ids)]


def artifact_places(uri: str) -> dict[str, str]:
    """Run -> URI of the folder of its artifacts, of all runs that are not deleted."""
    with _reading(uri) as connection:
        wanted: Query = sa.select(_RUNS.c.run_uuid, _RUNS.c.artifact_uri).select_from(_RUNS)
        found = _frame(connection, _living(wanted), ["run_id", "place"])
    return dict(found.dropna().itertuples(index=False, name=None))


def scores_of(uri: str, trial_ids: set[str]) -> pd.DataFrame:
    """Final scores of the runs of some trials, and perhaps of others: columns `run_id`, `key` and `value`."""
    wanted = sorted(trial_ids) if len(trial_ids) <= MAX_IDS else None
    statement: Query = sa.select(_LATEST.c.run_uuid, _LATEST.c.key, _LATEST.c.value, _LATEST.c.is_nan)
    for prefix in NOT_SCORES:
        statement = statement.where(_LATEST.c.key.notlike(f"{prefix}%"))
    if wanted is not None:
        statement = _with_tag(statement, _LATEST.c.run_uuid, "harness.trial_id", wanted)
    with _reading(uri) as connection:
        frame = _frame(connection, statement, ["run_id", "key", "value", "is_nan"])
    value = frame["value"].astype("float64").mask(frame["is_nan"].astype(bool))
    return frame[["run_id", "key"]].astype("str").assign(value=value)
