"""A record reaches the store once, wherever its delivery is cut off, and whoever delivers it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR

import harness.courier
import harness.delivery
import harness.tracking
from harness.claims import Driver, this_host
from harness.cli import main
from harness.environment import Code
from harness.errors import TrackingError
from harness.records import Plan
from harness.results import results_frame
from harness.spool import SPOOL, Spool, is_abandoned, spools
from harness.sync import lines_of, sync
from harness.tracking import MlflowTracker, default_uri
from harness.tuning import SEARCH
from tests.conftest import ROOT
from tests.recorded_study import play, record_of
from tests.tiny import tiny_plan


@pytest.fixture
def plan(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Two variants with two replicates, and a store without runs in `tmp_path`."""
    shutil.copy(empty_store, tmp_path)
    monkeypatch.setattr(harness.tracking, "code_state", lambda: Code("c0ffee", False))
    monkeypatch.setattr(harness.courier, "PAUSES", (0.01,))
    return tiny_plan(tmp_path, ("replicates: 1", "replicates: 2"))


@pytest.fixture
def undisturbed(tmp_path: Path, empty_store: Path, plan: Plan) -> dict[str, Any]:
    """What a store holds of the plan when nothing happens."""
    storage = tmp_path / "undisturbed"
    storage.mkdir()
    shutil.copy(empty_store, storage)
    tracker = opened(storage, plan)
    play(plan, tracker, storage)
    tracker.close()
    assert list((storage / SPOOL).rglob("*.json")) == []
    return record_of(default_uri(storage), plan.study)


def opened(storage: Path, plan: Plan, say: Callable[[str], None] = print) -> MlflowTracker:
    tracker = MlflowTracker(default_uri(storage), storage, code={"code_sha": "abc", "files": {}}, say=say)
    tracker.open(plan, "name: tiny")
    return tracker


class CutOff:
    """A client whose answers are lost: the n-th try of a record ends behind its n-th call, which took effect."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client
        self.tries = self.calls = self.lost = 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*args: Any, **given: Any) -> Any:
            self.calls += 1
            found = method(*args, **given)
            if self.calls == self.tries:
                self.lost += 1
                raise ConnectionResetError("the answer was lost")
            return found

        return call


def test_cut_off_behind_every_call(
    tmp_path: Path, plan: Plan, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness.courier, "MAX_TRIES", 1000)
    deliver = harness.delivery.Delivery.deliver

    def cut_off(self: harness.delivery.Delivery, record: dict[str, Any]) -> None:
        if not isinstance(self.client, CutOff):
            self.__dict__["client"] = CutOff(self.client)
        client: Any = self.client
        client.calls, client.tries = 0, client.tries + 1
        deliver(self, record)
        client.tries = 0

    tracker = opened(tmp_path, plan)
    monkeypatch.setattr(harness.delivery.Delivery, "deliver", cut_off)
    play(plan, tracker, tmp_path)
    tracker.close()
    client: Any = tracker._delivery.client
    assert client.lost > 80
    assert record_of(default_uri(tmp_path), plan.study) == undisturbed


def test_a_killed_driver_leaves_records_that_another_process_delivers(
    tmp_path: Path, plan: Plan, undisturbed: dict[str, Any]
) -> None:
    """The store goes away for the driver after a few records, and then the driver is killed."""
    script = """
        import os, signal, sys
        from pathlib import Path
        import harness.delivery, harness.tracking
        from harness.environment import Code
        from tests.recorded_study import play
        from tests.test_delivery import opened
        from tests.tiny import tiny_plan
        storage = Path(sys.argv[1])
        harness.tracking.code_state = lambda: Code("c0ffee", False)
        plan = tiny_plan(storage, ("replicates: 1", "replicates: 2"))
        deliver, count = harness.delivery.Delivery.deliver, []
        def away_soon(self, record):
            count.append(record)
            if len(count) > 8:
                raise harness.errors.TrackingError("away")
            deliver(self, record)
        harness.delivery.Delivery.deliver = away_soon
        tracker = opened(storage, plan)
        play(plan, tracker, storage)
        while len(count) < 9: pass
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    (spool,) = spools(tmp_path)
    assert len(spool.waiting()) == 12
    (one,) = sync(tmp_path)
    assert (one.delivered, one.waiting, one.refused, one.note) == (12, 0, (), "")
    assert spools(tmp_path) == []
    second = opened(tmp_path, plan)  # the same command again
    assert len(second.complete(t.id for t in plan.trials)) == 3
    second.close()
    assert record_of(default_uri(tmp_path), plan.study) == undisturbed


