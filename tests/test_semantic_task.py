"""Semantic segmentation from crops to scores: the same for any batch and number of workers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
import torch
from torch import nn

from harness.confusion import confusion_matrix, semantic_scores
from harness.data.synthetic import data_root
from harness.errors import DataError, HarnessError
from harness.evaluate import evaluate
from harness.local_executor import LocalExecutor
from harness.pictures import compose
from harness.records import Resources, Trial, TrialResult, TrialState
from harness.semantic_pictures import SHOWN
from harness.semantic_task import SemanticTask, require_trials_fit
from harness.tasks import Task
from harness.trial import run_trial
from harness.trial_folder import read_result, trial_folder
from models.base import ModelOutput
from tests.events import run_all
from tests.test_train import assert_same
from tests.tiny import Context, build, double_precision, fit
from tests.tiny_semantic import semantic_plan, semantic_trial
from tests.workers import run_workers


class Oracle(nn.Module):
    """Knows the label: a logit of 1 for the class that a window's pixel has, wrong on every pixel if asked to."""

    def __init__(self, task: SemanticTask, split: str, *, wrong: bool = False) -> None:
        super().__init__()
        self._samples, self._data, self._wrong = task.evaluation(split), task._data, wrong

    def forward(self, batch: dict[str, torch.Tensor]) -> ModelOutput:
        found = []
        for index in batch["index"].tolist():
            number, window = self._samples.places[index]
            label = self._samples._reader.label(self._samples.tiles[number], window)
            known = torch.where(label == 255, 0, label)
            found.append(nn.functional.one_hot(1 - known if self._wrong else known, 2).movedim(-1, 0).float())
        return ModelOutput(torch.stack(found))


def task_of(trial: Trial, storage: Path) -> SemanticTask:
    """The trial's task."""
    return SemanticTask(trial, data_root(trial, storage), storage=storage)


def measured(model: nn.Module, task: Task, split: str, *, batch: int = 3, folder: Path | None = None) -> pd.DataFrame:
    """The rows of a split."""
    return evaluate(
        model,
        task.evaluation(split),
        task.measurer(split, folder),
        device=torch.device("cpu"),
        resources=Resources(eval_batch=batch),
    )


