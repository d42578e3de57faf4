"""The smallest real study: MAFN a few channels wide on generated images, a second or two per trial."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.checkpoint import Progress
from harness.data.synthetic import data_root
from harness.errors import TrialStopped
from harness.plan import expand, fingerprint_of
from harness.records import Plan, Resources, Trial
from harness.seeding import stream_seed
from harness.spec import load_study
from harness.tasks import Task, build_task
from harness.train import Seeds, Trainer
from models.base import MODELS, SegmentationModel, resolve_config

STUDY = """\
name: tiny
question: Does the machinery work?
task: referring
data: {name: rrsis_d, image_size: 32, synthetic: {train: 10, val: 5, test: 4, size: 32}}
train:
  epochs: 3
  global_batch: 4
  lr: 2.0e-3
  loss: {class_weights: [0.3, 3.0]}
  black_boxes: {fraction: 0.5, min_count: 1, max_count: 3, size: 5}
evaluate: {controls: [shuffled_sentences]}
reference:
  label: MAFN
  model:
    name: mafn
    kernels: [1, 3]
    backbone: {pretrained: null, embed_dim: 8, depths: [1, 1, 1, 1], heads: [1, 2, 4, 8], window: 4, drop_path: 0.3}
    text: {pretrained: null, layers: 1, hidden: 32, heads: 2, intermediate: 64, vocab_size: 200, max_tokens: 12,
      dropout: 0.0}
replicates: 1
variants:
  decoder:
    design: grid
    axes: {model.decoder: [arc, msrc]}
report:
  primary: {metric: miou}
  tables:
    - {name: decoder, of: decoder, kind: ablation, metrics: [oiou, miou], splits: [val]}
"""


def write_study(folder: Path, *changes: tuple[str, str]) -> Path:
    """Write `STUDY` with each `(old, new)` applied."""
    return write_changed(folder / "tiny.yaml", STUDY, changes)


def write_changed(path: Path, text: str, changes: Iterable[tuple[str, str]]) -> Path:
    """Write a study with each `(old, new)` applied; workers of a trial may write and read it at the same time."""
    for old, new in changes:
        assert old in text, f"{old!r} must be in the study"
        text = text.replace(old, new)
    half = path.with_suffix(f".{os.getpid()}")
    half.write_text(text, encoding="utf-8")
    return half.replace(path)


def tiny_plan(folder: Path, *changes: tuple[str, str]) -> Plan:
    """The plan of `STUDY` with each `(old, new)` applied: one trial per decoder."""
    study = load_study(write_study(folder, *changes), environ={})
    fingerprint, root = fingerprint_of(study)
    return expand(study, fingerprint=fingerprint, data_root=root)


def tiny_trial(folder: Path, **train: Any) -> Trial:
    """The reference's trial, with changes to its recipe."""
    plan = tiny_plan(folder)
    trial = next(t for t in plan.trials if t.variant == "MAFN")
    return replace(trial, train={**trial.train, **train}) if train else trial


def with_workers(trial: Trial, workers: int) -> Trial:
    """The same trial on another number of workers."""
    return replace(trial, resources=Resources(workers=workers))


class CrashError(Exception):
    """What a `Context` raises in place of a crash."""


class Context:
    """A trial's context that remembers what it is told.

    Args:
        storage: Folder of the study's runs.
        trial: Whose context it is.
        stop_after: Epoch whose report is the last thing that happens before a crash.
        stop_at: How many times it is asked whether to stop before it says yes.
        taken_at: How many times the claim is checked before another driver has the trial.
    """

    def __init__(
        self,
        storage: Path,
        trial: Trial,
        *,
        stop_after: int | None = None,
        stop_at: int | None = None,
        taken_at: int | None = None,
    ) -> None:
        self.device = torch.device("cpu")
        self.storage = storage
        self.folder = storage / "trials" / trial.id
        self.folder.mkdir(parents=True, exist_ok=True)
        self.reports: dict[int, dict[str, float]] = {}
        self.asked = self.checked = 0
        self._stop_after, self._stop_at, self._taken_at = stop_after, stop_at, taken_at

    def report(self, epoch: int, scores: Mapping[str, float]) -> None:
        self.reports[epoch] = dict(scores)
        if epoch == self._stop_after:
            raise CrashError(f"after epoch {epoch}")

    def stop_requested(self) -> bool:
        self.asked += 1
        return self.asked == self._stop_at

    def check_claim(self) -> None:
        self.checked += 1
        if self.checked == self._taken_at:
            raise TrialStopped("another driver has the trial")


def build(trial: Trial, storage: Path) -> tuple[SegmentationModel, Task]:
    """The trial's model with its initial weights, and its task."""
    model_class = MODELS.get(trial.model["name"])
    config = resolve_config(model_class, trial.model)
    task = build_task(trial, data_root(trial, storage), config, storage=storage)
    torch.manual_seed(seed(trial, "init"))
    model = model_class(config, task.inputs)
    model.register_forward_pre_hook(_in_default_dtype)
    return model, task


def _in_default_dtype(_: torch.nn.Module, args: tuple[dict[str, Tensor]]) -> tuple[dict[str, Tensor]]:
    dtype = torch.get_default_dtype()
    return ({k: v.to(dtype) if v.is_floating_point() else v for k, v in args[0].items()},)


@contextmanager
def double_precision() -> Iterator[None]:
    """Compute in 64 bits, also where code says 32.

    Adam makes full steps of gradients that are zero but for rounding, so in 32 bits two orders of summation part after
    some steps; in 64 bits only a real difference shows.
    """
    to_float = torch.Tensor.float
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.Tensor.float = to_float  # type: ignore[method-assign]


def seed(trial: Trial, stream: str) -> int:
    """The trial's seed of a stream."""
    return stream_seed(stream, base_seed=trial.base_seed, dataset=trial.data["name"], replicate=trial.replicate)


def trainer_of(trial: Trial, context: Context, model: SegmentationModel, task: Task) -> Trainer:
    """What trains a model by the trial's recipe."""
    config = task.recipe
    seeds = Seeds(seed(trial, "order"), seed(trial, "model_noise"))
    return Trainer(model, task, config, seeds=seeds, context=context)


def fit(trial: Trial, context: Context) -> tuple[SegmentationModel, Progress]:
    """Train a trial; its model as the last epoch left it, and where training ended."""
    model, task = build(trial, context.storage)
    resources = Resources(eval_batch=4, micro_batch=trial.resources.micro_batch)
    progress = trainer_of(trial, context, model, task).fit(resources, trial.checkpoints)
    return model, progress
