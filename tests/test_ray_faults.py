"""What becomes of trials that go wrong on Ray, of the processes they leave, and of the queue behind them."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import harness.metrics
from harness.errors import DivergedError, HarnessError, TrialStopped
from harness.executor import Session
from harness.records import Fault, Limits, Resources, Score, Trial, TrialResult, TrialState
from harness.schedule import FixedSource
from harness.trial_folder import read_attempts, read_result, trial_folder, write_json
from tests.events import Events, run_all
from tests.test_schedule import trial as named

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

QUICK = Resources(cpus_per_worker=2)


def entry(trial: Trial, context: Any) -> TrialResult:
    """A trial of a fraction of a second, which behaves as its model's name says."""
    acts = {"leaves": leaves, "looks": looks, "hangs": hangs, "dies once": dies_once, "needs": needs, "waits": waits}
    name = str(trial.model["name"])
    if name == "diverges":
        raise DivergedError("the loss is nan in step 7")
    if name == "raises":
        raise ValueError("a mistake")
    value = acts[name](trial, context) if name in acts else 0.5
    context.report(1, {"val/miou": value})
    return TrialResult(trial.id, TrialState.COMPLETE, (Score("val", "miou", value),), best_epoch=1)


def hangs(_trial: Trial, _context: Any) -> float:
    threading.Event().wait()
    return 0.0


def dies_once(_trial: Trial, context: Any) -> float:
    before = context.folder / "been-here"
    if not before.exists():
        before.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return 1.0


def needs(trial: Trial, _context: Any) -> float:
    """Memory that no machine has, until it is asked for one sample at a time."""
    share = trial.resources.micro_batch or 4
    torch.empty(2**50 if share > 1 else 1)
    return float(share)


def waits(_trial: Trial, context: Any) -> float:
    (context.folder / "waits").touch()
    while not context.stop_requested():
        time.sleep(0.05)
    raise TrialStopped("saved")


def leaves(trial: Trial, _context: Any) -> float:
    """What a careless trial leaves behind; replicate 1 leaves what cannot be put back."""
    os.environ["LEFT"] = "1"
    torch.manual_seed(0)
    random.seed(0)
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(7)
    if trial.replicate == 1:
        harness.metrics.METRICS = {}
    return float(os.getpid())


def looks(_trial: Trial, context: Any) -> float:
    seen = {
        "env": os.environ.get("LEFT"),
        "dtype": str(torch.zeros(1).dtype),
        "metrics": len(harness.metrics.METRICS),
        "draws": [random.random(), torch.rand(()).item()],
        "main_thread_only": threading.active_count(),
    }
    write_json(context.folder / "seen.json", seen)
    return float(os.getpid())


def behaving(name: str, **resources: Any) -> Trial:
    found = named(name)
    return replace(found, train={"global_batch": 4, "epochs": 1}, resources=replace(QUICK, **resources))


@pytest.fixture(scope="module")
def executor() -> Any:
    """One for all tests, which share its processes as the phases of a study do."""
    from harness.ray_executor import RayExecutor

    return RayExecutor(entry=entry)


def score(result: TrialResult) -> float:
    return result.scores[0].value


def test_every_failure_ends_in_its_own_state_and_the_rest_goes_on(executor: Any, tmp_path: Path) -> None:
    names = ("diverges", "raises", "hangs", "dies once", "needs", "fine")
    trials = {name: behaving(name, timeout_min=0.05 if name == "hangs" else None) for name in names}
    events: Events = run_all(executor, list(trials.values()), tmp_path)
    found = {name: events.results[trial.id] for name, trial in trials.items()}
    assert {name: (result.state, result.fault) for name, result in found.items()} == {
        "diverges": (TrialState.FAILED, Fault.DIVERGED),
        "raises": (TrialState.FAILED, Fault.ERROR),
        "hangs": (TrialState.FAILED, Fault.TIMEOUT),
        "dies once": (TrialState.COMPLETE, None),
        "needs": (TrialState.COMPLETE, None),
        "fine": (TrialState.COMPLETE, None),
    }
    assert "ValueError: a mistake" in (found["raises"].error or "")
    hung = found["hangs"].error or ""
    assert "in hangs" in hung, "the stacks say where"
    assert hung.splitlines()[-1] == "TimeoutError: longer than resources.timeout_min = 0.05"
    assert score(found["needs"]) == 1.0, "one sample at a time"
    assert [a["changes"] for a in read_attempts(trial_folder(tmp_path, trials["needs"]))] == [
        {"micro_batch": 2, "eval_batch": 4},
        {"micro_batch": 1, "eval_batch": 2},
    ]
    assert found["needs"].notes["restarts"] == 2
    (lost,) = events.attempts[trials["dies once"].id]
    assert lost["fault"] == Fault.INFRASTRUCTURE
    for name, trial in trials.items():
        assert read_result(trial_folder(tmp_path, trial)) == found[name]
        assert "ray_faults" not in (trial_folder(tmp_path, trial) / "log-0.txt").read_text().splitlines()[0]


def test_a_process_is_used_again_and_shows_nothing_of_the_trial_before(executor: Any, tmp_path: Path) -> None:
    import json

    first, second = behaving("leaves#0"), behaving("looks#0")
    events = run_all(executor, [first, second], tmp_path, limits=Limits(max_running=1))
    pids = [score(events.results[t.id]) for t in (first, second)]
    assert pids[0] == pids[1], "one process for both"
    seen = json.loads((trial_folder(tmp_path, second) / "seen.json").read_text())
    assert (seen["env"], seen["dtype"]) == (None, "torch.float32")
    random.seed(0)
    assert seen["draws"][0] != random.random()
    assert seen["draws"][1] != torch.rand((), generator=torch.Generator().manual_seed(0)).item()
    assert events.notices == []


