"""The results frame: declared columns and types, whatever the store holds."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from mlflow.store.entities import PagedList
from mlflow.store.tracking import sqlalchemy_store

import harness.results
from harness.errors import TrackingError
from harness.results import (
    COLUMNS,
    connect,
    looks_at,
    results_frame,
    run_pages,
    runs_page,
    store_errors,
)


@pytest.fixture
def uri(tmp_path: Path, empty_store: Path) -> str:
    return f"sqlite:///{shutil.copy(empty_store, tmp_path)}"


def add_run(
    client: MlflowClient, study: str, trial_id: str, *, metrics: dict[str, float], status: str = "FINISHED", **tags: str
) -> str:
    """A run as the tracker writes it."""
    found = client.get_experiment_by_name(study)
    experiment = found.experiment_id if found else client.create_experiment(study)
    named = {
        "harness.kind": "trial",
        "harness.study": study,
        "harness.variant": "A",
        "harness.trial_id": trial_id,
        "harness.replicate": "1",
        **{f"harness.{name}": value for name, value in tags.items()},
    }
    run = client.create_run(experiment, tags=named, start_time=1_700_000_000_123)
    for name, value in metrics.items():
        client.log_metric(run.info.run_id, name, value)
    if status != "RUNNING":
        client.set_terminated(run.info.run_id, status)
    return str(run.info.run_id)


def assert_declared(frame: pd.DataFrame) -> None:
    assert list(frame.columns) == list(COLUMNS)
    expected = pd.DataFrame(columns=list(COLUMNS)).astype(COLUMNS)
    assert frame.dtypes.to_dict() == expected.dtypes.to_dict()


def test_empty_store(tmp_path: Path) -> None:
    frame = results_frame(f"sqlite:///{tmp_path / 'new.db'}", ["a" * 12])
    assert_declared(frame)
    assert frame.empty


def test_a_store_whose_experiments_are_all_deleted(uri: str) -> None:
    client = connect(uri)
    add_run(client, "first", "a", metrics={"val/miou": 0.5})
    for experiment in client.search_experiments():
        client.delete_experiment(experiment.experiment_id)
    frame = results_frame(uri, ["a"])
    assert_declared(frame)
    assert frame.empty


def test_runs_of_several_studies(uri: str) -> None:
    client = connect(uri)
    shared = add_run(
        client, "first", "b", metrics={"val/miou": 0.5, "test/oiou": 0.25, "cost/gmacs": 3.0}, git_commit="c0"
    )
    failed = add_run(client, "second", "a", metrics={"epoch/val/miou": 0.1}, status="FAILED", error="boom")
    killed = add_run(client, "second", "c", metrics={"system/cpu": 1.0}, status="KILLED")
    running = add_run(client, "second", "d", metrics={}, status="RUNNING")
    add_run(client, "second", "not asked for", metrics={"val/miou": 0.9})
    parent = client.create_run(client.get_experiment_by_name("second").experiment_id, tags={"harness.kind": "variant"})
    client.log_metric(parent.info.run_id, "val/miou", 0.9)

    frame = results_frame(uri, ["a", "b", "c", "d", "never run"])
    assert_declared(frame)
    rows = frame[["trial_id", "study", "state", "run_id", "split", "metric", "value", "commit", "note"]]
    found = rows.astype(object).where(rows.notna(), None).to_numpy().tolist()
    assert found == [
        ["a", "second", "FAILED", failed, None, None, None, "unknown", "boom"],
        ["b", "first", "COMPLETE", shared, "cost", "gmacs", 3.0, "c0", ""],
        ["b", "first", "COMPLETE", shared, "test", "oiou", 0.25, "c0", ""],
        ["b", "first", "COMPLETE", shared, "val", "miou", 0.5, "c0", ""],
        ["c", "second", "PRUNED", killed, None, None, None, "unknown", ""],
        ["d", "second", "RUNNING", running, None, None, None, "unknown", ""],
    ]
    assert set(frame["replicate"]) == {1}
    assert frame["started"].unique().tolist() == [pd.Timestamp("2023-11-14 22:13:20.123", tz="UTC")]


def test_every_look_at_a_split_is_counted(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = connect(uri)
    for study, trial in (("first", "a"), ("second", "a"), ("second", "b")):
        add_run(client, study, trial, metrics={"test/miou": 0.5, "test/oiou": 0.5}, data_fingerprint="d")
    add_run(client, "third", "c", metrics={"test/miou": 0.5}, data_fingerprint="other")
    add_run(client, "second", "again", metrics={"test/miou": 0.5}, status="FAILED", data_fingerprint="d")
    add_run(client, "second", "not tested", metrics={"val/miou": 0.5, "testing/x": 0.5}, data_fingerprint="d")
    add_run(client, "second", "tuned", metrics={"test/miou": 0.5}, data_fingerprint="d", kind="search")
    gone = add_run(client, "second", "gone", metrics={"test/miou": 0.5}, data_fingerprint="d")
    client.delete_run(gone)
    expected = {("first", "a"), ("second", "a"), ("second", "b")}
    assert looks_at(uri, "test", {"d"}) == expected
    monkeypatch.setattr("harness.results.is_database", lambda _: False)
    assert looks_at(uri, "test", {"d"}) == expected, "as a server says it"


def test_more_entries_than_one_page_holds(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.results, "PAGE", 1)
    client = connect(uri)
    for study in ("first", "second"):
        for trial in ("a", "b"):
            add_run(client, study, trial, metrics={"val/miou": 0.5})
    assert sorted(results_frame(uri, ["a", "b"])["trial_id"]) == ["a", "a", "b", "b"]


def test_address_of_the_runs(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = connect(uri)
    assert runs_page(uri, "one") == "http://127.0.0.1:5000/#/experiments"
    number = client.create_experiment("one")
    page = f"/#/experiments/{number}/runs?workflowType=machine_learning&viewStateShareKey=variants"
    assert runs_page(uri, "one") == f"http://127.0.0.1:5000{page}"
    monkeypatch.setattr(harness.results, "connect", lambda _: client)
    assert runs_page("https://mlflow.example.org/", "one") == f"https://mlflow.example.org{page}"


def test_address_of_a_run(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = connect(uri)
    ours = add_run(client, "one", "a", metrics={"val/miou": 0.5})
    shared = add_run(client, "two", "b", metrics={"val/miou": 0.5})
    frame = results_frame(uri, ["a", "b"])
    assert run_pages(uri, frame)(ours) is None, "no server shows it"
    monkeypatch.setattr(harness.results, "connect", lambda _: client)
    page = run_pages("https://me:secret@mlflow.example.org/base/", frame)
    for run_id, study in ((ours, "one"), (shared, "two")):
        number = client.get_experiment_by_name(study).experiment_id
        assert page(run_id) == f"https://mlflow.example.org/base/#/experiments/{number}/runs/{run_id}"
    assert page("another") is None


def test_a_database_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "mlflow.db"
    made = sqlalchemy_store.SqlAlchemyStore.__init__

    def cut_off(self: sqlalchemy_store.SqlAlchemyStore, *arguments: str) -> None:
        made(self, *arguments)
        assert not path.exists(), "before its tables are there"
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sqlalchemy_store.SqlAlchemyStore, "__init__", cut_off)
        with pytest.raises(KeyboardInterrupt, match=r"^$"):
            connect(f"sqlite:///{path}")
    assert not path.exists()
    connect(f"sqlite:///{path}").create_experiment("a")
    assert [p.name for p in path.parent.iterdir()] == ["mlflow.db"]


def test_the_database_of_the_process_that_was_first_is_kept(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mlflow.db"
    made = sqlalchemy_store.SqlAlchemyStore.__init__

    def overtaken(self: sqlalchemy_store.SqlAlchemyStore, *arguments: str) -> None:
        patch.undo()
        made(self, *arguments)
        add_run(connect(f"sqlite:///{shutil.copy(empty_store, path)}"), "s", "a", metrics={"val/miou": 0.5})

    with monkeypatch.context() as patch:
        patch.setattr(sqlalchemy_store.SqlAlchemyStore, "__init__", overtaken)
        harness.results._create_sqlite(path)
    assert results_frame(f"sqlite:///{path}", ["a"])["value"].tolist() == [0.5]


def test_a_file_that_is_no_database(tmp_path: Path, uri: str) -> None:
    (tmp_path / "mlflow.db").write_text("something else, long enough to be read as a header" * 10)
    with pytest.raises(TrackingError, match=r"^the tracking store sqlite:.* must be .*; got: file is not a database$"):
        results_frame(uri, [])


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TrackingError, match=r"must be reachable and writable; got: .*file"):
        connect(f"sqlite:///{tmp_path}/file/mlflow.db")


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    started = time.monotonic()
    with pytest.raises(TrackingError, match=r"the tracking store http://127\.0\.0\.1:9 must be reachable") as caught:
        connect("http://127.0.0.1:9")
    assert time.monotonic() - started < 20
    assert "\n" not in str(caught.value)
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "3", "what the user has set stays"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def test_errors_without_text_are_named() -> None:
    with pytest.raises(TrackingError, match=r"got: OperationalError$"), store_errors("sqlite:///x"):
        raise sqlite3.OperationalError


def test_a_file_system_without_links_gets_a_whole_database_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("links are not supported")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    connect(f"sqlite:///{tmp_path / 'mlflow.db'}").create_experiment("a")
    assert [p.name for p in tmp_path.iterdir()] == ["mlflow.db"]


def test_an_address_that_is_none_is_shown_as_it_is() -> None:
    assert harness.results.shown("nobody@no-port:x/y") == "nobody@no-port:x/y"


def test_a_server_that_asks_to_wait_is_away() -> None:
    busy = MlflowException("come again", error_code=TEMPORARILY_UNAVAILABLE)
    assert harness.results.is_away(busy, "sqlite:///never-opened.db")


class Pages:
    """A store of runs that hands out a page of one at a time."""

    def __init__(self, *runs: str) -> None:
        self.runs = [SimpleNamespace(data=SimpleNamespace(tags={"harness.trial_id": run})) for run in runs]
        self.asked: list[str] = []

    def search_experiments(self, **_: object) -> PagedList[SimpleNamespace]:
        return PagedList([SimpleNamespace(experiment_id="1")] if self.runs else [], None)

    def search_runs(
        self, ids: list[str], query: str, *, max_results: int, page_token: str | None
    ) -> PagedList[SimpleNamespace]:
        assert (ids, max_results) == (["1"], harness.results.PAGE)
        self.asked.append(query)
        place = int(page_token or 0)
        return PagedList(self.runs[place : place + 1], str(place + 1) if place + 1 < len(self.runs) else None)


def test_runs_of_many_trials_are_read_in_pages_and_those_of_others_left_out() -> None:
    store: Any = Pages("a", "b", "c")
    wanted = {"a", "c", *map(str, range(harness.results.FEW))}
    found = harness.results._trial_runs(store, wanted)
    assert [run.data.tags["harness.trial_id"] for run in found] == ["a", "c"]
    assert set(store.asked) == {"tags.`harness.kind` = 'trial'"}
    empty: Any = Pages()
    assert harness.results.find_runs(empty, "") == []