def trained(folder: str, num_workers: int) -> dict[str, Any]:
    """A finished training on some workers; runs in a process of its own or in this one."""
    with double_precision():
        trial = replace(semantic_trial(Path(folder)), resources=Resources(workers=num_workers))
        context = Context(Path(folder), trial)
        model, progress = fit(trial, context)
        task = build(trial, Path(folder))[1]
        table = measured(model, task, "test", folder=Path(folder))
    return {
        "weights": dict(model.state_dict()),
        "progress": progress,
        "table": table.drop(columns=SHOWN),
        "scores": context.reports,
        "pictures": [compose(picture).tobytes() for picture in task.pictures("test", table)],
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A training in one process."""
    return trained(str(tmp_path_factory.mktemp("whole")), 1)


def test_two_workers_equal_one(tmp_path: Path, whole: dict[str, Any]) -> None:
    (tmp_path / "data").mkdir()
    task_of(semantic_trial(tmp_path), tmp_path)  # writes the tiles and their statistics, which both workers read
    for worker in run_workers(trained, str(tmp_path), 2):
        assert_same(worker["weights"], whole["weights"], 1e-5)
        assert worker["table"].equals(whole["table"])
        assert worker["pictures"] == whole["pictures"], "of tiles that were divided between the workers"
        for epoch, scores in whole["scores"].items():
            assert worker["scores"][epoch] == pytest.approx(scores, abs=1e-9)


def test_rows_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    trial = semantic_trial(tmp_path)
    model, task = build(trial, tmp_path)
    assert measured(model, task, "test", batch=1).equals(measured(model, task, "test", batch=7))


def test_a_perfect_prediction_counts_every_labelled_pixel(tmp_path: Path) -> None:
    task = task_of(semantic_trial(tmp_path), tmp_path)
    table = measured(Oracle(task, "test"), task, "test")
    labels = [task._data.read_label(tile, tile.whole) for tile in task._data.tiles("test")]
    expected = [confusion_matrix(label, np.where(label == 255, 0, label), num_classes=2) for label in labels]
    assert table["confusion"].tolist() == [matrix.flatten().tolist() for matrix in expected]
    scores = task.scores(table)
    assert {scores[name] for name in ("oa", "mpa", "miou", "fwiou", "mf1", "kappa")} == {1.0}
    assert (scores["iou.water"], scores["recall.not_water"], scores["classes_averaged"]) == (1.0, 1.0, 2.0)
    wrong = task.scores(measured(Oracle(task, "test", wrong=True), task, "test"))
    assert (wrong["oa"], wrong["miou"]) == (0.0, 0.0)
    assert wrong["kappa"] < 0


def test_scores_are_of_the_summed_matrix(tmp_path: Path) -> None:
    task = task_of(semantic_trial(tmp_path), tmp_path)
    matrices = [[5, 1, 2, 0], [0, 3, 4, 9]]
    scores = task.scores(pd.DataFrame({"confusion": matrices}))
    expected = semantic_scores(np.array(matrices).sum(axis=0).reshape(2, 2))
    assert {name: scores[name] for name in expected} == expected


def test_the_loss_leaves_unlabelled_pixels_out(tmp_path: Path) -> None:
    task = task_of(semantic_trial(tmp_path), tmp_path)
    logits = torch.randn(2, 2, 4, 4, requires_grad=True)
    target = torch.randint(2, (2, 4, 4))
    target[0, :2] = 255
    task.loss(ModelOutput(logits), {"target": target}).backward()
    assert logits.grad is not None
    assert not logits.grad[0, :, :2].any()
    assert logits.grad[0, :, 2:].all()
    plain = nn.functional.cross_entropy(logits, target, ignore_index=255)
    assert task.loss(ModelOutput(logits), {"target": target}).item() == pytest.approx(plain.item())
    penalty = torch.tensor(2.0)
    auxiliary = task.loss(ModelOutput(logits, (logits,), penalty), {"target": target})
    assert auxiliary.item() == pytest.approx(1.4 * plain.item() + 2)


def test_class_weights(tmp_path: Path) -> None:
    trial = semantic_trial(tmp_path, ("epochs: 3", "epochs: 3\n  loss: {class_weights: [1.0, 3.0]}"))
    logits, target = torch.randn(2, 2, 4, 4), torch.randint(2, (2, 4, 4))
    found = task_of(trial, tmp_path).loss(ModelOutput(logits), {"target": target})
    expected = nn.functional.cross_entropy(logits, target, weight=torch.tensor([1.0, 3.0]))
    assert float(found) == pytest.approx(float(expected))


def test_a_batch_without_labels_has_no_loss(tmp_path: Path) -> None:
    task = task_of(semantic_trial(tmp_path), tmp_path)
    target = torch.full((1, 4, 4), 255)
    assert float(task.loss(ModelOutput(torch.randn(1, 2, 4, 4)), {"target": target})) == 0.0


def test_predictions_lie_where_their_tile_lies(tmp_path: Path) -> None:
    task = task_of(semantic_trial(tmp_path), tmp_path)
    measured(Oracle(task, "test"), task, "test", folder=tmp_path / "out")
    for tile in task._data.tiles("test"):
        with (
            rasterio.open(tmp_path / "out" / "predictions" / "test" / f"{tile.key}.tif") as found,
            rasterio.open(tile.label) as truth,
        ):
            assert (found.crs, found.transform, found.shape) == (truth.crs, truth.transform, truth.shape)
            label = task._data.read_label(tile, tile.whole)
            labelled = label != 255
            np.testing.assert_array_equal(found.read(1)[labelled], label[labelled])
    assert not (tmp_path / "out" / "predictions" / "val").exists()


def test_predictions_only_where_asked(tmp_path: Path) -> None:
    task = task_of(semantic_trial(tmp_path, ("evaluate:\n", "evaluate:\n  predictions: false\n")), tmp_path)
    measured(Oracle(task, "test"), task, "test", folder=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_statistics_are_computed_once_and_kept_with_the_trial(tmp_path: Path) -> None:
    trial = semantic_trial(tmp_path)
    first = task_of(trial, tmp_path).about()["normalisation"]
    (kept,) = (tmp_path / "data").glob("statistics-*.json")
    changed = {name: {**s, "mean": [0.0] * len(s["mean"])} for name, s in json.loads(kept.read_text()).items()}
    kept.write_text(json.dumps(changed))
    second = task_of(trial, tmp_path).about()["normalisation"]
    assert set(second["sar"]["mean"]) == {0.0}
    assert second["sar"]["std"] == first["sar"]["std"]


def run_locally(trials: list[Trial], storage: Path) -> dict[str, TrialResult | None]:
    """Variant -> how its trial ended."""

    run_all(LocalExecutor(), trials, storage)
    return {t.variant: read_result(trial_folder(storage, t)) for t in trials}


def test_a_corrupt_tile_fails_its_trial_only_and_is_named(tmp_path: Path) -> None:
    plan = semantic_plan(tmp_path)
    trials = [t for t in plan.trials if t.variant != "Concat"]
    assert len(trials) == 2
    root = data_root(trials[0], tmp_path)
    require_trials_fit(trials, tmp_path)
    task = task_of(trials[0], tmp_path)
    victim = task._data.tiles("test")[-1].files["sar"]
    whole_file = victim.read_bytes()

    class Damaging(Context):
        def report(self, epoch: int, scores: Any) -> None:
            super().report(epoch, scores)
            victim.write_bytes(whole_file[: len(whole_file) // 3])

    with pytest.raises(DataError, match=victim.name):
        run_trial(trials[0], Damaging(tmp_path, trials[0]))
    victim.write_bytes(whole_file)
    ended = run_locally(trials[1:], tmp_path)
    assert [(result.state, result.error) for result in ended.values() if result] == [(TrialState.COMPLETE, None)]
    assert root.is_dir()


def test_a_trial_leaves_scores_of_every_split_and_what_it_saw(tmp_path: Path) -> None:
    trial = semantic_trial(tmp_path, epochs=1, warmup_steps=0)
    context = Context(tmp_path, trial)
    result = run_trial(trial, context)
    splits = {score.split for score in result.scores}
    assert splits == {"val", "test", "test-shift-sar-4", "test-drop-sar"}
    table = pd.read_parquet(context.folder / "samples_test-drop-sar.parquet")
    assert list(table.columns) == ["index", "key", "block", "height", "width", "confusion"]
    assert table["block"].tolist() == table["key"].tolist(), "generated chips are drawn independently of each other"
    kept = json.loads((context.folder / "data.json").read_text())
    assert [c["name"] for c in kept["classes"]] == ["not water", "water"]
    assert (kept["split"], kept["leaky"]) == ("published lists", False)
    assert len(kept["normalisation"]["optical"]["mean"]) == 13


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("modality: sar, levels", "modality: sra, levels"), r"evaluate\.stress: unknown modality 'sra' .*'sar'"),
        (("[[], [optical], [sar]]", "[[], [optcal]]"), r"model\.modalities: unknown modality 'optcal' .*'optical'"),
        (("epochs: 3", "epochs: 3\n  loss: {class_weights: [1.0]}"), r"class_weights must have 2 entries.*got 1"),
        (("evaluate:\n", "evaluate:\n  protocol: ssrs\n"), r"protocol ssrs is for the 6 classes of ISPRS.*has 2"),
        (("image_size: 32,", "image_size: 32, options: {split: left_right},"), "every split must have tiles, 'val'"),
    ],
)
def test_what_does_not_fit_the_data_is_refused_before_training(
    tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    trials = semantic_plan(tmp_path, change).trials
    with pytest.raises(HarnessError, match=message):
        require_trials_fit(trials, tmp_path)
