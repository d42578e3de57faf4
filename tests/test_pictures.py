"""Pictures of predictions: the rule that chooses samples, colours, and what of them the tracking store gets."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.entities import Run
from numpy.typing import NDArray
from PIL import Image

import harness.semantic_pictures
from harness.data.semantic import ModalityInfo, SemanticTile, Window
from harness.error_picture import HIT, MISS
from harness.local_executor import LocalExecutor
from harness.pictures import FOLDER, GAP, NUM_PICTURES, SIDE, Picture, chosen, compose, picture_key, write_pictures
from harness.records import Plan, TrialState
from harness.semantic_pictures import colour_bands, colour_image, shown_modality, shown_windows
from harness.tracking import MlflowTracker, default_uri
from harness.trial_folder import read_result, trial_folder
from harness.tuning import SEARCH
from tests.events import Events, run_all
from tests.recorded_study import result_of
from tests.test_feature_maps import Listening
from tests.test_semantic_task import Oracle, measured, task_of
from tests.test_tasks import large_scenes
from tests.test_tasks import measured as measured_logits
from tests.test_tasks import task_of as referring_task_of
from tests.tiny import tiny_plan
from tests.tiny_semantic import semantic_plan, semantic_trial

RGBN = ModalityInfo("optical", ("red", "green", "blue", "nir"), (0.66, 0.555, 0.485, 0.83))
LEGEND = {"not water": (210, 180, 140), "water": (0, 0, 255), "no label": (0, 0, 0)}
RADAR = ModalityInfo("sar", ("VV", "VH"))


def panels(height: int, width: int, *words: str) -> Picture:
    """Three panels of few colours; ground truth and prediction are halves."""
    image, truth = np.full((height, width, 3), 90, np.uint8), np.zeros((height, width, 3), np.uint8)
    truth[:, : width // 2] = (255, 0, 0)
    return Picture(image, truth, truth[:, ::-1].copy(), words, {"road": (0, 0, 255)})


def tile(height: int, width: int) -> SemanticTile:
    """A tile of that size."""
    return SemanticTile(f"{height}x{width}", "val", {}, Path("label"), height, width)


@given(st.integers(0, 5000))
def test_chosen_samples_are_spread_evenly(count: int) -> None:
    places = chosen(count)
    assert len(places) == min(count, NUM_PICTURES)
    edges = np.linspace(0, count, len(places) + 1)
    assert all(low <= place < high for low, place, high in zip(edges, places, edges[1:], strict=False))


def test_the_middle_of_every_quarter_is_chosen() -> None:
    assert chosen(8) == [1, 3, 5, 7]
    assert chosen(1740) == [217, 652, 1087, 1522]


@pytest.mark.parametrize(("height", "width"), [(48, 48), (384, 384), (100, 300), (1000, 20)])
def test_panels_keep_their_colours_and_shape(height: int, width: int) -> None:
    found = np.asarray(compose(panels(height, width, "word")))
    assert found.shape == (2 * SIDE + GAP, 2 * SIDE + GAP, 3)
    scale = SIDE / max(height, width)
    high, wide = max(1, round(height * scale)), max(1, round(width * scale))
    assert (found[:high, :wide] == 90).all()
    for panel in (found[:high, SIDE + GAP :][:, :wide], found[SIDE + GAP :, :wide][:high]):
        colours, counts = np.unique(panel.reshape(-1, 3), axis=0, return_counts=True)
        assert colours.tolist() == [[0, 0, 0], [255, 0, 0]]
        assert counts.max() - counts.min() <= 2 * high
    assert (found[high:SIDE, :SIDE] == 255).all()
    assert (found[:SIDE, wide:SIDE] == 255).all()


def test_the_legend_stays_whatever_the_words_are() -> None:
    few, many = (np.asarray(compose(panels(9, 9, words)))[SIDE + GAP :, SIDE + GAP :] for words in ("", "café " * 500))
    assert [int((p == (0, 0, 255)).all(2).sum()) for p in (few, many)] == [100, 100]
    dark = [(p.max(2) < 100).any(axis=0).nonzero()[0].max() for p in (few, many)]
    assert dark[0] < SIDE / 2 < dark[1] < SIDE, "words fill the panel's width, and no more"


def test_a_long_legend_leaves_room_for_words() -> None:
    plain = replace(panels(9, 9, "row 384", "71.3 % right"), legend={})
    crowded = replace(plain, legend={f"class {n}": (255, 10 * n, 0) for n in range(20)})
    found = [np.asarray(compose(p))[SIDE + GAP :, SIDE + GAP :] for p in (plain, crowded)]
    assert (found[0][:40] == found[1][:40]).all()
    assert (found[0][:40] == 0).any()
    shown = [n for n in range(20) if (found[1] == (255, 10 * n, 0)).all(2).sum() >= 100]
    assert shown == list(range(7))


def test_bands_that_are_shown() -> None:
    swapped = RGBN._replace(bands=("blue", "nir", "red", "green"), wavelengths_um=(0.485, 0.83, 0.66, 0.555))
    false_colour = ModalityInfo("optical", ("nir", "red", "green"), (0.84, 0.645, 0.56))
    unknown = ModalityInfo("hsi", tuple("abcdef"))
    found = [colour_bands(m) for m in (RGBN, swapped, false_colour, unknown, RADAR)]
    assert found == [(0, 1, 2), (2, 3, 0), (0, 1, 2), (0, 1, 2), (0, 0, 0)]
    assert shown_modality([RADAR, RGBN]) is RGBN
    assert shown_modality([RADAR]) is RADAR


def test_an_image_is_stretched_and_black_where_nothing_was_measured() -> None:
    values = np.linspace(0, 3000, 100, dtype=np.float32).reshape(1, 10, 10).repeat(2, 0)
    values[0, 0, 0] = np.nan
    image = colour_image(values, RADAR)
    assert (image.min(), image.max(), tuple(image[0, 0])) == (0, 255, (0, 0, 0))
    assert (np.diff(image[..., 0].ravel()[1:].astype(int)) >= 0).all()
    assert (colour_image(np.full((2, 4, 4), np.nan, np.float32), RADAR) == 0).all()
    assert (colour_image(np.full((2, 4, 4), 7, np.float32), RADAR) == 0).all()


def test_shown_windows_are_spread_over_the_tiles_of_a_split() -> None:
    assert shown_windows([tile(300, 400)]) == [(0, Window(0, 0, 300, 384)), (0, Window(0, 16, 300, 384))]
    assert shown_windows([tile(1000, 384)]) == [(0, Window(row, 0, 384, 384)) for row in (0, 384, 616)]
    many = shown_windows([tile(96, 96) for _ in range(80)])
    assert many == [(number, Window(0, 0, 96, 96)) for number in (10, 30, 50, 70)]
    assert [number for number, _ in shown_windows([tile(64, 64), tile(768, 768), tile(64, 64)])] == [0, 1, 1, 2]


def test_a_perfect_prediction_looks_like_the_ground_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.semantic_pictures, "WINDOW", 20)  # parts of tiles of 48 pixels, across strips of 32
    task = task_of(semantic_trial(tmp_path), tmp_path)
    windows = shown_windows(task.evaluation("test").tiles)
    assert len({window.row for _, window in windows}) > 1
    shown = task.pictures("test", measured(Oracle(task, "test"), task, "test", folder=tmp_path))
    wrong = task.pictures("test", measured(Oracle(task, "test", wrong=True), task, "test", folder=tmp_path))
    for right, other, (number, _) in zip(shown, wrong, windows, strict=True):
        labelled = (right.truth != 0).any(2)
        assert (right.prediction[labelled] == right.truth[labelled]).all()
        assert (other.prediction[labelled] != other.truth[labelled]).any(1).all()
        assert right.words[0] == task.evaluation("test").tiles[number].key
        assert (right.words[2], other.words[2]) == ("100.0 % right", "0.0 % right")
        assert (
            right.legend.items() <= {"not water": (210, 180, 140), "water": (0, 0, 255), "no label": (0, 0, 0)}.items()
        )


@pytest.mark.parametrize("protocol", ["rrsis480", "native"])
def test_hits_and_misses_are_painted_over_the_image(tmp_path: Path, protocol: str) -> None:
    task = referring_task_of(large_scenes(tmp_path), tmp_path, protocol=protocol)
    left = torch.zeros(4, 2, 32, 32)
    left[:, 1, :, :16] = 1.0
    table = measured_logits(task, left)
    pictures = task.pictures("val", table)
    assert [p.words[0] for p in pictures] == table["sentence"].tolist(), "all of four samples are shown"
    for picture, row in zip(pictures, table.itertuples(), strict=True):
        asked = near(picture.truth, HIT)
        assert abs(asked.mean() - row.area / row.height / row.width) < 0.02
        middle = SIDE // 2
        assert near(picture.prediction, HIT)[:, : middle - 4].sum() == asked[:, : middle - 4].sum()
        assert near(picture.prediction, MISS)[:, middle + 4 :].sum() == asked[:, middle + 4 :].sum()
        assert f"{100 * row.intersection / row.union:.1f} %" in picture.words[1]


def near(panel: NDArray[np.uint8], colour: tuple[int, int, int]) -> NDArray[np.bool_]:
    """Where a panel has a colour that lets a tenth of the image through."""
    found: NDArray[np.bool_] = (np.abs(panel.astype(int) - colour) < 26).all(2)
    return found


# In the tracking store

SHORT = ("epochs: 3", "epochs: 1")


def short_semantic_plan(folder: Path, *changes: tuple[str, str]) -> Plan:
    """The semantic study with no more warming up than an epoch has steps."""
    return semantic_plan(folder, ("warmup_steps: 2", "warmup_steps: 1"), *changes)


def image_files(client: MlflowClient, run: Run) -> list[str]:
    """Names of a run's images."""
    return sorted(Path(file.path).name for file in client.list_artifacts(run.info.run_id, "images"))


