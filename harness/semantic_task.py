"""Semantic segmentation of tiles: crops to train on, sliding windows to predict, one confusion matrix to score by."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from harness.confusion import (
    NUM_ISPRS_CLASSES,
    class_scores,
    class_slug,
    confusion_matrix,
    num_averaged,
    semantic_scores,
)
from harness.data.base import SyntheticConfig, digest
from harness.data.crops import Augmentation, EvaluationWindows, TileReader, TrainingCrops, require_tiles
from harness.data.raster import write_prediction
from harness.data.semantic import SemanticDataset, SemanticTile, Window
from harness.data.statistics import BandStatistics, band_statistics
from harness.data.synthetic import data_root, open_dataset
from harness.distributed import broadcast, rank
from harness.errors import HarnessError, nearest
from harness.losses import labelled_cross_entropy
from harness.metrics import BLOCK, CONFUSION
from harness.pictures import Picture
from harness.records import Trial
from harness.seeding import stream_seed
from harness.semantic_pictures import SHOWN, Predicted, enter_strip, shown_windows, tile_picture
from harness.sliding_window import OverlapAverage, Strip, tile_windows
from harness.spec_protocol import SemanticEvaluateConfig
from harness.spec_recipe import SemanticTrainConfig
from models.base import Inputs, ModelOutput

PREDICTIONS = "predictions"
"""Folder of the written predictions, inside a trial's folder."""


class SemanticTask:
    """Semantic segmentation.

    Tiles are predicted in windows of the crops' size; where windows overlap their scores are averaged. A row of the
    measurements is a tile with its confusion matrix, so that scores of any set of tiles are sums.

    Args:
        trial: What to train.
        root: Folder of the dataset; a synthetic one is generated there if it is missing.
        storage: Folder of the study's runs; statistics of the bands are kept there for other trials.
    """

    def __init__(self, trial: Trial, root: Path, *, storage: Path) -> None:
        self.recipe = SemanticTrainConfig.model_validate(trial.train)
        self._evaluate = SemanticEvaluateConfig.model_validate(trial.evaluate)
        self.splits = self._evaluate.splits
        self._trial = trial
        self._data = _open(trial, root)
        require_fitting(trial, self._data)
        self._statistics = _kept_statistics(trial, self._data, storage)
        self._reader = TileReader(self._data, self._statistics)
        self._samples: dict[str, EvaluationWindows] = {}
        self.inputs = Inputs(
            image_size=trial.data["image_size"],
            modalities={m.name: len(m.bands) for m in self._data.modalities},
            num_classes=len(self._data.classes),
        )

    @cached_property
    def _augment_seed(self) -> int:
        trial = self._trial
        return stream_seed("augment", base_seed=trial.base_seed, dataset=trial.data["name"], replicate=trial.replicate)

    def training(self) -> TrainingCrops:
        """Crops of the training tiles."""
        crops = self.recipe.crops
        return TrainingCrops(
            self._reader,
            size=self.inputs.image_size,
            per_epoch=crops.per_epoch,
            augmentation=Augmentation(crops.scale, crops.max_class_share, crops.flip, crops.vertical_flip),
            seed=self._augment_seed,
        )

    def evaluation(self, split: str) -> EvaluationWindows:
        """Windows of the tiles of `val` or `test`, or of `test` under a stress."""
        if split not in self._samples:
            stress = self._evaluate.stresses.get(split)
            tiles = self._data.tiles("test" if stress else split)
            places = [self._windows(tile) for tile in tiles]
            self._samples[split] = EvaluationWindows(
                self._reader, tiles, places, stress=stress, seed=self._trial.base_seed
            )
        return self._samples[split]

    def _windows(self, tile: SemanticTile) -> list[Window]:
        size = self.inputs.image_size
        stride = max(1, round(size * (1 - self._evaluate.overlap)))
        windows = tile_windows(tile.height, tile.width, window=size, stride=stride)
        return [window._replace(height=size, width=size) for window in windows]  # equal sizes, to batch them

    def loss(self, output: ModelOutput, batch: Mapping[str, Tensor]) -> Tensor:
        """Cross entropy, `auxiliary` times that of each auxiliary head, and what the model itself adds."""
        config, target = self.recipe.loss, batch["target"]
        loss = labelled_cross_entropy(output.logits, target, config.class_weights)
        for logits in output.auxiliary:
            loss = loss + config.auxiliary * labelled_cross_entropy(logits, target, config.class_weights)
        return loss if output.penalty is None else loss + output.penalty

    def measurer(self, split: str, folder: Path | None = None) -> TileMeasurer:
        """Counts the pixels of each tile; writes the predictions of the test split where the protocol asks for it.

        Given a folder, its rows hold what was predicted in the shown windows.
        """
        keeps = folder is not None and self._evaluate.predictions and split == "test"
        return TileMeasurer(
            self.evaluation(split),
            self._data,
            average=self._evaluate.average,
            folder=folder / PREDICTIONS / split if folder is not None and keeps else None,
            shown=None if folder is None else shown_windows(self.evaluation(split).tiles),
        )

    def scores(self, table: pd.DataFrame) -> dict[str, float]:
        """Every semantic metric of the summed matrix, each class's own scores, and how many classes are averaged."""
        classes = self._data.classes
        matrix = np.stack(table[CONFUSION].to_list()).sum(axis=0).reshape(len(classes), len(classes))
        found = semantic_scores(matrix, protocol=self._evaluate.protocol)
        for measure, values in class_scores(matrix).items():
            named = zip(classes, values, strict=True)
            found |= {f"{measure}.{class_slug(c.name)}": float(v) for c, v in named if np.isfinite(v)}
        return {**found, "classes_averaged": float(num_averaged(matrix, protocol=self._evaluate.protocol))}

    def pictures(self, split: str, table: pd.DataFrame) -> list[Picture]:
        """The shown windows in the colours of their classes; inputs are shown without the split's stress."""
        tiles = self.evaluation(split).tiles
        predicted = {place: classes for kept in table[SHOWN] for place, classes in kept.items()}
        return [
            tile_picture(self._data, tiles[number], window, predicted[place])
            for place, (number, window) in enumerate(shown_windows(tiles))
        ]

    def about(self) -> dict[str, Any]:
        """The class table, the division into splits, and the statistics that inputs were normalised with."""
        return {
            "dataset": self._data.info.title,
            "split": self._data.split_name,
            "leaky": self._data.leaky,
            "classes": [asdict(c) for c in self._data.classes],
            "bands": {m.name: list(m.bands) for m in self._data.modalities},
            "normalisation": {name: asdict(found) for name, found in self._statistics.items()},
        }


