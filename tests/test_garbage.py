"""What can be thrown away, and what must stay whatever happens."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from harness.claims import CLAIM, DRIVERS, Claims, Driver, this_host
from harness.garbage import Limits, find_garbage
from harness.spool import Spool
from tests.command import Command

GONE = Driver("feed", "tiny", this_host(), 2**22 + 1, "1", 0.0)


@pytest.fixture
def storage(ran_tiny: Path, tmp_path: Path) -> Path:
    """What the tiny study left, beside traces of a driver that was killed."""
    storage = Path(shutil.copytree(ran_tiny, tmp_path / "storage"))
    (storage / DRIVERS).mkdir(exist_ok=True)
    (storage / DRIVERS / "feed.json").write_text(json.dumps(asdict(GONE)))
    (storage / DRIVERS / "feed.stop").write_text("")
    (storage / "spool" / "tiny" / "feed").mkdir(parents=True)
    shutil.rmtree(storage / "code")
    (storage / "code" / "abc").mkdir(parents=True)
    folder = storage / "trials" / "0123456789ab"
    folder.mkdir()
    for name in (CLAIM, "best-1.pt.7.tmp", "state-3-9.pt", "history.jsonl"):
        (folder / name).write_text('{"token": "feed"}')
        os.utime(folder / name, (time.time() - 3600,) * 2)
    (storage / ".mlflow.db-x.tmp").mkdir()
    os.utime(storage / ".mlflow.db-x.tmp", (time.time() - 3600,) * 2)
    return storage


def names(storage: Path, limits: Limits | None = None) -> set[str]:
    """What would go, relative to the storage; trials by the last part of their path."""
    found = find_garbage(storage, limits or Limits())
    assert all(g.path.exists() for g in found)
    return {f"{g.group} {g.path.name}" for g in found}


ALWAYS = {
    "states state-1-2.pt",
    "states state-2-4.pt",
    "drivers feed.json",
    "drivers feed.stop",
    "spools feed",
    "code abc",
    "drafts .mlflow.db-x.tmp",
}


def test_what_goes(storage: Path) -> None:
    assert names(storage) == ALWAYS | {"claims claim.json", "drafts best-1.pt.7.tmp"}
    assert "weights best-1.pt" in {n.replace("best-2", "best-1") for n in names(storage, Limits(best=True))}
    known = {path.name for path in (storage / "trials").iterdir()}
    assert names(storage, Limits(recorded=known)) == names(storage)
    assert names(storage, Limits(recorded=known - {"0123456789ab"})) == ALWAYS | {"trials 0123456789ab"}


def test_trials_that_are_complete_are_never_orphans(storage: Path) -> None:
    assert "trials 0123456789ab" in names(storage, Limits(recorded=()))
    assert sum(g.group == "trials" for g in find_garbage(storage, Limits(recorded=()))) == 1


def test_undelivered_records_stay_and_keep_the_trials_they_are_of(storage: Path) -> None:
    (storage / "spool" / "tiny" / "feed" / "1.json").write_text("{}")
    assert names(storage, Limits(recorded=())) == (ALWAYS - {"spools feed"}) | {
        "claims claim.json",
        "drafts best-1.pt.7.tmp",
    }
    assert "spools feed" in names(storage, Limits(spool=True))


def test_nothing_of_a_living_driver_goes(storage: Path) -> None:
    folder = storage / "trials" / "0123456789ab"
    (folder / CLAIM).unlink()
    with Claims(storage, "tiny") as claims:
        assert claims.take(folder)
        (storage / "spool" / "tiny" / claims.driver.token).mkdir()
        Spool.create(storage, study="tiny", uri="sqlite:///mlflow.db")  # of a process that only reports
        # a driver that starts clears away what dead ones of this machine left in drivers/
        kept = {"code abc", "drivers feed.json", "drivers feed.stop"}
        assert names(storage, Limits(recorded=())) == ALWAYS - kept


def test_it_lists_asks_and_deletes(harness: Command, storage: Path) -> None:
    trials = sorted(path for path in (storage / "trials").iterdir() if (path / "result.json").exists())
    kept = {path for folder in trials for path in folder.iterdir() if not path.name.startswith("state-")}
    done = harness("gc", "--storage", storage)
    assert done.code == 2
    assert "complete: nothing goes on from it" in done.out
    assert "there is no terminal to ask on: delete 10 files and folders" in done.err
    assert harness("gc", "--storage", storage, "--dry-run").code == 0
    value = json.loads(harness("gc", "--storage", storage, "--json").out)
    assert [g["removed"] for g in value["garbage"]] == [False] * 10
    assert value["bytes"] == sum(g["size"] for g in value["garbage"]) > 0
    assert (trials[0] / "state-2-4.pt").exists()
    done = harness("gc", "--storage", storage, "--yes")
    assert done.code == 0
    assert "deleted 10, " in done.out
    assert harness("gc", "--storage", storage).out == "nothing to delete\n"
    assert {path for folder in trials for path in folder.iterdir()} == kept
    assert not (storage / "trials" / "0123456789ab").exists()
    assert (storage / "drivers").is_dir()


def test_a_store_of_something_else_condemns_nothing(harness: Command, storage: Path, empty_store: Path) -> None:
    done = harness("gc", "--storage", storage, "--tracking-uri", f"sqlite:///{empty_store}", "--dry-run", "--json")
    assert "knows no trial of" in done.err
    assert {g["group"] for g in json.loads(done.out)["garbage"]} == {
        "states",
        "drivers",
        "claims",
        "spools",
        "drafts",
        "code",
    }
