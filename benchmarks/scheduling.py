"""CPU seconds per trial and per study, and how full a cluster is kept; ratios of one run.

    python -m benchmarks.scheduling costs          # about 3 minutes
    python -m benchmarks.scheduling utilisation    # 64 processes, 1,000 trials; about 3 minutes

`costs`: CPU seconds of the whole process tree of one more trivial trial, in a kept process and in its own, against a
bare Ray Train job that does as little; and what a study costs whatever its trials, record in a new MLflow store and the
first process included. Each is the difference of two studies of different length; what a model imports is not in it.
Targets: a trial at most 0.5 CPU-s in a kept process, at most 1.3 times a bare job in one of its own; a study at most 12
CPU-s.

`utilisation`: trials of one second on 64 GPUs that are none, with the processes there already. An ideal schedule keeps
every GPU busy until the last trials end. Targets: at least 0.95 of it; memory of the driver that does not grow.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from harness.records import Plan, Resources, Row, Score, Table, Trial, TrialResult, TrialState

MAX_WARM, MAX_COLD_RATIO, MAX_STUDY, MIN_UTILISATION, MAX_GROWTH = 0.5, 1.3, 12.0, 0.95, 1.1
NUM_TRIALS, NUM_GPUS = 1000, 64
FIRST_ROUND = 0.99
"""CPUs of the trials for which the processes are started."""
SIDES = ("warm", "cold", "bare")


def trivial(trial: Trial, context: Any) -> TrialResult:
    """A trial that does nothing."""
    context.report(1, {"val/miou": 0.5})
    return TrialResult(trial.id, TrialState.COMPLETE, (Score("val", "miou", 0.5),), best_epoch=1)


def one_second(trial: Trial, context: Any) -> TrialResult:
    """A trial that keeps a GPU for a second without computing; those of the first round wait for each other."""
    if trial.resources.cpus_per_worker == FIRST_ROUND:
        (context.folder / "here").touch()
        while len(list(context.storage.glob("trials/*/here"))) < trial.train["together"]:
            time.sleep(1.0)
    time.sleep(1.0)
    return trivial(trial, context)


def make_plan(number: int, **need: Any) -> Plan:
    """A study of one variant with that many replicates."""
    recipe = {"epochs": 1, "global_batch": 1, "together": number}
    trials = tuple(
        Trial(
            *("referring", {"name": "none"}, "f", {"name": "none"}, recipe, {}, i),
            variant="none",
            resources=Resources(**need),
        )
        for i in range(number)
    )
    row = Row("none", "none", {}, tuple(t.id for t in trials), is_reference=True)
    table = Table("none", "comparison", "none", ("miou",), ("val",), (row,))
    return Plan("scheduling", "none", trials, (table,), replicates=number)


class Meter:
    """CPU time of this process and of all below it, those that have ended included: looked at five times a second.

    What looking costs does not count.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[int, float], float] = {}
        self._own = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._done.wait(0.2):
            self._look()
        self._own = time.thread_time()

    def _look(self) -> None:
        me = psutil.Process()
        for process in [me, *me.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                self._seen[process.pid, process.create_time()] = times.user + times.system

    def total(self) -> float:
        """Seconds so far; ends the watch."""
        self._done.set()
        self._thread.join()
        self._look()
        return sum(self._seen.values()) - self._own


def run_study_of(side: str, number: int) -> float:
    """CPU seconds of a process that runs a study of trivial trials, everything included."""
    import ray

    meter = Meter()
    with tempfile.TemporaryDirectory() as folder:
        if side == "bare":
            _bare(number, folder)
        else:
            _ours(make_plan(number, reuse_workers=side == "warm"), Path(folder))
        found = meter.total()
    ray.shutdown()
    return found


def _ours(plan: Plan, storage: Path) -> None:
    import rich.console

    from harness.executor import Session
    from harness.frozen_code import freeze_code
    from harness.progress import StudyProgress
    from harness.ray_executor import RayExecutor
    from harness.study import run_study
    from harness.tracking import MlflowTracker, default_uri

    tracker = MlflowTracker(default_uri(storage), storage)
    tracker.open(plan, "none")
    progress = StudyProgress(plan, rich.console.Console(quiet=True))
    executor = RayExecutor("local", code=freeze_code(storage).folder, entry=trivial)
    with Session.opened(storage, plan.study) as session:
        ended = run_study(plan, tracker=tracker, executor=executor, progress=progress, session=session)
    if ended.failures or ended.left:
        raise SystemExit(f"every trial must end well, got {ended}")


def _bare(number: int, folder: str) -> None:
    import ray
    import ray.train
    from ray.train.torch import TorchTrainer

    ray.init("local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")

    def work() -> None:
        ray.train.report({"miou": 0.5})

    for i in range(number):
        config = ray.train.RunConfig(name=str(i), storage_path=folder)
        TorchTrainer(work, scaling_config=ray.train.ScalingConfig(num_workers=1), run_config=config).fit()


def measure_costs() -> bool:
    """Print the costs; whether every target is reached."""
    spent: dict[tuple[str, int], float] = {}
    lengths = {"warm": (2, 42), "cold": (1, 4), "bare": (1, 4)}
    for side in SIDES:
        for number in (1, *lengths[side]) if side == "warm" else lengths[side]:
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.scheduling", "one", side, str(number)],
                capture_output=True,
                text=True,
                check=True,
            )
            spent[side, number] = float(done.stdout.splitlines()[-1])
    each = {s: (spent[s, b] - spent[s, a]) / (b - a) for s, (a, b) in lengths.items()}
    study, process = spent["warm", 1] - each["warm"], spent["warm", 2] - spent["warm", 1] - each["warm"]
    ratio = each["cold"] / each["bare"]
    print(f"one more trial, kept process     {each['warm']:6.2f} CPU-s  (target at most {MAX_WARM})")
    print(f"one more trial, own process      {each['cold']:6.2f} CPU-s")
    print(f"one more bare Ray Train job      {each['bare']:6.2f} CPU-s")
    print(f"own process over bare job        {ratio:6.2f}        (target at most {MAX_COLD_RATIO})")
    print(f"a study and its first process    {study:6.2f} CPU-s  (target at most {MAX_STUDY:g})")
    print(f"each further kept process        {process:6.2f} CPU-s")
    return each["warm"] <= MAX_WARM and ratio <= MAX_COLD_RATIO and study <= MAX_STUDY