def require_fitting(trial: Trial, data: SemanticDataset) -> None:
    """Raise `HarnessError` where a trial names a modality, or weights classes, that its dataset does not have."""
    classes, names = data.classes, [m.name for m in data.modalities]
    weights = trial.train["loss"]["class_weights"]
    if weights is not None and len(weights) != len(classes):
        raise HarnessError(
            f"train.loss.class_weights must have {len(classes)} entries, one per class of {data.info.title} "
            f"({', '.join(c.name for c in classes)}), got {len(weights)}"
        )
    if trial.evaluate["protocol"] == "ssrs" and len(classes) != NUM_ISPRS_CLASSES:
        raise HarnessError(
            f"evaluate.protocol ssrs is for the {NUM_ISPRS_CLASSES} classes of ISPRS, {data.info.title} has "
            f"{len(classes)}; use default"
        )
    asked = [("model.modalities", name) for name in trial.model.get("modalities", ())]
    asked += [("evaluate.stress", stress["modality"]) for stress in trial.evaluate["stress"]]
    for place, name in asked:
        if name not in names:
            raise HarnessError(f"{place}: unknown modality {name!r} of {data.info.title}; {nearest(name, names)}")


def require_trials_fit(trials: Sequence[Trial], storage: Path) -> None:
    """Open the dataset of a study's trials and check all of them against it, before any is started.

    Args:
        trials: Trials of one study, at least one.
        storage: Folder of the study's runs; a generated dataset is written there.

    Raises:
        HarnessError: One line that names what does not fit.
    """
    data = _open(trials[0], data_root(trials[0], storage))
    for trial in trials:
        require_fitting(trial, data)


def _open(trial: Trial, root: Path) -> SemanticDataset:
    made = trial.data["synthetic"]
    found: SemanticDataset = open_dataset(
        trial.data["name"],
        root=root,
        synthetic=None if made is None else SyntheticConfig(**made),
        options=trial.data["options"],
    )
    require_tiles(found)
    return found


