"""Trials under way on a cluster: a kept process or a new worker group each, and how they end."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.attempt import FAKE_GPUS, STOPPED, Entry, Job, clear_ends, read_failure
from harness.claims import Claims
from harness.placement import Node, Slot
from harness.records import Fault, Resources, Trial, TrialResult, TrialState
from harness.schedule import Shape, Start, shape_of
from harness.trial_folder import read_result, trial_folder
from harness.trial_log import log_path

ACCELERATOR = "accelerator_type:"
"""How the resource begins by which Ray tells a node's type of GPU."""


class Ended(NamedTuple):
    """The end of an attempt."""

    trial: Trial
    result: TrialResult | None
    """None where the trial was stopped and has saved its state."""
    leaks: Sequence[str] = ()
    """What the trial left in its process, which is therefore not used again."""


@dataclass
class KeptProcess:
    """A process that waits for a trial or runs one."""

    actor: Any
    shape: Shape
    slot: Slot
    idle_since: float = 0.0


@dataclass
class _Running:
    trial: Trial
    worker: KeptProcess | None
    """None for a worker group."""
    started: float
    log_bytes: int
    """Of the log when it started; it grows as soon as a process is there."""


class RayJobs:
    """Starts trials on a cluster and hands out their ends in the order in which they come.

    Args:
        storage: Folder of the study's runs, seen by all nodes.
        claims: Of the driver, which has claimed the trials.
        entry: What runs a trial.
        idle: Processes kept from an earlier run; those that this run keeps are left in it.
    """

    def __init__(self, storage: Path, claims: Claims, *, entry: str | Entry, idle: list[KeptProcess]) -> None:
        self._storage, self._claims, self._entry = storage, claims, entry
        self._ends: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._running: dict[str, _Running] = {}
        self._idle = idle

    @property
    def idle(self) -> list[tuple[Shape, Slot]]:
        """Kept processes without a trial."""
        return [(worker.shape, worker.slot) for worker in self._idle]

    def start(self, start: Start) -> None:
        """Start a trial on the slots it was given; idle processes in its way are ended."""
        trial = start.trial
        folder = trial_folder(self._storage, trial)
        clear_ends(folder)
        job = Job(trial.to_json(), str(self._storage), self._claims.new_ticket(folder), self._entry)
        running = _Running(trial, None, time.monotonic(), _size(log_path(folder, 0)))
        self._running[trial.id] = running
        if trial.resources.workers > 1 or not trial.resources.reuse_workers:
            self.retire()  # Ray Train chooses the nodes
            threading.Thread(target=self._run_group, args=(trial, job), name=f"trial-{trial.id}", daemon=True).start()
            return
        running.worker = self._take_idle(start) or self._new_worker(start)
        end = running.worker.actor.run.remote(job).future()
        end.add_done_callback(lambda future, i=trial.id: self._ends.put((i, future.exception() or future.result())))

    def ended(self, timeout: float) -> Iterator[Ended]:
        """Trials that have ended; waits up to `timeout` seconds for the first."""
        with contextlib.suppress(queue.Empty):
            while True:
                trial_id, end = self._ends.get(timeout=timeout) if timeout else self._ends.get_nowait()
                timeout = 0.0
                if trial_id in self._running:
                    yield self._conclude(self._running.pop(trial_id), end)

    def kill(self, trial: Trial | None = None) -> None:
        """End a trial at once, or all; worker groups end with this process."""
        for trial_id in list(self._running) if trial is None else [trial.id]:
            running = self._running.pop(trial_id)
            if running.worker is not None:
                ray.kill(running.worker.actor)

    def retire(self, *, on: Collection[str] | None = None, idle_for: float = 0.0) -> None:
        """End the processes that have been idle for so many seconds, on these nodes or on all."""
        now = time.monotonic()
        for kept in [w for w in self._idle if now - w.idle_since >= idle_for and (on is None or w.slot.node in on)]:
            self._idle.remove(kept)
            ray.kill(kept.actor)

    def forget(self, alive: Collection[str]) -> None:
        """Drop the idle processes on nodes that are gone."""
        self._idle[:] = [w for w in self._idle if w.slot.node in alive]

    def pending(self, seconds: float) -> list[Trial]:
        """Trials that have had no process for so long."""
        now = time.monotonic()
        late = [r for r in self._running.values() if now - r.started > seconds]
        return [r.trial for r in late if _size(log_path(trial_folder(self._storage, r.trial), 0)) == r.log_bytes]

    def _take_idle(self, start: Start) -> KeptProcess | None:
        for worker in reversed(self._idle):
            if worker.shape == shape_of(start.trial.resources) and worker.slot == start.slots[0]:
                self._idle.remove(worker)
                return worker
        return None

    def _new_worker(self, start: Start) -> KeptProcess:
        if start.evict:
            self.retire(on={slot.node for slot in start.slots})
        need, slot = start.trial.resources, start.slots[0]
        options: dict[str, Any] = {
            "num_cpus": need.cpus_per_worker,
            "num_gpus": need.gpus_per_worker,
            "max_restarts": 0,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(slot.node, soft=True),
        }
        if need.accelerator:
            options["accelerator_type"] = need.accelerator
        actor = ray.remote(_Worker).options(**options).remote()
        return KeptProcess(actor, shape_of(need), slot)

    def _run_group(self, trial: Trial, job: Job) -> None:
        """Run a trial to its end as a Ray Train job with processes of its own; in a thread of its own."""
        import ray.train
        from ray.train.torch import TorchConfig, TorchTrainer

        need = trial.resources
        trainer = TorchTrainer(
            _run_job,
            train_loop_config={"job": job},
            torch_config=TorchConfig(backend=_backend(need)),
            scaling_config=ray.train.ScalingConfig(
                num_workers=need.workers,
                use_gpu=need.gpus_per_worker > 0,
                resources_per_worker=worker_resources(need),
                accelerator_type=need.accelerator,
            ),
            run_config=ray.train.RunConfig(
                name=f"{trial.id}-{time.time_ns()}", storage_path=str(self._storage / "ray")
            ),
        )
        try:
            end: Any = (trainer.fit().return_value, [])
        except BaseException as error:  # noqa: BLE001 -- whatever stops a job must not end the study
            end = error
        self._ends.put((trial.id, end))

    def _conclude(self, running: _Running, end: Any) -> Ended:
        trial, folder = running.trial, trial_folder(self._storage, running.trial)
        if isinstance(end, BaseException):
            return Ended(trial, read_failure(trial, folder, end))
        how, leaks = end
        if running.worker is not None:
            if leaks:
                ray.kill(running.worker.actor)
            else:
                running.worker.idle_since = time.monotonic()
                self._idle.append(running.worker)
        if how == STOPPED:
            return Ended(trial, None, leaks)
        result = read_result(folder)
        if result is not None:
            return Ended(trial, result, leaks)
        if any(folder.glob("failure-*.json")):
            return Ended(trial, read_failure(trial, folder, RuntimeError("unknown")), leaks)
        text = f"the trial ended without {folder / 'result.json'}; the storage must be a folder that all nodes see"
        return Ended(trial, TrialResult(trial.id, TrialState.FAILED, error=text, fault=Fault.ERROR), leaks)