def orphan(storage: Path) -> Spool:
    """Make the one spool there look as if its driver had died."""
    (spool,) = spools(storage)
    value = json.loads((spool.folder / "owner").read_text())
    (spool.folder / "owner").write_text(json.dumps({**value, "born": "long ago"}))
    return spool


def away(*_: object) -> None:
    raise TrackingError("the tracking store x must be reachable and writable; got: nothing")


def left_behind(storage: Path, plan: Plan) -> Spool:
    """Records of a driver that died while the store was away."""
    with pytest.MonkeyPatch.context() as patch:
        tracker = opened(storage, plan)
        patch.setattr(harness.delivery.Delivery, "deliver", away)
        play(plan, tracker, storage)
        assert tracker._courier is not None
        tracker._courier.stop()
    return orphan(storage)


def test_a_store_that_stays_away_keeps_nobody_waiting(
    tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    tracker = opened(tmp_path, plan, said.append)
    monkeypatch.setattr(harness.delivery.Delivery, "deliver", away)
    play(plan, tracker, tmp_path)
    tracker.close(patience_s=0.3)
    assert len(said) == 2
    assert "is away; trials go on, records wait in" in said[0]
    assert said[1].startswith("warning: 21 records are not in the tracking store sqlite:")
    monkeypatch.undo()
    (one,) = sync(tmp_path)  # this process lives, but has stopped delivering
    assert one.is_alive
    assert lines_of([one])[0].endswith("their driver lives and delivers them")
    orphan(tmp_path)
    assert [found.delivered for found in sync(tmp_path)] == [21]
    assert (sync(tmp_path), lines_of([])) == ([], ["nothing is waiting"])
    assert len(results_frame(default_uri(tmp_path), [t.id for t in plan.trials])["trial_id"].unique()) == 4


def test_the_same_study_again_delivers_what_was_left_first(
    tmp_path: Path, plan: Plan, undisturbed: dict[str, Any]
) -> None:
    left_behind(tmp_path, plan)
    said: list[str] = []
    tracker = opened(tmp_path, plan, said.append)
    assert len(tracker.complete(t.id for t in plan.trials)) == 3
    tracker.close()
    assert said == ["20 records that an earlier driver of tiny left are in the tracking store now"]
    assert record_of(default_uri(tmp_path), plan.study) == undisturbed


def test_the_verb(
    tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["harness", "sync", *words, "--storage", str(tmp_path)])
        with pytest.raises(SystemExit, match=r"^\d$") as caught:
            main()
        return int(str(caught.value.code)), capsys.readouterr().out

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    left_behind(tmp_path, plan)
    capsys.readouterr()
    code, out = call("--tracking-uri", f"sqlite:///{tmp_path}/other.db", "--json")
    (one,) = json.loads(out)
    assert (code, one["study"], one["waiting"]) == (1, "tiny", 20)
    code, out = call(str(tmp_path / "tiny.yaml"))
    assert (code, out.startswith("tiny: 20 records delivered to sqlite:")) == (0, True)
    assert call("--json") == (0, "[]\n")
    assert call() == (0, "nothing is waiting\n")


def test_what_is_for_another_store_or_another_study_stays(tmp_path: Path, plan: Plan) -> None:
    left_behind(tmp_path, plan)
    other = f"sqlite:///{tmp_path}/other.db"
    assert sync(tmp_path, study="other") == []
    (one,) = sync(tmp_path, other)
    assert (one.delivered, one.waiting) == (0, 20)
    assert "they are for sqlite:" in one.note
    MlflowTracker(other, tmp_path).open(plan, "")
    assert len(spools(tmp_path)[0].waiting()) == 20


def test_what_a_reachable_store_fails_at_is_set_aside(
    tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    tracker = opened(tmp_path, plan, said.append)
    deliver = harness.delivery.Delivery.deliver

    def fails_at_epochs(self: harness.delivery.Delivery, record: dict[str, Any]) -> None:
        if record["event"] == "reported":
            raise MlflowException("a defect of the server", INTERNAL_ERROR)
        deliver(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(harness.delivery.Delivery, "deliver", fails_at_epochs)
        play(plan, tracker, tmp_path, epochs=1)
        tracker.close()
    assert said[-1] == "warning: the tracking store refused 4 records: `harness sync` says why"
    orphan(tmp_path)
    (one,) = sync(tmp_path)
    assert (one.delivered, len(one.refused)) == (0, 4)
    assert "a defect of the server" in lines_of([one])[1]
    (again,) = sync(tmp_path, refused=True)
    assert (again.delivered, again.refused) == (4, ())
    runs = record_of(default_uri(tmp_path), plan.study)
    assert [run["metrics"]["epoch/val/miou"] for name, run in runs.items() if name.startswith("trial ")] == [
        [(1, 0.1)],
    ] * 4


def test_a_damaged_record_is_set_aside(tmp_path: Path, plan: Plan) -> None:
    spool = left_behind(tmp_path, plan)
    spool.waiting()[3].write_text("{half of a reco")
    (one,) = sync(tmp_path)
    assert (one.delivered, one.refused) == (19, ("the record is damaged",))


def test_whoever_delivers_is_alone(tmp_path: Path, plan: Plan) -> None:
    spool = left_behind(tmp_path, plan)
    with spool.delivering() as is_mine:
        assert is_mine
        (one,) = sync(tmp_path)
        assert one.note == "another process delivers them"
    assert sync(tmp_path)[0].delivered == 20


def test_a_driver_on_another_machine(tmp_path: Path, plan: Plan) -> None:
    """It lives as long as it touches its file; without one it is gone."""
    spool = left_behind(tmp_path, plan)
    value = json.loads((spool.folder / "owner").read_text())
    (spool.folder / "owner").write_text(json.dumps({**value, "host": "elsewhere"}))
    assert is_abandoned(spool, tmp_path)
    beat = tmp_path / "drivers" / f"{spool.folder.name}.json"
    beat.parent.mkdir()
    driver = Driver(spool.folder.name, "tiny", "elsewhere", os.getpid(), "", 0.0)
    beat.write_text(json.dumps(driver.__dict__))
    assert not is_abandoned(spool, tmp_path)
    assert this_host() != "elsewhere"


def test_a_trial_of_a_search_is_in_no_table(tmp_path: Path, plan: Plan) -> None:
    """It stands under its variant, and changes neither the variant's means nor a report."""
    tracker = opened(tmp_path, plan)
    searched = replace(plan.trials[0], train={**plan.trials[0].train, "lr": 0.5}, kind=SEARCH)
    play(replace(plan, trials=(searched,)), tracker, tmp_path)
    tracker.close()
    found = record_of(default_uri(tmp_path), plan.study)
    run = found[f"search {searched.variant} / {searched.id}"]
    assert (run["parent"], run["status"]) == (searched.variant, "FINISHED")
    assert found[f"variant {searched.variant}"]["metrics"] == {}
    assert results_frame(default_uri(tmp_path), [searched.id]).empty
    assert opened(tmp_path, plan).complete([searched.id]) == frozenset()


def test_a_full_disk_is_named(tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = opened(tmp_path, plan)

    def full(path: Path, _: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("harness.spool.write_json", full)
    with pytest.raises(TrackingError, match=r"the spool folder must be writable, got .*; free the disk"):
        tracker.started(plan.trials[0])