class TileMeasurer:
    """Joins the windows of each tile, counts its pixels by truth and prediction.

    Only a window's height of rows is kept as scores; the prediction of the whole tile only where it is to be written.

    Args:
        samples: The windows; their outputs come in this order, all windows of a tile one after the other.
        data: Reads the truth.
        average: `softmax` or `logits`.
        folder: Where predictions are written; None to write none.
        shown: Places of tiles, each with a window whose prediction its row holds; None for rows without them.
    """

    def __init__(
        self,
        samples: EvaluationWindows,
        data: SemanticDataset,
        *,
        average: str,
        folder: Path | None,
        shown: Sequence[tuple[int, Window]] | None = None,
    ) -> None:
        self._samples, self._data, self._average, self._folder = samples, data, average, folder
        self._shown = shown
        self._kept: Predicted = {}
        self._last_window = {place.tile: index for index, place in enumerate(samples.places)}
        self._joined: OverlapAverage | None = None
        self._matrix: NDArray[np.int64] = np.zeros((0, 0), np.int64)
        self._prediction: NDArray[np.uint8] | None = None

    def __call__(self, output: ModelOutput, batch: Mapping[str, Tensor]) -> list[dict[str, Any]]:
        """Rows of the tiles whose last window is in the batch."""
        logits = output.logits.float()
        scores = logits.softmax(1) if self._average == "softmax" else logits
        rows = []
        for index, of_window in zip(batch["index"].tolist(), scores, strict=True):
            number, window = self._samples.places[index]
            tile = self._samples.tiles[number]
            if self._joined is None:
                self._begin(number, window, of_window)
            assert self._joined is not None
            height, width = min(window.height, tile.height), min(window.width, tile.width)
            inside = window._replace(height=height, width=width)
            self._count(tile, self._joined.add(inside, of_window[:, :height, :width]))
            if index == self._last_window[number]:
                self._count(tile, self._joined.finish())
                rows.append(self._end(number, tile))
        return rows

    def _begin(self, number: int, window: Window, scores: Tensor) -> None:
        num_classes, tile = len(scores), self._samples.tiles[number]
        self._joined = OverlapAverage(
            num_classes, height=tile.height, width=tile.width, window=window.height, device=scores.device
        )
        self._matrix = np.zeros((num_classes, num_classes), np.int64)
        self._prediction = None if self._folder is None else np.zeros((tile.height, tile.width), np.uint8)
        self._kept = {
            place: np.zeros((part.height, part.width), np.uint8)
            for place, (of, part) in enumerate(self._shown or ())
            if of == number
        }

    def _count(self, tile: SemanticTile, strip: Strip | None) -> None:
        """Enter rows whose prediction is final."""
        if strip is None:
            return
        first, predicted = strip
        truth = self._data.read_label(tile, Window(first, 0, *predicted.shape))
        self._matrix += confusion_matrix(truth, predicted, num_classes=len(self._matrix))
        if self._prediction is not None:
            self._prediction[first : first + len(predicted)] = predicted
        enter_strip(strip, self._kept, self._shown or ())

    def _end(self, number: int, tile: SemanticTile) -> dict[str, Any]:
        if self._prediction is not None and self._folder is not None:
            like = next(iter(tile.files.values()))
            path = self._folder / f"{tile.key.replace('/', '-')}.tif"
            write_prediction(path, self._prediction, like=like, window=tile.place)
        self._joined, self._prediction = None, None
        size = {"height": tile.height, "width": tile.width}
        shown = {} if self._shown is None else {SHOWN: self._kept}
        return {
            "index": number,
            "key": tile.key,
            BLOCK: tile.block,
            **size,
            CONFUSION: self._matrix.flatten().tolist(),
            **shown,
        }


def _kept_statistics(trial: Trial, data: SemanticDataset, storage: Path) -> dict[str, BandStatistics]:
    """Statistics of the training split: from the storage, else computed by worker 0 and kept there."""
    if rank() == 0:
        content = json.dumps([trial.data_fingerprint, trial.data["name"], trial.data["options"]], sort_keys=True)
        path = storage / "data" / f"statistics-{digest(content.encode())}.json"
        found = _read_statistics(path) if path.exists() else band_statistics(data)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_suffix(f".{uuid.uuid4().hex}")
            draft.write_text(json.dumps({name: asdict(s) for name, s in found.items()}), encoding="utf-8")
            draft.replace(path)
    else:
        found = {}
    return broadcast(found)


def _read_statistics(path: Path) -> dict[str, BandStatistics]:
    kept = json.loads(path.read_text(encoding="utf-8"))
    return {name: BandStatistics(**{k: tuple(v) for k, v in s.items()}) for name, s in kept.items()}
