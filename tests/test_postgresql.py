"""PostgreSQL as the store of a team: many writers at once, and the same frame however it is read."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient

import harness.results
from harness.errors import TrackingError
from harness.records import Score, Trial, TrialResult, TrialState
from harness.results import connect, results_frame
from harness.tracking import MlflowTracker
from harness.trial_folder import EpochScores, trial_folder
from tests.servers import postgresql
from tests.tiny import tiny_plan

NUM_WRITERS = 16
EPOCHS = 5
NAMES = ("miou", "oiou", "p50", "p60", "p70", "p80", "p90")

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def uri() -> Iterator[str]:
    with postgresql() as found:
        yield found


def test_sixteen_writers_lose_and_double_nothing(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.tracking, "code_state", lambda: harness.environment.Code("c0ffee", False))
    plan = tiny_plan(tmp_path)
    trials = tuple(replace(plan.trials[0], replicate=n) for n in range(NUM_WRITERS))
    plan = replace(plan, trials=trials, tables=())
    connect(uri)  # one process makes the tables
    opener = MlflowTracker(uri, tmp_path)
    opener.open(plan, "")

    def write(trial: Trial) -> list[str]:
        said: list[str] = []
        # another name is another set of connections
        tracker = MlflowTracker(f"{uri}?application_name=w{trial.replicate}", tmp_path, say=said.append)
        tracker.open(plan, "")
        tracker.started(trial)
        for n in range(1, EPOCHS + 1):
            tracker.reported(trial, EpochScores(n, dict.fromkeys(NAMES, n / 10), 1_700_000_000.0 + n))
        scores = tuple(Score("val", name, trial.replicate + index / 10) for index, name in enumerate(NAMES))
        result = TrialResult(trial.id, TrialState.COMPLETE, scores, best_epoch=1)
        tracker.finished(trial, result, trial_folder(tmp_path, trial))
        tracker.close()
        return said

    with ThreadPoolExecutor(NUM_WRITERS) as pool:
        assert list(pool.map(write, trials)) == [[]] * NUM_WRITERS
    opener.close()

    frame = results_frame(uri, [trial.id for trial in trials])
    assert len(frame) == NUM_WRITERS * len(NAMES)
    for trial in trials:
        rows = frame[frame["trial_id"] == trial.id]
        assert dict(zip(rows["metric"], rows["value"], strict=True)) == {
            name: trial.replicate + index / 10 for index, name in enumerate(NAMES)
        }
    client = MlflowClient(tracking_uri=uri)
    for run_id in frame["run_id"].unique():
        for name in NAMES:
            history = client.get_metric_history(run_id, f"epoch/{name}")
            assert [(m.step, m.value) for m in history] == [(n, n / 10) for n in range(1, EPOCHS + 1)]
    experiment = client.get_experiment_by_name(plan.study)
    kinds = [r.data.tags["harness.kind"] for r in client.search_runs([experiment.experiment_id])]
    assert sorted(kinds) == ["trial"] * NUM_WRITERS + ["variant"]
    (parent,) = client.search_runs([experiment.experiment_id], "tags.`harness.kind` = 'variant'")
    assert parent.data.metrics["val/miou"] == pytest.approx(sum(range(NUM_WRITERS)) / NUM_WRITERS)
    assert (parent.info.status, parent.data.tags["harness.replicates_done"]) == ("FINISHED", str(NUM_WRITERS))

    with monkeypatch.context() as patch:
        patch.setattr(harness.results, "is_database", lambda _: False)
        pd.testing.assert_frame_equal(frame, results_frame(uri, [trial.id for trial in trials]))


def test_a_database_that_is_not_there() -> None:
    with pytest.raises(TrackingError, match=r"^the tracking store postgresql://me:\*\*\*@127\.0\.0\.1:9/x must be"):
        connect("postgresql://me:secret@127.0.0.1:9/x")
