"""The training loop: batches in a seeded order, one optimizer step each, validation and a checkpoint per epoch.

It knows `torch.distributed` but not who started it: it reports to a `TrialContext` and goes on from what is in the
trial's folder, at the step it had reached. The result does not depend on the number of workers, nor on the parts in
which a worker computes its share of a batch: the order of samples, their augmentation and the model's noise are drawn
for the global batch, of which every worker takes its part.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Sampler

from harness.batch_parts import BatchParts
from harness.checkpoint import (
    Loaded,
    Progress,
    clear_drafts,
    explain_full_storage,
    load_state,
    save_best,
    save_state,
)
from harness.cost import write_training_memory
from harness.distributed import gather, on_worker_0, rank, share_batch_norm, total, world_size
from harness.errors import HarnessError, TrialStopped
from harness.evaluate import evaluate, to_device
from harness.mirror import Mirror
from harness.records import Checkpointing, Resources
from harness.spec_recipe import TrainConfig
from harness.tasks import Task
from harness.watch import LossWatch, Pace
from models.base import SegmentationModel
from models.layers.stochastic import seed_model_noise

MEMORY_STEP = 3
"""Step of each start after which the memory of training is written down: by then the optimizer has its state."""

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
        """Whether the trial should save its state and end with `TrialStopped`; one worker's yes is enough.

        All workers ask, between the same two steps, about every two seconds: finding the answer may be a joint act.
        """
        ...

    def check_claim(self) -> None:
        """Raise `TrialStopped` if the trial is another driver's by now; worker 0 asks before it writes any file."""
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
        self.first = 0
        """Batches of the epoch that are left out, because they are done."""

    def __len__(self) -> int:
        return self._shape[0]

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng([self._seed, self.epoch]).permutation(self._num_samples)
        batches = order[: self._shape[0] * self._shape[1]].reshape(self._shape)
        share = self._shape[1] // world_size()
        yield from batches[self.first :, rank() * share : (rank() + 1) * share].tolist()


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