def keys_of(names: list[str]) -> list[str]:
    """The keys of MLflow's images, from the names of the files shown one by one."""
    return [name.partition("+")[0].replace("~", "/") for name in names if name.endswith(".png")]


@pytest.mark.parametrize(("plan_of", "split", "count"), [(tiny_plan, "val", 4), (short_semantic_plan, "test", 2)])
def test_variants_leave_pictures_of_the_same_samples(
    tmp_path: Path, empty_store: Path, plan_of: Callable[..., Plan], split: str, count: int
) -> None:
    shutil.copy(empty_store, tmp_path)
    plan = plan_of(tmp_path, SHORT)
    tracker = MlflowTracker(default_uri(tmp_path), tmp_path)
    tracker.open(plan, "study")
    run_all(LocalExecutor(), plan.trials[:2], tmp_path, observer=Listening(tracker))
    tracker.close()
    client = MlflowClient(tracking_uri=default_uri(tmp_path))
    experiment = client.get_experiment_by_name(plan.study)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`harness.kind` = 'trial'")
    assert len(runs) == 2
    for run in runs:
        assert run.data.tags["mlflow.loggedImages"] == "True"
        assert keys_of(image_files(client, run)) == [picture_key(split, n) for n in range(1, count + 1)]
        for name in image_files(client, run):
            image = Image.open(client.download_artifacts(run.info.run_id, f"images/{name}", str(tmp_path)))
            assert image.size == (2 * SIDE + GAP, 2 * SIDE + GAP)
    inputs = []
    for trial in plan.trials[:2]:
        whole = np.asarray(Image.open(trial_folder(tmp_path, trial) / FOLDER / split / "2.png"))
        inputs.append(whole[:SIDE].tobytes())
    assert inputs[0] == inputs[1], "input and ground truth are the same"


