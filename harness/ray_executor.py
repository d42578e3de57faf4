"""A study over whatever cluster Ray finds: who starts next, who has ended, which nodes came and went."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources

from harness.attempt import FAKE_GPUS, RUN_TRIAL, Entry
from harness.errors import HarnessError
from harness.executor import Observer, Others, Session, conclude, prepare
from harness.placement import Node, describe_need, describe_nodes, unplaceable
from harness.ray_jobs import ACCELERATOR, Ended, KeptProcess, RayJobs, read_nodes, worker_resources
from harness.records import Trial
from harness.schedule import Schedule, TrialSource
from harness.trial_folder import STOP, EpochScores, read_history, trial_folder

POLL_SECONDS = 0.25
NODES_SECONDS = 1.0
PENDING_SECONDS = 60.0
"""After which a trial that has no process yet is named."""
LOST_NODES_MINUTES = 10.0
"""How long a study that has lost the nodes it needs waits for others."""
PASSED_ON = (FAKE_GPUS, "HARNESS_CACHE", "OMP_NUM_THREADS")
"""Environment variables of the driver that its workers get."""
IDLE_SECONDS = 10.0
"""After which a process without a trial is ended: another driver may wait for what it holds."""
MAX_ASKED = 64
"""Workers that an autoscaler is asked to make room for at once."""


class RayExecutor:
    """Ray Train jobs over whatever cluster Ray finds, or a Ray started for this study.

    Processes that trials can use again are kept between calls of `run` and end with this process.

    Args:
        address: Cluster to join; None takes `RAY_ADDRESS`, then a running local cluster, then starts one.
        wait_for_nodes: Minutes to wait for nodes that can hold a trial which no node can hold now.
        code: Folder with the packages that workers import; None lets them import what they find.
        entry: What runs a trial.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        wait_for_nodes: float = 0.0,
        code: Path | None = None,
        entry: str | Entry = RUN_TRIAL,
    ) -> None:
        self._address, self._code = address, code
        self._wait_for_nodes = wait_for_nodes
        self._entry = entry
        self._idle: list[KeptProcess] = []

    def run(self, source: TrialSource, session: Session, observer: Observer) -> None:
        """Run every trial of a source to its end, as many at once as fit."""
        connect(self._address, self._code)
        jobs = RayJobs(session.storage, session.claims, entry=self._entry, idle=self._idle)
        try:
            _Drive(source, session, observer, jobs, wait_minutes=self._wait_for_nodes).run()
        finally:
            jobs.kill()
            if self._wait_for_nodes:
                request_resources(bundles=[])

    def close(self) -> None:
        """End the processes that are kept."""
        for kept in self._idle:
            ray.kill(kept.actor)
        self._idle.clear()


def connect(address: str | None, code: Path | None) -> None:
    """Join or start a Ray, unless this process has one.

    Raises:
        HarnessError: No Ray answers at the address.
    """
    if ray.is_initialized():
        return
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("runtime_env", {})
    given = code is not None and "working_dir" not in job  # a submitted job runs from an upload already
    variables = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    environment: dict[str, Any] = {"env_vars": variables} | ({"working_dir": str(code)} if given else {})
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")  # processes without our environment serve nobody
    try:
        ray.init(
            address=address,
            include_dashboard=False,  # of a Ray that is started here: three CPU-seconds that no trial needs
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env=environment,
        )
    except ConnectionError as error:
        raise HarnessError(f"Ray must be reachable at {address!r}; got: {str(error).splitlines()[0]}") from None


