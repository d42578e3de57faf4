"""The training loop: batches in a seeded order, one optimizer step each, validation and a checkpoint per epoch.

It knows `torch.distributed` but not who started it: it reports to a `TrialContext` and goes on from what is in the
trial's folder. The result does not depend on the number of workers: the order of samples, their augmentation and the
model's noise are drawn for the global batch, of which every worker takes its part.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Sampler

from harness.checkpoint import Progress, clear_drafts, load_last, save_best, save_last
from harness.distributed import broadcast, rank, share_batch_norm, total, world_size
from harness.errors import HarnessError, TrialError
from harness.evaluate import evaluate, to_device
from harness.records import Resources
from harness.spec_recipe import TrainConfig
from harness.tasks import Task
from models.base import SegmentationModel
from models.layers.stochastic import seed_model_noise

_OPTIMIZERS: dict[str, type[torch.optim.Adam]] = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}


class TrialContext(Protocol):
    """Where a trial runs and whom it tells."""

    device: torch.device
    folder: Path
    """The trial's own folder; outlives the process."""
    storage: Path
    """Folder of the study's runs, where generated data is kept."""

    def report(self, epoch: int, scores: Mapping[str, float]) -> None:
        """Called by every worker after every epoch, counted from 1."""
        ...

    def stop_requested(self) -> bool:
        """Whether the trial should save its state and end with `TrialStopped`; only worker 0 asks, now and then."""
        ...


class Seeds(NamedTuple):
    """One seed per random stream that training draws from."""

    order: int
    model_noise: int