class _Worker:
    """`harness.ray_worker.WarmWorker`, which the driver need not import."""

    def __init__(self) -> None:
        from harness.ray_worker import WarmWorker

        self._worker = WarmWorker()

    def run(self, job: Job) -> tuple[str | None, list[str]]:
        return self._worker.run(job)


def _run_job(config: Mapping[str, Any]) -> str | None:
    """`harness.ray_worker.run_job`, which the driver need not import."""
    from harness.ray_worker import run_job

    return run_job(config["job"])


def worker_resources(need: Resources) -> dict[str, float]:
    """What Ray is asked to give one worker of a trial."""
    return {"CPU": need.cpus_per_worker} | ({"GPU": need.gpus_per_worker} if need.gpus_per_worker else {})


def _backend(need: Resources) -> str:
    """NCCL for GPUs; the driver's own node may have none, so they are real unless said otherwise."""
    return "gloo" if need.gpus_per_worker == 0 or os.environ.get(FAKE_GPUS) else "nccl"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def read_nodes() -> tuple[Node, ...]:
    """The nodes of the cluster that are alive."""
    found = []
    for node in ray.nodes():
        if not node["Alive"]:
            continue
        has = node["Resources"]
        kind = next((name.removeprefix(ACCELERATOR) for name in has if name.startswith(ACCELERATOR)), "")
        found.append(Node(node["NodeID"], has.get("CPU", 0.0), int(has.get("GPU", 0)), kind))
    return tuple(found)
