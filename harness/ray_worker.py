"""A trial on a worker process of Ray: where it runs, whom it tells, and how its end is told.

A trial of several workers is a Ray Train worker group. A trial of one worker runs in a process that is kept between
trials (`WarmWorker`), as a job in Ray Train's local mode: starting it costs milliseconds, not the seconds of a new
process that imports PyTorch.
"""

from __future__ import annotations

import faulthandler
import importlib
import logging
import os
import pkgutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import ray.train
import torch
from ray.train.torch import TorchTrainer, get_device

from harness.attempt import FAKE_GPUS, STOPPED, Job
from harness.claims import ticket_of
from harness.distributed import rank
from harness.errors import HarnessError, TrialStopped
from harness.faults import fault_of, traceback_of
from harness.isolation import WATCHED, Baseline, output_to
from harness.records import Trial
from harness.trial_folder import STOP, EpochScores, append_history, trial_folder, write_json, write_result
from harness.trial_log import log_path


class RayContext:
    """A trial inside a Ray worker."""

    def __init__(self, trial: Trial, storage: Path, ticket: str) -> None:
        self.device = _device(trial)
        self.storage = storage
        self.folder = trial_folder(storage, trial)
        self._ticket = ticket
        self._epochs = trial.train.get("epochs")

    def report(self, epoch: int, scores: Mapping[str, float]) -> None:
        """Write the epoch down and tell Ray Train."""
        if rank() == 0:
            append_history(self.folder, EpochScores(epoch, dict(scores), time.time()))
            told = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
            print(f"{time.strftime('%H:%M:%S')} epoch {epoch}/{self._epochs}  {told}", flush=True)
        ray.train.report({"epoch": epoch, **scores})

    def stop_requested(self) -> bool:
        """Whether somebody asked the trial to end, its node is about to go, or another driver has taken it over."""
        leaving = ray.train.get_preemption_info() is not None  # every worker of the trial must ask
        return leaving or (self.folder / STOP).exists() or ticket_of(self.folder) != self._ticket

    def check_claim(self) -> None:
        """Stop where another attempt at the trial has begun, so that only one writes."""
        if ticket_of(self.folder) != self._ticket:
            raise TrialStopped("another attempt at the trial has begun")


def _device(trial: Trial) -> torch.device:
    if trial.resources.gpus_per_worker == 0 or os.environ.get(FAKE_GPUS):
        return torch.device("cpu")
    if torch.cuda.is_available():
        found: torch.device = get_device()
        return found
    raise HarnessError(
        f"resources.gpus_per_worker = {trial.resources.gpus_per_worker:g} needs CUDA on every node with GPUs, PyTorch "
        f"finds none on {os.uname().nodename}; check the driver there with nvidia-smi, or set gpus_per_worker: 0"
    )


def run_job(job: Job) -> str | None:
    """What every worker of a trial runs; worker 0 leaves the result in the trial's folder.

    Returns:
        `STOPPED` where the trial was asked to end and saved its state.

    Raises:
        Exception: Whatever the trial raised; kind and traceback are in `failure-<rank>.json` too.
    """
    trial, storage = Trial.from_json(job.trial), Path(job.storage)
    folder = trial_folder(storage, trial)
    index = ray.train.get_context().get_world_rank()
    with output_to(log_path(folder, index)), _time_limit(trial, folder / f"hang-{index}.txt"):
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {trial.variant} #{trial.replicate} on {os.uname().nodename}")
        try:
            logging.getLogger("ray.train").setLevel(logging.WARNING)  # the context prints the epochs
            torch.set_num_threads(max(1, int(trial.resources.cpus_per_worker)))
            context = RayContext(trial, storage, job.ticket)
            entry = pkgutil.resolve_name(job.entry) if isinstance(job.entry, str) else job.entry
            result = entry(trial, context)
            if rank() == 0:
                context.check_claim()
                write_result(folder, result)
        except TrialStopped:
            return STOPPED
        except BaseException as error:
            text = traceback_of(error)
            print(text)
            write_json(folder / f"failure-{index}.json", {"fault": fault_of(error), "error": text, "time": time.time()})
            raise
    return None


@contextmanager
def _time_limit(trial: Trial, path: Path) -> Iterator[None]:
    """End this process when the trial takes too long, even where Python itself hangs, leaving its stacks in `path`."""
    minutes = trial.resources.timeout_min
    if minutes is None:
        yield
        return
    with path.open("w", encoding="utf-8") as file:
        faulthandler.dump_traceback_later(60 * minutes, exit=True, file=file)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
    path.unlink()


class WarmWorker:
    """A process that runs one trial of one worker after the other."""

    def __init__(self) -> None:
        torch.zeros(1).sum()  # starts PyTorch's threads
        TorchTrainer(lambda _: None, scaling_config=ray.train.ScalingConfig(num_workers=0)).fit()
        self._baseline = Baseline()

    def run(self, job: Job) -> tuple[str | None, list[str]]:
        """Run a trial as a Ray Train job in this process.

        Returns:
            `STOPPED`, `failed` or None for a trial that has left its result, and what the trial left in the process.
        """
        _import_parts(job)
        self._baseline.learn()
        trainer = TorchTrainer(
            lambda _: run_job(job),
            train_loop_config={},
            scaling_config=ray.train.ScalingConfig(num_workers=0),
            run_config=ray.train.RunConfig(name=str(job.trial["variant"])),
        )
        try:
            end = trainer.fit().return_value
        except Exception:  # noqa: BLE001 -- `run_job` has written failure-<rank>.json, which says more
            end = "failed"
        return end, self._baseline.restore()


def _import_parts(job: Job) -> None:
    """Import what the trial runs before it does, so that what it changes there can be seen."""
    names = [f"models.{job.trial['model'].get('name')}", f"harness.data.{job.trial['data'].get('name')}"]
    if isinstance(job.entry, str):
        names.insert(0, job.entry.partition(":")[0])
    for name in names:
        with suppress(Exception):  # the trial meets it again, and tells it
            importlib.import_module(name)
    if "models.vision" in sys.modules:
        for name in WATCHED:  # timm is imported when a model is built, which is too late to see what it was
            importlib.import_module(name)
