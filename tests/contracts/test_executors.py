"""What every executor must do: the same numbers, a failure that stays alone, work that goes on where it stopped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from harness.executor import Executor
from harness.local_executor import LocalExecutor
from harness.records import Limits, Trial, TrialState
from harness.trial_folder import (
    EpochScores,
    append_history,
    clear_failure,
    read_history,
    read_result,
    trial_folder,
)
from tests.events import Events, run_all
from tests.tiny import Context, CrashError, fit, tiny_plan, with_workers

GENTLE = (("lr: 2.0e-3", "lr: 1.0e-4"), ("kernels: [1, 3]", "kernels: [1, 3]\n    cim: false"))
"""A step whose rounding training does not amplify within three epochs; see `tests.tiny.double_precision`."""


@dataclass(frozen=True)
class Ran:
    """Three trials after they ran: one stopped after epoch 2 of 3 before, one fails, one has two workers."""

    storage: Path
    resumed: Trial
    failing: Trial
    shared: Trial
    events: Events

    @property
    def trials(self) -> tuple[Trial, ...]:
        return self.resumed, self.failing, self.shared

    def scores(self, trial: Trial) -> dict[tuple[str, str], float]:
        return {(s.split, s.metric): s.value for s in self.events.results[trial.id].scores}


def ran(folder: Path, executor: Executor) -> Ran:
    resumed, other = tiny_plan(folder, *GENTLE).trials
    failing = replace(resumed, train={**resumed.train, "global_batch": 11}, variant="too large a batch")
    storage = folder / "runs"
    shared = with_workers(other, 2)
    with pytest.raises(CrashError, match="after epoch 3"):
        fit(resumed, Context(storage, resumed, stop_after=3))
    # one after the other, so that one process of Ray is enough for the first two
    events = run_all(executor, [resumed, failing, shared], storage, limits=Limits(max_running=1))
    return Ran(storage, resumed, failing, shared, events)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return ran(tmp_path_factory.mktemp("local"), LocalExecutor())


@pytest.fixture(scope="module", params=["local", pytest.param("ray", marks=pytest.mark.ray)])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, local: Ran) -> Iterator[Ran]:
    if request.param == "local":
        return local
    request.getfixturevalue("ray_cluster")
    from harness.ray_executor import RayExecutor

    return ran(tmp_path_factory.mktemp("ray"), RayExecutor())


def test_every_trial_ends(both: Ran) -> None:
    assert sorted(both.events.started_ids) == sorted(t.id for t in both.trials)
    states = [both.events.results[t.id].state for t in both.trials]
    assert states == [TrialState.COMPLETE, TrialState.FAILED, TrialState.COMPLETE]
    for trial in both.trials:
        assert read_result(trial_folder(both.storage, trial)) == both.events.results[trial.id]


def test_a_failure_keeps_its_traceback(both: Ran) -> None:
    error = both.events.results[both.failing.id].error or ""
    assert error.startswith("Traceback (most recent call last):")
    assert "harness/train.py" in error
    last = (
        "harness.errors.HarnessError: train.global_batch must be at most the number of training samples, got 11 for 10"
    )
    assert error.strip().splitlines()[-1].startswith(last)


def test_a_stopped_trial_goes_on_from_its_checkpoint(both: Ran) -> None:
    assert both.events.epochs[both.resumed.id] == [3]
    assert both.events.epochs[both.shared.id] == [1, 2, 3]
    assert both.events.epochs[both.failing.id] == []


def test_files_are_left(both: Ran) -> None:
    folder = trial_folder(both.storage, both.shared)
    names = {path.name for path in folder.iterdir()}
    splits = ("val", "test", "val_shuffled", "test_shuffled")
    assert {*(f"samples_{split}.parquet" for split in splits), "environment.json", "seeds.json", "result.json"} <= names
    assert any(name.startswith("state-3-") for name in names)
    result = both.events.results[both.shared.id]
    assert Path(str(result.checkpoint)).is_file()
    assert result.cost.keys() >= {"parameters", "gmacs", "latency_ms", "train_s"}


def test_scores_do_not_depend_on_executor_and_workers(both: Ran, local: Ran) -> None:
    """The local executor has one worker whatever the trial asks for."""
    for trial in (both.resumed, both.shared):
        assert both.scores(trial) == pytest.approx(local.scores(trial), abs=1e-6)
        expected = read_history(trial_folder(local.storage, trial))
        for epoch, kept in zip(read_history(trial_folder(both.storage, trial)), expected, strict=True):
            assert epoch.scores == pytest.approx(kept.scores, abs=1e-5)
    assert local.scores(local.shared)["val", "miou"] > 0, "scores of zero compare nothing"


def test_a_trial_that_has_ended_is_not_run_again(both: Ran) -> None:
    """The failed one neither: whoever wants it run again clears the failure first."""
    again = run_all(LocalExecutor(), both.trials, both.storage)
    assert again.started_ids == []
    assert again.elsewhere == both.events.results
    clear_failure(trial_folder(both.storage, both.failing))
    retry = run_all(LocalExecutor(), both.trials, both.storage)
    assert retry.results[both.failing.id].state is TrialState.FAILED
    assert retry.results.keys() == {both.failing.id}


def test_a_line_cut_short_costs_that_line_only(tmp_path: Path) -> None:
    assert read_history(tmp_path) == []
    append_history(tmp_path, EpochScores(1, {"val/miou": 0.1}, 5.0))
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('\n{"epoch": 2, "sco')
    append_history(tmp_path, EpochScores(2, {"val/miou": 0.2}, 6.0))
    append_history(tmp_path, EpochScores(2, {"val/miou": 0.3}, 7.0))
    found = read_history(tmp_path)
    assert [(e.epoch, e.scores["val/miou"]) for e in found] == [(1, 0.1), (2, 0.3)]
