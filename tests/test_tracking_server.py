"""A real tracking server that is killed while a study runs: its record is that of an undisturbed study."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

import harness.courier
import harness.tracking
from harness.environment import Code
from harness.errors import TrackingError
from harness.results import complete_trials, results_frame
from harness.tracking import MlflowTracker, default_uri
from tests.recorded_study import play, record_of
from tests.servers import MlflowServer
from tests.tiny import tiny_plan

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[MlflowServer]:
    """A tracking server, started once; whoever needs it waits for it."""
    folder = tmp_path_factory.mktemp("server")
    server = MlflowServer(folder, f"sqlite:///{shutil.copy(empty_store, folder)}")
    server.start()
    yield server
    server.kill()


def test_a_server_killed_in_mid_study(
    server: MlflowServer, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness.tracking, "code_state", lambda: Code("c0ffee", True))
    monkeypatch.setattr(harness.tracking, "code_diff", lambda: "+ a line")
    monkeypatch.setattr(harness.courier, "PAUSES", (0.2,))
    plan = tiny_plan(tmp_path, ("replicates: 1", "replicates: 2"))
    plain, disturbed = tmp_path / "plain", tmp_path / "disturbed"
    plain.mkdir()
    shutil.copy(empty_store, plain)
    tracker = MlflowTracker(default_uri(plain), plain)
    tracker.open(plan, "name: tiny")
    play(plan, tracker, plain)
    tracker.close()

    server.wait()
    said: list[str] = []
    tracker = MlflowTracker(server.uri, disturbed, say=said.append)
    tracker.open(plan, "name: tiny")
    events = 0

    def between() -> None:
        nonlocal events
        events += 1
        if events == 5:
            threading.Timer(0.05, server.kill).start()  # while records are being delivered
        if events == 12:  # the study has gone on meanwhile
            assert tracker.flush(1.0) > 5
            with pytest.raises(TrackingError, match=r"the tracking store http://127\.0\.0\.1:\d+ must be reachable"):
                tracker.complete(["x"])
            server.start()

    play(plan, tracker, disturbed, between=between)
    tracker.close()
    assert "is away; trials go on, records wait in" in said[0]
    assert [line for line in said[1:] if "is back" not in line] == []
    assert list((disturbed / "spool").rglob("*.json")) == []

    found, expected = record_of(server.uri, "tiny"), record_of(default_uri(plain), "tiny")
    assert found.keys() == expected.keys()
    for name, run in expected.items():
        assert found[name] == run, name

    ids = [trial.id for trial in plan.trials]
    frame = results_frame(server.uri, ids)
    assert complete_trials(server.uri, ids) == set(frame.loc[frame["state"] == "COMPLETE", "trial_id"])
    assert frame["fault"].dropna().tolist() == ["diverged"]
    same = [column for column in frame.columns if column not in ("run_id", "started")]
    pd.testing.assert_frame_equal(frame[same], results_frame(default_uri(plain), ids)[same])
    pd.testing.assert_frame_equal(frame, results_frame(server.store, ids))
