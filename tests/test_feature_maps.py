"""What a trial leaves for figures: maps at declared points, masks that decode to what was counted, and reading them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from harness.artifacts import MlflowArtifacts
from harness.data.coco_mask import decode_rle
from harness.errors import DataError, TrackingError
from harness.feature_maps import FILE, MAX_SIDE, activation_map, choose_samples, feature_maps, write_feature_maps
from harness.local_executor import LocalExecutor
from harness.panels import DatasetPanels
from harness.records import Plan, Trial
from harness.results import connect, moved_from, results_frame
from harness.tracking import MlflowTracker, default_uri
from harness.trial_folder import trial_folder
from models.base import MODELS, FeaturePoint, SegmentationModel
from tests import tiny
from tests.events import Events, run_all


@pytest.mark.parametrize("layout", ["B C H W", "B H W C", "B N C"])
def test_a_map_is_the_mean_over_channels_of_the_absolute_activation(layout: str) -> None:
    x = torch.randn(2, 5, 6, 6)
    as_given = {"B C H W": x, "B H W C": x.permute(0, 2, 3, 1), "B N C": x.flatten(2).transpose(1, 2)}[layout]
    found = activation_map(as_given, FeaturePoint("p", layout))  # type: ignore[arg-type]
    torch.testing.assert_close(found, x.abs().mean(1))


def test_large_maps_are_averaged_down() -> None:
    x = torch.rand(1, 1, 2 * MAX_SIDE, 2 * MAX_SIDE)
    found = activation_map(x, FeaturePoint("p", "B C H W"))
    torch.testing.assert_close(found, torch.nn.functional.avg_pool2d(x, 2)[:, 0])


def test_samples_are_chosen_by_hash_whatever_their_order() -> None:
    keys = [f"val/{i}" for i in range(50)]
    chosen = {keys[i] for i in choose_samples(keys)}
    assert chosen == {keys[::-1][i] for i in choose_samples(keys[::-1])}
    assert len(chosen) == 4
    assert choose_samples(["a"]) == [0]


@pytest.mark.parametrize("name", [n for n in MODELS.names() if MODELS.get(n).feature_points])
def test_every_declared_path_is_built_or_can_be_left_out(name: str) -> None:
    for point in MODELS.get(name).feature_points.values():
        assert point.layout in ("B C H W", "B H W C", "B N C")
        assert point.path.split(".")[0] in ("backbone", "decoder", "refine")


def test_maps_of_the_tiny_model(tmp_path: Path) -> None:
    model, task = tiny.build(tiny.tiny_trial(tmp_path), tmp_path)
    model.train()
    batch = {k: v[None] for k, v in task.evaluation("val")[0].items()}
    found = feature_maps(model, batch)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    sides = {name: maps.shape[1] for name, maps in found.items()}
    assert [name for name in model.feature_points if name in sides] == list(found)
    assert [sides[f"words {i}"] for i in (1, 2, 3, 4)] == [8, 4, 2, 1]
    assert [sides[f"decoder {i}"] for i in (3, 2, 1)] == [2, 4, 8]
    # nothing reads the fused features of the last stage, so they are not built
    assert set(model.feature_points) - set(found) == {"fused 4", "visual 4"}
    assert all(maps.dtype == np.float16 and np.isfinite(maps).all() for maps in found.values())
    again = feature_maps(model, batch)
    assert all((again[name] == found[name]).all() for name in found)


def test_a_model_without_points_leaves_no_file(tmp_path: Path) -> None:
    model, task = tiny.build(tiny.tiny_trial(tmp_path), tmp_path)
    plain = SegmentationModel(model.config, model.inputs)
    write_feature_maps(tmp_path, plain, task, device=torch.device("cpu"))
    assert not (tmp_path / FILE).exists()


class Listening(Events):
    """An observer that records to MLflow."""

    def __init__(self, tracker: MlflowTracker) -> None:
        super().__init__()
        self.started, self.reported, self.finished = tracker.started, tracker.reported, tracker.finished


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Path, str]:
    """A plan of one epoch whose first trial has been run and recorded; its storage and the run's id."""
    storage = tmp_path_factory.mktemp("storage")
    plan = tiny.tiny_plan(storage, ("epochs: 3", "epochs: 1"))
    tracker = MlflowTracker(default_uri(storage), storage)
    tracker.open(plan, "study")
    run_all(LocalExecutor(), plan.trials[:1], storage, observer=Listening(tracker))
    assert tracker.flush(60) == 0
    return plan, storage, run_of(storage, plan.trials[0])


def run_of(storage: Path, trial: Trial) -> str:
    """Id of a trial's run."""
    (run_id,) = results_frame(default_uri(storage), [trial.id])["run_id"].unique()
    return str(run_id)