class _Drive:
    """One run of one source of trials."""

    def __init__(
        self, source: TrialSource, session: Session, observer: Observer, jobs: RayJobs, *, wait_minutes: float
    ) -> None:
        self._source, self._session, self._observer, self._jobs = source, session, observer, jobs
        self._wait_minutes = wait_minutes
        self._schedule = Schedule(session.limits)
        self._others = Others(session, observer)
        self._nodes: tuple[Node, ...] = ()
        self._looked_at_nodes = float("-inf")
        self._histories: dict[str, _History] = {}
        self._stuck_since: float | None = None
        self._asked: list[dict[str, float]] = []
        self._noticed: set[str] = set()

    def run(self) -> None:
        self._pull()
        self._look_at_nodes()
        self._refuse_what_never_fits()
        while True:
            self._look_at_nodes()
            if self._session.stop.level == 0:
                self._pull()
                self._start_what_fits()
            else:
                self._stop()
            if not self._schedule.running and self._is_over():
                return
            for end in self._jobs.ended(POLL_SECONDS):
                self._conclude(end)
            for trial in self._schedule.running:
                self._follow(trial)
            self._observer.refresh()

    def _pull(self) -> None:
        """Queue what the source has and what another driver has left."""
        for trial in self._others.poll():
            self._schedule.add(trial, first=True)
        outstanding = len(self._schedule.waiting) + len(self._schedule.running) + len(self._others)
        while len(self._schedule.waiting) < self._source.lookahead:
            new = self._source.next(outstanding)
            if new is None:
                return
            outstanding += 1
            self._schedule.add(new)

    def _start_what_fits(self) -> None:
        while (start := self._schedule.start_next(self._nodes, self._jobs.idle)) is not None:
            trial, is_new = start.trial, start.trial.id not in self._histories
            if is_new and not self._others.claim(trial):
                self._schedule.ended(trial)
                continue
            if is_new:
                self._histories[trial.id] = _History(trial_folder(self._session.storage, trial))
                self._observer.started(trial)
            self._jobs.start(start._replace(trial=prepare(trial, self._session.storage)))
        self._name_what_is_stuck()

    def _is_over(self) -> bool:
        if self._session.stop.level:
            return True
        if budget := self._schedule.exhausted():
            self._notice(f"{budget} is used up: no more trials are started")
            return True
        return not self._schedule.waiting and not self._others and self._source.is_done()

    def _stop(self) -> None:
        """Ask running trials to save their state, or end them."""
        for trial in self._schedule.running:
            folder = trial_folder(self._session.storage, trial)
            if not (folder / STOP).exists():
                (folder / STOP).write_text("stop", encoding="utf-8")
            if self._session.stop.level > 1:
                self._jobs.kill(trial)
                self._conclude(Ended(trial, None))

    def _conclude(self, end: Ended) -> None:
        self._follow(end.trial)  # the last epochs are in the file by now
        self._schedule.ended(end.trial)
        for leak in end.leaks:
            self._notice(f"the process of {end.trial.variant} #{end.trial.replicate} is not used again: {leak}")
        again = conclude(end.trial, end.result, self._session, self._observer)
        if again is not None:
            self._schedule.add(again, first=True)
        else:
            del self._histories[end.trial.id]

    def _follow(self, trial: Trial) -> None:
        """Tell what a running trial has reported since."""
        history = self._histories[trial.id]
        for epoch in history.new():
            self._observer.reported(trial, epoch)
        if self._schedule.needs_pilot(trial) and (share := history.memory_share()) is not None:
            self._schedule.learn_memory(trial, share)

    def _look_at_nodes(self) -> None:
        now = time.monotonic()
        if now - self._looked_at_nodes < NODES_SECONDS:
            return
        self._looked_at_nodes = now
        before, self._nodes = self._nodes, read_nodes()
        self._jobs.forget({node.id for node in self._nodes})
        self._jobs.retire(idle_for=IDLE_SECONDS)
        if before and len(self._nodes) != len(before):
            self._observer.notice(f"the cluster has {describe_nodes(self._nodes)} now")
        if self._wait_minutes:
            wanted = wanted_of_autoscaler([*self._schedule.running, *self._schedule.waiting])
            if wanted != self._asked:
                request_resources(bundles=wanted)
                self._asked = wanted

    def _refuse_what_never_fits(self) -> None:
        """Name a trial that no node can hold before any other has cost anything."""
        if self._wait_minutes:
            return
        for need, trial in unplaceable(self._schedule.waiting, self._nodes).items():
            raise HarnessError(
                f"resources of variant {trial.variant!r} must fit the cluster: one trial needs {describe_need(need)}, "
                f"the cluster has {describe_nodes(self._nodes)}; lower `resources`, join a larger cluster, or give "
                "--wait-for-nodes MINUTES where nodes will come"
            )

    def _name_what_is_stuck(self) -> None:
        """Say at once that nothing can move, and give up when no node has come for too long."""
        for trial in self._jobs.pending(PENDING_SECONDS):
            what = f"{trial.variant} #{trial.replicate} waits for Ray to give it {describe_need(trial.resources)}"
            self._notice(f"{what}: other jobs hold them, or a node is gone")
        is_still = self._schedule.waiting and not self._schedule.running and not self._schedule.exhausted()
        lost = unplaceable(self._schedule.waiting, self._nodes) if is_still else {}
        if not lost:
            self._stuck_since = None
            return
        now, limit = time.monotonic(), 60 * (self._wait_minutes or LOST_NODES_MINUTES)
        self._stuck_since = self._stuck_since or now
        need, have = describe_need(next(iter(lost))), describe_nodes(self._nodes)
        what = f"{len(self._schedule.waiting)} trials wait: one needs {need}, the cluster has {have}"
        if now - self._stuck_since > limit:
            raise HarnessError(f"{what} and no node has come for {limit / 60:g} minutes; the same command goes on")
        self._notice(f"{what}; waiting up to {limit / 60:g} minutes for nodes")

    def _notice(self, text: str) -> None:
        """Say something once."""
        if text not in self._noticed:
            self._noticed.add(text)
            self._observer.notice(text)


class _History:
    """What a running trial writes down, read as it grows."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._size, self._told = 0, 0

    def new(self) -> list[EpochScores]:
        """Epochs that were not there before."""
        path = self._folder / "history.jsonl"
        size = path.stat().st_size if path.exists() else 0
        if size == self._size:
            return []
        epochs = read_history(self._folder)
        found, self._size, self._told = epochs[self._told :], size, len(epochs)
        return found

    def memory_share(self) -> float | None:
        """Share of its GPU's memory that the trial was seen to need, 0..1; None before it has been measured."""
        try:
            found = json.loads((self._folder / "memory.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return float(found["peak_mib"] / found["total_mib"])


def wanted_of_autoscaler(trials: Sequence[Trial]) -> list[dict[str, float]]:
    """What the workers of trials need, as Ray's autoscaler wants to be told; a cluster of fixed size ignores it."""
    bundles: list[dict[str, float]] = []
    for trial in trials:
        need = trial.resources
        kind = {ACCELERATOR + need.accelerator: 0.001} if need.accelerator else {}
        bundles += [worker_resources(need) | kind] * need.workers
    return bundles[:MAX_ASKED]
