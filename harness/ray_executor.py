"""Trials as Ray Train jobs, as many at once as the cluster's resources hold. The only module that imports ray."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from harness.distributed import rank
from harness.errors import HarnessError
from harness.executor import Observer
from harness.records import Fault, Trial, TrialResult, TrialState
from harness.trial import run_trial
from harness.trial_folder import (
    STOP,
    EpochScores,
    append_history,
    read_history,
    read_result,
    trial_folder,
    write_result,
)

POLL_SECONDS = 0.25


class RayContext:
    """A trial inside a Ray Train worker."""

    def __init__(self, trial: Trial, storage: Path) -> None:
        self.device = get_device()
        self.storage = storage
        self.folder = trial_folder(storage, trial)

    def report(self, epoch: int, scores: Mapping[str, float]) -> None:
        """Write the epoch down and tell Ray Train."""
        if rank() == 0:
            append_history(self.folder, EpochScores(epoch, dict(scores), time.time()))
        ray.train.report({"epoch": epoch, **scores})

    def stop_requested(self) -> bool:
        """Whether somebody asked the trial to end."""
        return (self.folder / STOP).exists()


def train_worker(config: dict[str, Any]) -> None:
    """What every worker of a trial runs; worker 0 leaves the result in the trial's folder."""
    trial, storage = Trial.from_json(config["trial"]), Path(config["storage"])
    torch.set_num_threads(max(1, int(trial.resources.cpus_per_worker)))
    context = RayContext(trial, storage)
    try:
        result = run_trial(trial, context)
    except Exception:
        (context.folder / f"traceback-{rank()}.txt").write_text(traceback.format_exc(), encoding="utf-8")
        raise
    if rank() == 0:
        write_result(context.folder, result)


def _run_job(trial: Trial, storage: Path) -> TrialResult:
    """Run one trial to its end as a Ray Train job; blocks."""
    use_gpu = trial.resources.gpus_per_worker > 0
    per_worker = {"CPU": trial.resources.cpus_per_worker}
    if use_gpu:
        per_worker["GPU"] = trial.resources.gpus_per_worker
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"trial": trial.to_json(), "storage": str(storage)},
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=trial.resources.workers, use_gpu=use_gpu, resources_per_worker=per_worker
        ),
        run_config=ray.train.RunConfig(name=trial.id, storage_path=str(storage / "ray")),
    )
    folder = trial_folder(storage, trial)
    for old in folder.glob("traceback-*.txt"):
        old.unlink()
    try:
        trainer.fit()
    except (ray.train.TrainingFailedError, ray.exceptions.RayError) as error:
        # the first to fail says why; the others often only that their peer is gone
        kept = sorted(folder.glob("traceback-*.txt"), key=lambda path: path.stat().st_mtime_ns)
        text = kept[0].read_text(encoding="utf-8") if kept else str(error)
        return TrialResult(trial.id, TrialState.FAILED, error=text, fault=Fault.ERROR)
    result = read_result(folder)
    if result is None:
        error_text = f"the trial ended without {folder / 'result.json'}; the storage must be shared by all nodes"
        return TrialResult(trial.id, TrialState.FAILED, error=error_text, fault=Fault.ERROR)
    return result


@dataclass
class _Job:
    trial: Trial
    future: Future[TrialResult]
    epochs_told: int = 0


def _start(trial: Trial, storage: Path) -> _Job:
    """Run a trial beside this thread; a daemon thread, so that an interrupted driver need not wait for it."""
    future: Future[TrialResult] = Future()

    def work() -> None:
        try:
            result = _run_job(trial, storage)
        except BaseException:  # noqa: BLE001 -- whatever stops a job must not end the study
            result = TrialResult(trial.id, TrialState.FAILED, error=traceback.format_exc(), fault=Fault.ERROR)
        future.set_result(result)

    threading.Thread(target=work, name=f"trial-{trial.id}", daemon=True).start()
    return _Job(trial, future)


def demand(trial: Trial) -> dict[str, float]:
    """CPUs and GPUs that all workers of a trial hold."""
    need = trial.resources
    return {"CPU": need.workers * need.cpus_per_worker, "GPU": need.workers * need.gpus_per_worker}


def fits(trial: Trial, running: Sequence[Trial], capacity: Mapping[str, float]) -> bool:
    """Whether a trial's workers can start beside those already running."""
    return all(
        amount + sum(demand(other)[kind] for other in running) <= capacity.get(kind, 0.0) + 1e-6
        for kind, amount in demand(trial).items()
    )


class RayExecutor:
    """Ray Train jobs over whatever cluster Ray finds, or a Ray started for this study.

    Args:
        address: Cluster to join; None takes `RAY_ADDRESS`, then a running local cluster, then starts one.
    """

    def __init__(self, address: str | None = None) -> None:
        self._address = address

    def run(self, trials: Sequence[Trial], storage: Path, observer: Observer) -> None:
        """Run every trial to its end, in order, as many at once as fit."""
        self._connect()
        for trial in trials:
            if not fits(trial, [], ray.cluster_resources()):
                need = ", ".join(f"{v:g} {k}" for k, v in demand(trial).items() if v)
                have = ", ".join(f"{ray.cluster_resources().get(k, 0):g} {k}" for k in demand(trial))
                raise HarnessError(
                    f"resources of variant {trial.variant!r} must fit the cluster: one trial needs {need}, the "
                    f"cluster has {have}; lower resources.workers or gpus_per_worker, or join a larger cluster"
                )
        waiting, running = list(trials), list[_Job]()
        while waiting or running:
            capacity = ray.cluster_resources()
            while waiting and fits(waiting[0], [job.trial for job in running], capacity):
                trial = waiting.pop(0)
                observer.started(trial)
                running.append(_start(trial, storage))
            running = [job for job in running if not self._follow(job, storage, observer)]
            observer.refresh()
            time.sleep(POLL_SECONDS)

    def _connect(self) -> None:
        if ray.is_initialized():
            return
        try:
            ray.init(address=self._address, log_to_driver=False, logging_level=logging.ERROR)
        except ConnectionError as error:
            raise HarnessError(
                f"Ray must be reachable at {self._address!r}; got: {str(error).splitlines()[0]}"
            ) from None

    @staticmethod
    def _follow(job: _Job, storage: Path, observer: Observer) -> bool:
        """Tell the observer what is new; whether the trial has ended."""
        ended = job.future.done()  # asked first: the last epochs are in the file by then
        folder = trial_folder(storage, job.trial)
        epochs = read_history(folder)
        for epoch in epochs[job.epochs_told :]:
            observer.reported(job.trial, epoch)
        job.epochs_told = max(job.epochs_told, len(epochs))
        if not ended:
            return False
        result = job.future.result()
        write_result(folder, result)
        observer.finished(job.trial, result, folder)
        return True