def test_masks_decode_to_what_was_counted(recorded: tuple[Plan, Path, str]) -> None:
    plan, storage, run_id = recorded
    artifacts = MlflowArtifacts(default_uri(storage))
    samples = artifacts.samples(run_id, "val")
    assert samples is not None
    assert "prediction" not in samples
    assert not (trial_folder(storage, plan.trials[0]) / "predictions_val_shuffled.parquet").exists()
    keys = list(samples["key"])
    masks = artifacts.masks(run_id, "val", keys)
    panels = DatasetPanels(plan.trials[0], storage).read("val", keys, size=32)
    for line in samples.itertuples():
        truth, predicted = panels[line.key].truth, masks[line.key]
        assert ((truth & predicted).sum(), (truth | predicted).sum()) == (line.intersection, line.union)
        assert (truth.sum(), panels[line.key].sentence) == (line.area, line.sentence)
        assert panels[line.key].image.shape == (line.height, line.width, 3)
    assert set(artifacts.masks(run_id, "val", keys[:2])) == set(keys[:2])
    stored = pd.read_parquet(trial_folder(storage, plan.trials[0]) / "predictions_val.parquet")
    assert decode_rle(stored["prediction"][0], height=32, width=32).shape == (32, 32)


def test_maps_and_curves_come_back(recorded: tuple[Plan, Path, str]) -> None:
    _, storage, run_id = recorded
    artifacts = MlflowArtifacts(default_uri(storage))
    maps = artifacts.feature_maps(run_id)
    assert maps["keys"].shape == (4,)
    assert maps["words 1"].shape == (4, 8, 8)
    assert list(artifacts.curve(run_id, "val/miou")) == [1]
    assert artifacts.curve(run_id, "val/nothing") == {}


def test_what_a_run_has_not_left_is_none(recorded: tuple[Plan, Path, str]) -> None:
    plan, storage, _ = recorded
    tracker = MlflowTracker(default_uri(storage), storage)
    tracker.open(plan, "study")
    tracker.started(plan.trials[1])
    assert tracker.flush(60) == 0
    bare = run_of(storage, plan.trials[1])
    artifacts = MlflowArtifacts(default_uri(storage))
    assert artifacts.samples(bare, "val") is None
    assert (artifacts.masks(bare, "val", ["k"]), artifacts.feature_maps(bare)) == ({}, {})
    with pytest.raises(TrackingError, match="must be reachable"):
        artifacts.samples("0" * 32, "val")


def test_files_are_found_where_a_storage_folder_was_moved_to(tmp_path: Path, empty_store: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    new.mkdir()
    uri = f"sqlite:///{shutil.copy(empty_store, new / 'mlflow.db')}"
    client = connect(uri)
    experiment = client.create_experiment("s", artifact_location=(old / "artifacts" / "s").as_uri())
    run = client.create_run(experiment, tags={"harness.kind": "trial"}).info.run_id
    assert moved_from(uri, new, "s") is None, "the new folder has nothing of the study"
    place = new / "artifacts" / "s" / run / "artifacts"
    place.mkdir(parents=True)
    (place / "code.json").write_text('{"a": 1}')
    assert MlflowArtifacts(uri).document(run, "code.json") is None
    assert MlflowArtifacts(uri, new).document(run, "code.json") == {"a": 1}
    assert moved_from(uri, new, "s") == old
    old.symlink_to(new)
    assert moved_from(uri, new, "s") is None
    assert moved_from(uri, new, "other") is None


def test_a_report_is_logged_once_and_brought_up_to_date(recorded: tuple[Plan, Path, str], tmp_path: Path) -> None:
    plan, storage, _ = recorded
    (tmp_path / "figures").mkdir()
    files = [tmp_path / "a.tex", tmp_path / "figures" / "b.pdf"]
    for text in ("one", "two"):
        for path in files:
            path.write_text(text)
        MlflowTracker(default_uri(storage), storage).log_report(plan, files, tmp_path)
    client = MlflowArtifacts(default_uri(storage))._client
    experiment = client.get_experiment_by_name(plan.study)
    (run,) = client.search_runs([experiment.experiment_id], "tags.`harness.kind` = 'report'")
    assert (run.info.run_name, run.info.status) == ("report", "FINISHED")
    fetched = Path(client.download_artifacts(run.info.run_id, "figures/b.pdf", str(tmp_path / "figures")))
    assert fetched.read_text() == "two"


def test_panels_of_samples_that_are_not_there(tmp_path: Path) -> None:
    trial = tiny.tiny_trial(tmp_path)
    with pytest.raises(DataError, match="val must hold the sample 'x', it does not"):
        DatasetPanels(trial, tmp_path).read("val", ["x"], size=32)
    absent = type(trial).from_json({**trial.to_json(), "data_root": str(tmp_path / "no"), "data": {"name": "rrsis_d"}})
    with pytest.raises(DataError, match="the dataset must be at"):
        DatasetPanels(absent, tmp_path).read("val", ["x"], size=32)