@pytest.mark.cluster
def test_a_process_that_cannot_be_cleaned_is_not_used_again(executor: Any, tmp_path: Path) -> None:
    import json

    first, second = behaving("leaves#1"), behaving("looks#0")
    events = run_all(executor, [first, second], tmp_path, limits=Limits(max_running=1))
    pids = [score(events.results[t.id]) for t in (first, second)]
    assert pids[0] != pids[1]
    assert json.loads((trial_folder(tmp_path, second) / "seen.json").read_text())["metrics"] > 0
    (notice,) = events.notices
    assert notice == "the process of leaves #1 is not used again: harness.metrics has other values of METRICS"


@pytest.mark.cluster
def test_gpus_are_given_out_and_never_twice(executor: Any, tmp_path: Path) -> None:
    trials = [behaving(f"t{i}", gpus_per_worker=2) for i in range(3)]
    events = run_all(executor, trials, tmp_path)
    assert {r.state for r in events.results.values()} == {TrialState.COMPLETE}


@pytest.mark.parametrize(
    ("resources", "text"),
    [
        ({"gpus_per_worker": 8}, "one trial needs 1 worker of 2 CPUs and 8 GPUs, the cluster has 1 node of 4 CPUs"),
        ({"gpus_per_worker": 1, "accelerator": "H100"}, r"1 worker of 2 CPUs and 1 GPU \(H100\), the cluster has"),
        ({"workers": 9}, "one trial needs 9 workers of 2 CPUs, the cluster has"),
    ],
)
def test_what_no_node_has_is_named_before_anything_starts(
    executor: Any, tmp_path: Path, resources: dict[str, Any], text: str
) -> None:
    events = Events()
    with pytest.raises(HarnessError, match=text):
        run_all(executor, [behaving("fine"), behaving("large", **resources)], tmp_path, observer=events)
    assert events.started_ids == []


@pytest.mark.cluster
def test_a_budget_that_is_used_up_is_named(executor: Any, tmp_path: Path) -> None:
    trials = [behaving(f"t{i}") for i in range(3)]
    events = run_all(executor, trials, tmp_path, limits=Limits(max_running=1, hours=1e-6))
    assert len(events.results) == 1
    assert events.notices == ["schedule.hours = 1e-06 is used up: no more trials are started"]


def test_asked_to_stop_running_trials_save_their_state_and_no_more_start(executor: Any, tmp_path: Path) -> None:
    trials = [behaving("waits#0"), behaving("waits#1"), *(behaving(f"fine#{i}") for i in range(3))]
    events = Events()
    with Session.opened(tmp_path, "test", Limits(max_running=2)) as session:
        folders = [trial_folder(tmp_path, t) for t in trials[:2]]

        def stop() -> None:
            while not all((folder / "waits").exists() for folder in folders):
                time.sleep(0.05)
            session.claims.stop_file.touch()

        threading.Thread(target=stop, daemon=True).start()
        executor.run(FixedSource(trials), session, events)
    assert sorted(events.stopped_ids) == sorted(t.id for t in trials[:2])
    assert events.results == {}
    assert not list(tmp_path.glob("trials/*/claim.json"))


@pytest.mark.cluster
def test_asked_twice_running_trials_are_ended(executor: Any, tmp_path: Path) -> None:
    trial = behaving("hangs")
    events = Events()
    with Session.opened(tmp_path, "test") as session:

        def stop() -> None:
            while not (trial_folder(tmp_path, trial) / "log-0.txt").exists():
                time.sleep(0.05)
            session.claims.stop_file.write_text("now")

        threading.Thread(target=stop, daemon=True).start()
        executor.run(FixedSource([trial]), session, events)
    assert events.stopped_ids == [trial.id]
    assert read_result(trial_folder(tmp_path, trial)) is None


@pytest.mark.cluster
def test_two_drivers_run_every_trial_once(executor: Any, tmp_path: Path) -> None:
    from harness.ray_executor import RayExecutor

    trials = [behaving(f"t{i}") for i in range(6)]
    found: list[Events] = []

    def drive(mine: RayExecutor, order: list[Trial]) -> None:
        found.append(run_all(mine, order, tmp_path))

    executor.close()
    both = [(RayExecutor(entry=entry), trials), (RayExecutor(entry=entry), trials[::-1])]
    threads = [threading.Thread(target=drive, args=each) for each in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, second = found
    assert first.results.keys().isdisjoint(second.results)
    assert first.results.keys() | second.results.keys() == {t.id for t in trials}
    assert first.results.keys() | first.elsewhere.keys() == {t.id for t in trials}
    for trial in trials:
        assert len((trial_folder(tmp_path, trial) / "history.jsonl").read_text().split("\n")) == 2, "trained once"
    for mine, _ in both:
        mine.close()


@pytest.mark.cluster
def test_a_pilot_measures_what_a_share_of_a_gpu_must_be(executor: Any, tmp_path: Path) -> None:
    trials = [behaving(f"measures#{i}", gpus_per_worker=0.25) for i in range(3)]
    for trial in trials:
        write_json(trial_folder(tmp_path, trial) / "memory.json", {"peak_mib": 50.0, "total_mib": 100.0})
    run_all(executor, trials, tmp_path)
    import json

    given = [json.loads((trial_folder(tmp_path, t) / "trial.json").read_text())["resources"] for t in trials]
    assert [g["gpus_per_worker"] for g in given] == [1.0, 0.55, 0.55]
