"""One trial from configuration to result: the only place where data, model, training and evaluation meet."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import torch
from torch.utils.data import default_collate

from harness.checkpoint import best_path, load_best
from harness.cost import measure_cost
from harness.data.synthetic import data_root
from harness.distributed import broadcast, rank
from harness.environment import describe_environment
from harness.evaluate import evaluate, to_device
from harness.feature_maps import write_feature_maps
from harness.records import CONTROL_SUFFIX, Score, Trial, TrialResult, TrialState
from harness.seeding import set_determinism, stream_seed
from harness.tasks import MASK, Task, build_task
from harness.train import Seeds, Trainer, TrialContext
from models.base import MODELS, SegmentationModel, resolve_config


def run_trial(trial: Trial, context: TrialContext) -> TrialResult:
    """Train a trial and evaluate its best weights: validation again, the test split once.

    Every worker of the trial calls this; worker 0 leaves `samples_<split>.parquet`, `predictions_<split>.parquet` and
    `feature_maps.npz` in the context's folder.

    Args:
        trial: What to run.
        context: Device, folders, and whom to tell after each epoch.

    Returns:
        The same COMPLETE result on every worker.
    """
    streams = {
        s: stream_seed(s, base_seed=trial.base_seed, dataset=trial.data["name"], replicate=trial.replicate)
        for s in ("init", "order", "model_noise")
    }
    model_class = MODELS.get(trial.model["name"])
    model_config = resolve_config(model_class, trial.model)
    task = build_task(trial, data_root(trial, context.storage), model_config, storage=context.storage)
    config = task.recipe
    set_determinism(config.deterministic)
    torch.manual_seed(streams["init"])
    model = model_class(model_config, task.inputs).to(context.device)
    trainer = Trainer(model, task, config, seeds=Seeds(streams["order"], streams["model_noise"]), context=context)
    progress = trainer.fit(trial.resources)
    best = load_best(context.folder, progress.best_epoch) if rank() == 0 else {}
    model.load_state_dict(broadcast(best))
    scores: list[Score] = []
    for split in task.splits:
        table = evaluate(
            model,
            task.evaluation(split),
            task.measurer(split, context.folder),
            device=context.device,
            resources=trial.resources,
            precision=config.precision,
        )
        _keep_samples(table, context.folder, split)
        scores += [Score(split, name, value) for name, value in task.scores(table).items()]
    if rank() == 0:
        write_feature_maps(context.folder, model, task, device=context.device)
        environment = json.dumps(describe_environment(), indent=1)
        (context.folder / "environment.json").write_text(environment, encoding="utf-8")
        if about := task.about():
            (context.folder / "data.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
    cost = {**_cost(model, task, context), "train_s": progress.seconds}
    checkpoint = str(best_path(context.folder, progress.best_epoch))
    return TrialResult(
        trial.id, TrialState.COMPLETE, tuple(scores), best_epoch=progress.best_epoch, cost=cost, checkpoint=checkpoint
    )


def _cost(model: SegmentationModel, task: Task, context: TrialContext) -> dict[str, float]:
    batch = to_device(default_collate([task.evaluation("val")[0]]), context.device)
    return measure_cost(model, batch, context.device)


def _keep_samples(table: pd.DataFrame, folder: Path, split: str) -> None:
    """Write what was measured of each sample and, of the splits themselves, which pixels were predicted."""
    if rank() != 0:
        return
    table.drop(columns=MASK, errors="ignore").to_parquet(folder / f"samples_{split}.parquet", index=False)
    if MASK in table and not split.endswith(CONTROL_SUFFIX):
        masks = table[["index", "key", "height", "width", MASK]]
        masks.to_parquet(folder / f"predictions_{split}.parquet", index=False)
