"""One trial from configuration to result: the only place where data, model, training and evaluation meet."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch.utils.data import default_collate

from harness.checkpoint import Progress, best_path, explain_full_storage, load_best
from harness.cost import measure_cost, training_memory_mib, write_training_memory
from harness.data.synthetic import data_root
from harness.distributed import gather, on_worker_0
from harness.environment import describe_environment
from harness.evaluate import evaluate, to_device
from harness.feature_maps import write_feature_maps
from harness.pictures import write_pictures
from harness.records import CONTROL_SUFFIX, Resources, Score, Trial, TrialResult, TrialState
from harness.seeding import STREAMS, set_determinism, stream_seed
from harness.semantic_pictures import SHOWN
from harness.system_metrics import SystemMetrics
from harness.tasks import MASK, Task, build_task
from harness.train import Seeds, Trainer, TrialContext
from harness.trial_folder import write_json
from harness.tuning import SEARCH
from models.base import MODELS, SegmentationModel, resolve_config

_LOG = logging.getLogger(__name__)


def run_trial(trial: Trial, context: TrialContext) -> TrialResult:
    """Train a trial and evaluate its best weights: validation again, the test split once.

    Every worker of the trial calls this; worker 0 leaves `samples_<split>.parquet`, `predictions_<split>.parquet`,
    `pictures/`, `feature_maps.npz`, `seeds.json`, `environment.json` and `system.jsonl` in the context's folder.

    Args:
        trial: What to run.
        context: Device, folders, and whom to tell after each epoch.

    Returns:
        The same COMPLETE result on every worker.

    Raises:
        TrialStopped: It was asked to stop, or is another driver's by now.
        DivergedError: The loss is no number any more, or exploded.
    """
    seeds = {
        s: stream_seed(s, base_seed=trial.base_seed, dataset=trial.data["name"], replicate=trial.replicate)
        for s in STREAMS
    }
    _write(context, lambda folder: write_json(folder / "seeds.json", seeds))
    model_class = MODELS.get(trial.model["name"])
    model_config = resolve_config(model_class, trial.model)
    task = build_task(trial, data_root(trial, context.storage), model_config, storage=context.storage)
    set_determinism(task.recipe.deterministic)
    torch.manual_seed(seeds["init"])
    model = model_class(model_config, task.inputs).to(context.device)
    with SystemMetrics(context.folder, context.device) as metrics:
        trainer = Trainer(model, task, task.recipe, seeds=Seeds(seeds["order"], seeds["model_noise"]), context=context)
        progress = trainer.fit(trial.resources, trial.checkpoints)
        cost = _training_cost(progress, context)
        model.load_state_dict(on_worker_0(lambda: load_best(context.folder, progress.best_epoch)))
        scores = _score(model, task, context, trial=trial)
        _write(context, lambda folder: _describe(folder, model, task, device=context.device))
        cost = {**_cost(model, task, context), **cost, **_used(metrics, trial.resources)}
    checkpoint = str(best_path(context.folder, progress.best_epoch))
    return TrialResult(
        trial.id,
        TrialState.COMPLETE,
        tuple(scores),
        best_epoch=progress.best_epoch,
        cost=cost,
        checkpoint=checkpoint,
        notes=on_worker_0(lambda: trainer.notes),
    )


def _score(model: SegmentationModel, task: Task, context: TrialContext, *, trial: Trial) -> list[Score]:
    """Every score of every split; what was measured of the samples is written down, and a few of them are drawn."""
    scores: list[Score] = []
    for split in task.splits:
        table = evaluate(
            model,
            task.evaluation(split),
            task.measurer(split, context.folder),
            device=context.device,
            resources=trial.resources,
            precision=task.recipe.precision,
        )
        _write(context, partial(_keep_samples, table, split=split))
        if trial.kind != SEARCH:
            _write(context, partial(_draw, task, table, split=split))
        scores += [Score(split, name, value) for name, value in task.scores(table).items()]
    return scores


def _write(context: TrialContext, action: Callable[[Path], None]) -> None:
    """Let worker 0 write into the trial's folder, if the trial is still its own."""

    def write() -> None:
        context.check_claim()
        with explain_full_storage(context.folder):
            action(context.folder)

    on_worker_0(write)


def _describe(folder: Path, model: SegmentationModel, task: Task, *, device: torch.device) -> None:
    write_feature_maps(folder, model, task, device=device)
    write_json(folder / "environment.json", describe_environment())
    if about := task.about():
        write_json(folder / "data.json", about)


def _training_cost(progress: Progress, context: TrialContext) -> dict[str, float]:
    """Time of training over all starts and, on GPUs, the memory of the worker that needs most."""
    found = {"train_s": progress.seconds}
    peaks = [peak for peak in gather([training_memory_mib(context.device)]) if peak is not None]
    if peaks:
        found["train_memory_mib"] = max(peaks)
        _write(context, lambda folder: write_training_memory(folder, context.device, peak_mib=max(peaks)))
    return found


def _used(metrics: SystemMetrics, resources: Resources) -> dict[str, float]:
    """Hours of the devices that the trial held, over all starts, and their energy where they count it."""
    hours = on_worker_0(metrics.hours) * resources.workers
    found = {"cpu_hours": hours * resources.cpus_per_worker, "gpu_hours": hours * resources.gpus_per_worker}
    energy = metrics.energy_kwh()
    return found if energy is None else {**found, "energy_kwh": energy}


def _cost(model: SegmentationModel, task: Task, context: TrialContext) -> dict[str, float]:
    batch = to_device(default_collate([task.evaluation("val")[0]]), context.device)
    return measure_cost(model, batch, context.device)


def _keep_samples(table: pd.DataFrame, folder: Path, split: str) -> None:
    """Write what was measured of each sample and, of the splits themselves, which pixels were predicted."""
    table.drop(columns=[MASK, SHOWN], errors="ignore").to_parquet(folder / f"samples_{split}.parquet", index=False)
    if MASK in table and not split.endswith(CONTROL_SUFFIX):
        masks = table[["index", "key", "height", "width", MASK]]
        masks.to_parquet(folder / f"predictions_{split}.parquet", index=False)


def _draw(task: Task, table: pd.DataFrame, folder: Path, split: str) -> None:
    try:
        write_pictures(folder, split, task.pictures(split, table))
    except Exception:  # noqa: BLE001 -- a trial must not lose its scores for want of a picture
        _LOG.exception("no pictures of %s", split)