def measure_utilisation(num_trials: int, num_gpus: int) -> bool:
    """Print how full the cluster was kept; whether every target is reached."""
    import ray

    from harness.executor import Session
    from harness.ray_executor import RayExecutor
    from harness.schedule import FixedSource

    os.environ["HARNESS_FAKE_GPUS"] = "1"
    ray.init("local", num_cpus=num_gpus, num_gpus=num_gpus, log_to_driver=False, logging_level="ERROR")
    executor = RayExecutor(entry=one_second)
    with tempfile.TemporaryDirectory() as folder:
        storage = Path(folder)
        seen = _Seen()
        need = {"gpus_per_worker": 1.0}
        with Session.opened(storage, "warm") as session:  # the processes start
            executor.run(FixedSource(make_plan(num_gpus, cpus_per_worker=FIRST_ROUND, **need).trials), session, seen)
            for kept in executor._idle:
                kept.shape = kept.shape._replace(cpus=1.0)
            started = time.monotonic()
            executor.run(FixedSource(make_plan(num_trials, **need).trials), session, seen)
            took = time.monotonic() - started
    ray.shutdown()
    ideal = -(-num_trials // num_gpus) * 1.0
    growth = seen.memory[-1] / seen.memory[len(seen.memory) // 5]
    print(f"{num_trials} trials of 1 s on {num_gpus} GPUs: {took:.2f} s, ideal {ideal:.2f} s")
    print(f"utilisation {ideal / took:.3f} of the ideal schedule (target at least {MIN_UTILISATION})")
    print(f"driver's memory at the end over that after a fifth: {growth:.3f} (target at most {MAX_GROWTH})")
    return ideal / took >= MIN_UTILISATION and growth <= MAX_GROWTH


class _Seen:
    """An observer that looks at this process's memory."""

    def __init__(self) -> None:
        self.memory: list[int] = []

    def finished(self, *_: object) -> None:
        self.memory.append(psutil.Process().memory_info().rss)

    def __getattr__(self, _: str) -> Any:
        return lambda *_args: None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("costs", "utilisation", "one"))
    parser.add_argument("rest", nargs="*")
    parser.add_argument("--trials", type=int, default=NUM_TRIALS)
    parser.add_argument("--gpus", type=int, default=NUM_GPUS)
    given = parser.parse_args()
    if given.what == "one":
        print(run_study_of(given.rest[0], int(given.rest[1])))
        return
    reached = measure_costs() if given.what == "costs" else measure_utilisation(given.trials, given.gpus)
    print("target reached" if reached else "TARGET MISSED")


if __name__ == "__main__":
    main()