def test_a_trial_of_a_search_leaves_none(tmp_path: Path) -> None:
    plan = short_semantic_plan(tmp_path, SHORT)
    run_all(LocalExecutor(), [replace(plan.trials[0], kind=SEARCH)], tmp_path, observer=Events())
    folder = trial_folder(tmp_path, plan.trials[0])
    assert (folder / "samples_test.parquet").exists()
    assert not (folder / FOLDER).exists()


def test_a_picture_that_cannot_be_drawn_costs_no_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no font")

    monkeypatch.setattr("harness.trial.write_pictures", refuse)
    plan = short_semantic_plan(tmp_path, SHORT)
    run_all(LocalExecutor(), plan.trials[:1], tmp_path, observer=Events())
    result = read_result(trial_folder(tmp_path, plan.trials[0]))
    assert result is not None
    assert result.state is TrialState.COMPLETE


def test_a_run_has_each_picture_once(tmp_path: Path, empty_store: Path) -> None:
    """Two drivers may both find that a trial has ended, one after the other."""
    shutil.copy(empty_store, tmp_path)
    plan = replace(tiny_plan(tmp_path), primary_split="test")
    trial = plan.trials[0]
    client = MlflowClient(tracking_uri=default_uri(tmp_path))
    found = []
    for shade in (10, 200):
        write_pictures(trial_folder(tmp_path, trial), "val", [panels(shade, shade), panels(9, 9)])
        tracker = MlflowTracker(default_uri(tmp_path), tmp_path)
        tracker.open(plan, "study")
        tracker.started(trial)
        tracker.finished(trial, result_of(trial, 0), trial_folder(tmp_path, trial))
        tracker.close()
        experiment = client.get_experiment_by_name(plan.study)
        assert experiment is not None
        (run,) = client.search_runs([experiment.experiment_id], "tags.`harness.kind` = 'trial'")
        found.append(image_files(client, run))
    assert keys_of(found[0]) == ["predictions/val-1", "predictions/val-2"], "of the first split that is there"
    assert found[0] == found[1]
    write_pictures(trial_folder(tmp_path, trial), "val", [])
    assert list((trial_folder(tmp_path, trial) / FOLDER / "val").iterdir()) == []