def seed_step(seed: int, step: int) -> int:
    """Seed everything that the model draws in one step: the same draws after a restart and for any number of workers.

    PyTorch's own generator serves modules that draw for the rows at hand (dropout inside BERT): they draw anew on every
    worker and for every part of a batch.

    Returns:
        The seed to give `seed_model_noise` before each part.
    """
    shared, own = np.random.SeedSequence([seed, step]).generate_state(2, np.uint64).tolist()
    torch.manual_seed((own >> 1) + rank())
    return int(shared >> 1)


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
    """One trial's model, optimizer and data on this worker.

    Attributes:
        notes: What happened on the way and does not show in the scores, for `TrialResult.notes`.
    """

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
        self._resources, self._checkpoints = Resources(), Checkpointing()
        self._watch, self._pace, self._unread = LossWatch(), Pace(), list[Tensor]()
        self._steps_taken = 0
        self._mirror: Mirror | None = None
        self.notes: dict[str, Any] = {}

    def fit(self, resources: Resources, checkpoints: Checkpointing | None = None) -> Progress:
        """Train to the last epoch, from the last state if there is one.

        Args:
            resources: Loader processes, parts of a batch, the batch of the evaluation.
            checkpoints: When states are saved and where they are copied; None for the defaults.

        Returns:
            Where training ended; the best weights are in the context's folder.

        Raises:
            TrialStopped: It was asked to stop and can go on from here, or it is another driver's by now.
            DivergedError: See `harness.watch`.
            TrialError: There is no space to save a state.
        """
        self._resources, self._checkpoints = resources, checkpoints or Checkpointing()
        self._note_parts()
        progress = self._resume()
        try:
            while progress.epoch < self._config.epochs:
                progress, loss = self._epoch(progress)
                scores = self._validate()
                shown = {"train/loss": loss, **{f"val/{name}": value for name, value in scores.items()}}
                # first: a crash in between repeats the epoch, which hides nothing; else its scores would be lost
                self._context.report(progress.epoch, shown)
                progress = self._keep(progress, scores)
                if progress.epoch < self._config.epochs and self._is_asked_to_stop():
                    raise TrialStopped(f"stopped after epoch {progress.epoch}; its state is saved")
        finally:
            if self._mirror is not None and (failure := self._mirror.close()):
                self.notes["mirror"] = failure
        return progress

    def _note_parts(self) -> None:
        most = self._resources.micro_batch
        if most is None or most >= self._config.global_batch // world_size():
            return
        self.notes["micro_batch"] = most
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self._model.modules()):
            self.notes["batch_norm_of_parts"] = True

    def _resume(self) -> Progress:
        found = on_worker_0(self._load)
        progress = found.progress if found else Progress()
        if found is not None:
            self._model.load_state_dict(found.states["model"])
            self._optimizer.load_state_dict(found.states["optimizer"])
        self._watch = LossWatch(progress.first_losses, progress.exploded)
        return progress

    def _load(self) -> Loaded | None:
        self._context.check_claim()
        folder, kept = self._context.folder, self._checkpoints
        if kept.mirror is not None:
            self._mirror = Mirror(kept.mirror, folder.name, keep=kept.keep)
        with explain_full_storage(folder):
            clear_drafts(folder)
            found = load_state(folder)
            if found is None and self._mirror is not None and self._mirror.fetch(folder):
                found = load_state(folder)
        return found

    def _epoch(self, progress: Progress) -> tuple[Progress, float]:
        """Train the rest of an epoch; where that leads, and the mean loss over its steps and all workers."""
        end = (progress.epoch + 1) * len(self._batches)
        self._samples.set_epoch(progress.epoch)
        self._batches.epoch, self._batches.first = progress.epoch, len(self._batches) - (end - progress.step)
        device = self._context.device
        loader: DataLoader[dict[str, Any]] = DataLoader(
            self._samples,
            batch_sampler=self._batches,
            num_workers=self._resources.data_workers,
            pin_memory=device.type == "cuda",
        )
        self._wrapped.train()
        summed = torch.tensor(_own_sum(progress), device=device)
        started = time.perf_counter() - progress.seconds
        self._pace.pause()
        for batch in loader:
            loss = self._step(to_device(batch, device), progress.step)
            summed += loss
            self._unread.append(loss)
            seconds = time.perf_counter() - started
            progress = replace(progress, step=progress.step + 1, seconds=seconds)
            self._note_memory()
            is_due = progress.step < end and progress.step % (self._checkpoints.every_steps or end) == 0
            if self._pace.step() or is_due or progress.step == end:
                is_asked = self._look(progress)
                progress = replace(progress, first_losses=self._watch.first, exploded=self._watch.above)
                if is_due or is_asked:
                    self._save(replace(progress, summed=_of_all_workers(summed)))
                if is_asked:
                    raise TrialStopped(f"stopped after step {progress.step}; its state is saved")
        mean = float(total(summed)) / (len(self._batches) * world_size())
        return replace(progress, epoch=progress.epoch + 1, summed=()), mean

    def _step(self, batch: dict[str, Tensor], step: int) -> Tensor:
        """One optimizer step; this worker's share of the loss, times the number of workers."""
        noise = seed_step(self._seeds.model_noise, step)
        factor = learning_rate_factor(step, self._num_steps, self._config)
        for group in self._optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        self._optimizer.zero_grad(set_to_none=True)
        parts = BatchParts(batch, most=self._resources.micro_batch)
        enabled = self._config.precision == "bf16"
        summed: Tensor | None = None
        for n in range(len(parts)):
            is_last = n == len(parts) - 1
            # gradients of all parts are exchanged between workers once, with the last
            ddp = self._wrapped if isinstance(self._wrapped, DistributedDataParallel) else None
            with nullcontext() if ddp is None or is_last else ddp.no_sync(), parts.enter(n) as part:
                seed_model_noise(noise)
                with torch.autocast(self._context.device.type, dtype=torch.bfloat16, enabled=enabled):
                    output = self._wrapped(part)
                loss = self._task.loss(output, part)
                loss.backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
            summed = loss.detach() if summed is None else summed + loss.detach()
        if self._config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._model.parameters(), self._config.clip_norm)
        self._optimizer.step()
        assert summed is not None
        return summed

    def _look(self, progress: Progress) -> bool:
        """Read the losses since the last look; whether the trial is asked to stop. All workers find the same."""
        mine = [float(self._context.stop_requested()), 0.0]
        if rank() == 0:
            mine[1] = self._pace.wanted(len(self._unread))
        losses = torch.stack(self._unread).double()
        told = total(torch.cat([torch.tensor(mine, dtype=losses.dtype, device=losses.device), losses])).tolist()
        self._unread.clear()
        self._pace.restart(int(told[1]))
        self._watch.see([x / world_size() for x in told[2:]], last_step=progress.step, epoch=progress.epoch + 1)
        return bool(told[0] > 0)

    def _is_asked_to_stop(self) -> bool:
        asked = torch.tensor(float(self._context.stop_requested()), device=self._context.device)
        return bool(total(asked) > 0)

    def _note_memory(self) -> None:
        self._steps_taken += 1
        if self._steps_taken == MEMORY_STEP and rank() == 0:
            write_training_memory(self._context.folder, self._context.device)

    def _validate(self) -> dict[str, float]:
        table = evaluate(
            self._model,
            self._task.evaluation("val"),
            self._task.measurer("val"),
            device=self._context.device,
            resources=self._resources,
            precision=self._config.precision,
        )
        return self._task.scores(table)

    def _keep(self, progress: Progress, scores: Mapping[str, float]) -> Progress:
        score = scores[self._config.select]
        better = score > progress.best_score
        if better:
            progress = replace(progress, best_epoch=progress.epoch, best_score=score)
        self._save(progress, is_best=better)
        return progress

    def _save(self, progress: Progress, *, is_best: bool = False) -> None:
        """Write the state, and before it the weights that it names as the best."""
        folder = self._context.folder

        def write() -> None:
            self._context.check_claim()
            if is_best:
                save_best(folder, self._model, progress.epoch)
            states = {"model": self._model.state_dict(), "optimizer": self._optimizer.state_dict()}
            save_state(folder, states, progress, keep=self._checkpoints.keep)
            if self._mirror is not None:
                self._mirror.copy(folder, progress)

        on_worker_0(write)


def _own_sum(progress: Progress) -> float:
    """This worker's sum of losses of the unfinished epoch; worker 0's is that of all after a change of their number."""
    if len(progress.summed) == world_size():
        return progress.summed[rank()]
    return sum(progress.summed, start=0.0) if rank() == 0 else 0.0


def _of_all_workers(summed: Tensor) -> tuple[float, ...]:
    return tuple(gather([float(summed)]))