class GlobalBatches(Sampler[list[int]]):
    """This worker's part of every global batch of an epoch, in an order that all workers agree on.

    The last samples of an epoch that do not fill a batch are left out, as in the published training scripts.
    """

    def __init__(self, num_samples: int, global_batch: int, seed: int) -> None:
        if num_samples < global_batch:
            raise HarnessError(
                f"train.global_batch must be at most the number of training samples, got {global_batch} for "
                f"{num_samples}; lower it"
            )
        self._shape = (num_samples // global_batch, global_batch)
        self._num_samples = num_samples
        self._seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return self._shape[0]

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng([self._seed, self.epoch]).permutation(self._num_samples)
        batches = order[: self._shape[0] * self._shape[1]].reshape(self._shape)
        share = self._shape[1] // world_size()
        yield from batches[:, rank() * share : (rank() + 1) * share].tolist()


def learning_rate_factor(step: int, num_steps: int, config: TrainConfig) -> float:
    """Factor on `lr` before step `step` (from 0).

    It rises linearly over the warm-up; then it is constant, or `(1 - step / num_steps) ** power` down to `end_lr`,
    where both count from the end of the warm-up.
    """
    warmup = config.warmup_steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if config.schedule == "constant":
        return 1.0
    floor = config.end_lr / config.lr
    return float(floor + (1 - floor) * (1 - (step - warmup) / (num_steps - warmup)) ** config.power)


def build_optimizer(model: SegmentationModel, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer over the model's parameter groups; `base_lr` of a group is its rate before the schedule."""
    groups = [
        {
            "params": group.parameters,
            "weight_decay": config.weight_decay if group.weight_decay is None else group.weight_decay,
            "lr": config.lr * group.lr_scale,
            "base_lr": config.lr * group.lr_scale,
        }
        for group in model.parameter_groups()
        if group.parameters
    ]
    return _OPTIMIZERS[config.optimizer](groups, lr=config.lr)


def seed_step(seed: int, step: int) -> None:
    """Seed everything that the model draws in one step: the same draws after a restart and for any number of workers.

    PyTorch's own generator serves modules that draw per worker (dropout inside BERT) and differs between workers.
    """
    shared, own = np.random.SeedSequence([seed, step]).generate_state(2, np.uint64).tolist()
    seed_model_noise(shared >> 1)
    torch.manual_seed((own >> 1) + rank())


def _distribute(model: SegmentationModel, device: torch.device) -> nn.Module:
    if world_size() == 1:
        return model
    share_batch_norm(model, device)
    return DistributedDataParallel(
        model,
        device_ids=[device] if device.type == "cuda" else None,
        forward_sync_buffers=False,
        gradient_as_bucket_view=True,
        find_unused_parameters=bool(model.dead_parameters()),
    )


class Trainer:
    """One trial's model, optimizer and data on this worker."""

    def __init__(
        self, model: SegmentationModel, task: Task, config: TrainConfig, *, seeds: Seeds, context: TrialContext
    ) -> None:
        self._model, self._task, self._config = model, task, config
        self._seeds, self._context = seeds, context
        self._wrapped = _distribute(model, context.device)
        self._optimizer = build_optimizer(model, config)
        self._samples: Any = task.training()
        self._batches = GlobalBatches(len(self._samples), config.global_batch, seeds.order)
        self._num_steps = len(self._batches) * config.epochs
        if config.warmup_steps >= self._num_steps:
            raise HarnessError(
                f"train.warmup_steps must be below the {self._num_steps} steps of the training, got "
                f"{config.warmup_steps}; lower it or train longer"
            )

    def fit(self, resources: Resources) -> Progress:
        """Train to the last epoch, from the last checkpoint if there is one.

        Args:
            resources: Loader processes and the batch of the evaluation.

        Returns:
            Where training ended; the best weights are in the context's folder.
        """
        progress = self._resume()
        while progress.epoch < self._config.epochs:
            started = time.perf_counter()
            loss = self._epoch(progress, resources.data_workers)
            progress = replace(
                progress,
                epoch=progress.epoch + 1,
                step=progress.step + len(self._batches),
                seconds=progress.seconds + time.perf_counter() - started,
            )
            table = evaluate(
                self._model,
                self._task.evaluation("val"),
                self._task.measurer("val"),
                device=self._context.device,
                resources=resources,
                precision=self._config.precision,
            )
            scores = self._task.scores(table)
            shown = {"train/loss": loss, **{f"val/{name}": value for name, value in scores.items()}}
            # first: a crash in between repeats the epoch, which hides nothing; the other order would lose its scores
            self._context.report(progress.epoch, shown)
            progress = self._keep(progress, scores)
        return progress

    def _resume(self) -> Progress:
        if rank() == 0:
            clear_drafts(self._context.folder)
        found = broadcast(load_last(self._context.folder) if rank() == 0 else None)
        if found is None:
            return Progress()
        states, progress = found
        self._model.load_state_dict(states["model"])
        self._optimizer.load_state_dict(states["optimizer"])
        return progress

    def _epoch(self, progress: Progress, data_workers: int) -> float:
        """Train one epoch; the mean loss over its steps and all workers."""
        self._samples.set_epoch(progress.epoch)
        self._batches.epoch = progress.epoch
        device = self._context.device
        loader: DataLoader[dict[str, Any]] = DataLoader(
            self._samples,
            batch_sampler=self._batches,
            num_workers=data_workers,
            pin_memory=device.type == "cuda",
        )
        self._wrapped.train()
        summed = torch.zeros((), device=device)
        for n, batch in enumerate(loader):
            summed += self._step(to_device(batch, device), progress.step + n)
        loss = float(total(summed)) / (len(self._batches) * world_size())
        if not np.isfinite(loss):
            raise TrialError(f"the training loss must stay finite, got {loss} in epoch {progress.epoch + 1}: diverged")
        return loss

    def _step(self, batch: dict[str, Any], step: int) -> Tensor:
        seed_step(self._seeds.model_noise, step)
        factor = learning_rate_factor(step, self._num_steps, self._config)
        for group in self._optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        enabled = self._config.precision == "bf16"
        with torch.autocast(self._context.device.type, dtype=torch.bfloat16, enabled=enabled):
            output = self._wrapped(batch)
        loss = self._task.loss(output, batch)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
        if self._config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._model.parameters(), self._config.clip_norm)
        self._optimizer.step()
        return loss.detach()

    def _keep(self, progress: Progress, scores: Mapping[str, float]) -> Progress:
        score = scores[self._config.select]
        better = score > progress.best_score
        if better:
            progress = replace(progress, best_epoch=progress.epoch, best_score=score)
        if rank() == 0:
            if better:
                save_best(self._context.folder, self._model, progress.epoch)
            states = {"model": self._model.state_dict(), "optimizer": self._optimizer.state_dict()}
            save_last(self._context.folder, states, progress)
        return progress
