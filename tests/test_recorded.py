"""Verbs that only read: they make no store, and a study of which nothing is recorded does not replace a good report."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.command import Command, assert_refused


@pytest.fixture
def storage(ran_tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny study's storage."""
    return Path(shutil.copytree(ran_tiny, tmp_path / "copy"))


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def commands(storage: Path) -> dict[str, list[object]]:
    study, paper = storage / "tiny.yaml", storage / "reports" / "tiny"
    one, other = sorted(path.name for path in (storage / "trials").iterdir())
    return {
        "report": ["report", study],
        "check": ["report", study, "--check", paper],
        "explain": ["explain", study, "decoder:arc:miou"],
        "power": ["power", study],
        "pack": ["pack", study, "--out", "x.tar.gz"],
        "diff": ["diff", one, other],
    }


@pytest.mark.parametrize("verb", ["report", "check", "explain", "power", "pack", "diff"])
def test_a_store_that_is_not_there_is_an_error_and_not_made(harness: Command, storage: Path, verb: str) -> None:
    reports = contents(storage / "reports")
    command = [*commands(storage)[verb], "--storage", storage, "--tracking-uri"]
    typo, empty, other = (storage / name for name in ("typo.db", "empty.db", "optuna.db"))
    empty.touch()
    with closing(sqlite3.connect(other)) as database:
        database.execute("CREATE TABLE studies (id)")
        database.commit()
    for path in (typo, empty, other):
        assert_refused(harness(*command, f"sqlite:///{path}"), "must name a store in which", f"{path} is not there or")
    assert not typo.exists()
    assert empty.stat().st_size == 0
    with closing(sqlite3.connect(other)) as database:
        assert database.execute("SELECT name FROM sqlite_master").fetchall() == [("studies",)]
    assert contents(storage / "reports") == reports


def test_what_comes_before_the_first_run_goes_on_without_a_store(harness: Command, storage: Path) -> None:
    uri = f"sqlite:///{storage}/typo.db"
    shutil.rmtree(storage / "trials")
    for words in (["plan", storage / "tiny.yaml"], ["status", storage / "tiny.yaml"], ["gc", "--dry-run"]):
        done = harness(*words, "--storage", storage, "--tracking-uri", uri)
        assert done.code == 0
        assert f"note: there is no store at {uri}" in done.err
    assert not (storage / "typo.db").exists()


def test_a_study_that_was_changed_does_not_replace_its_report(harness: Command, storage: Path) -> None:
    before = contents(storage / "reports") | contents(storage / "spool")
    for more in ([], ["--check", storage / "reports" / "tiny"], ["--out", storage / "reports" / "new"]):
        done = harness("report", storage / "tiny.yaml", "--storage", storage, "--set", "train.epochs=7", *more)
        parts = ("none of its 2 has one in", f"{storage}/mlflow.db", "--set", "run `harness run", "--tracking-uri")
        assert_refused(done, "a trial of study 'tiny' must have a run", *parts)
    assert contents(storage / "reports") | contents(storage / "spool") == before
    assert not (storage / "reports" / "new").exists()


def test_a_report_of_some_trials_says_of_how_many(harness: Command, storage: Path) -> None:
    report = ["report", storage / "tiny.yaml", "--storage", storage]
    assert "trials are complete" not in harness(*report).out
    done = harness(*report, "--set", "replicates=2")
    assert done.code == 0
    assert "trials     2 of 4 trials are complete; tables show why the others have no score" in done.out
