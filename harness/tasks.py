"""What a trial trains on and is judged by: samples, loss, per-sample measurements, scores.

A task joins a dataset, the model's text encoder and the evaluation protocol, so that training and evaluation need to
know none of them. Shapes: `B` images, `K` classes, `H W` pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.data.base import ReferringDataset, SyntheticConfig
from harness.data.coco_mask import decode_rle, encode_rle
from harness.data.referring import BlackBoxes, ReferringSamples
from harness.data.synthetic import open_dataset
from harness.data.transforms import resize_image, resize_mask
from harness.error_picture import FALSE_ALARM, HIT, MISS, error_picture
from harness.losses import segmentation_loss, weighted_cross_entropy
from harness.metrics import referring_scores
from harness.pictures import SIDE, Picture, chosen
from harness.records import CONTROL_SUFFIX, Trial
from harness.seeding import stream_seed
from harness.semantic_task import SemanticTask
from harness.spec_protocol import ReferringEvaluateConfig
from harness.spec_recipe import ReferringTrainConfig, TrainConfig
from models.base import Inputs, ModelOutput
from models.text import build_tokenizer

MASK = "prediction"
"""Column of measured rows with the predicted mask as compressed run lengths of `height` x `width` pixels."""


class Samples(Protocol):
    """Samples by index, for a `torch.utils.data.DataLoader`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Tensor]: ...

    def set_epoch(self, epoch: int) -> None:
        """Draw the augmentation of that epoch, from 0; call before the epoch's loader starts."""
        ...

    def part(self, rank: int, num_workers: int) -> list[int]:
        """Indices that one of several workers evaluates, in that order; together the workers have each index once."""
        ...

    def describe(self, index: int) -> dict[str, Any]:
        """The sample's `key` and whatever else tables of results say of it."""
        ...


Measurer = Callable[[ModelOutput, Mapping[str, Tensor]], list[dict[str, Any]]]
"""Given the outputs and batches of a worker's part in order, returns the rows that are complete after each batch."""


class Task(Protocol):
    """Everything that depends on the kind of segmentation."""

    inputs: Inputs
    splits: tuple[str, ...]
    """What is scored after training."""

    @property
    def recipe(self) -> TrainConfig:
        """How the trial is trained."""
        ...

    def training(self) -> Samples:
        """Training samples."""
        ...

    def evaluation(self, split: str) -> Samples:
        """Samples of a split, each with its `index`."""
        ...

    def loss(self, output: ModelOutput, batch: Mapping[str, Tensor]) -> Tensor:
        """This worker's share of the loss, times the number of workers."""
        ...

    def measurer(self, split: str, folder: Path | None = None) -> Measurer:
        """Makes one row per sample or tile, starting with its `index`.

        Args:
            split: Which samples will be measured.
            folder: Where predictions that do not fit into a row are written; None to write none.
        """
        ...

    def scores(self, table: pd.DataFrame) -> dict[str, float]:
        """Metric -> score of a split's rows."""
        ...

    def pictures(self, split: str, table: pd.DataFrame) -> list[Picture]:
        """Pictures of a few samples of a split.

        Args:
            split: Which samples were measured.
            table: Its rows, by a measurer that was given a folder.
        """
        ...

    def about(self) -> dict[str, Any]:
        """What is worth keeping of the data with a trial, ready for JSON; may be empty."""
        ...


class ReferringTask:
    """Referring segmentation.

    Protocol `rrsis480` compares prediction and mask at the input's size, as the published evaluation does; `native`
    resizes the logits (bilinear, corners not aligned) to the size of the mask on disk and compares there.

    Args:
        trial: What to train.
        root: Folder of the dataset; a synthetic one is generated there if it is missing.
        model_config: The model's validated configuration; its `text` says how sentences become tokens.
    """

    def __init__(self, trial: Trial, root: Path, model_config: Any) -> None:
        self.recipe = ReferringTrainConfig.model_validate(trial.train)
        self._evaluate = ReferringEvaluateConfig.model_validate(trial.evaluate)
        self.splits = self._evaluate.splits
        self._trial = trial
        made = trial.data["synthetic"]
        self._data: ReferringDataset = open_dataset(
            trial.data["name"], root=root, synthetic=None if made is None else SyntheticConfig(**made)
        )
        sentences = [s for record in self._data.records("train") for s in record.sentences]
        self._tokenizer = build_tokenizer(model_config.text, sentences)
        self._samples: dict[str, ReferringSamples] = {}
        self.inputs = Inputs(
            image_size=trial.data["image_size"],
            modalities={"image": 3},
            vocab_size=self._tokenizer.vocab_size,
            pad_id=self._tokenizer.pad_id,
            vocabulary=self._tokenizer.vocabulary,
        )

    @cached_property
    def _augment_seed(self) -> int:
        trial = self._trial
        return stream_seed("augment", base_seed=trial.base_seed, dataset=trial.data["name"], replicate=trial.replicate)

    def training(self) -> ReferringSamples:
        """Training samples: one sentence per object, black boxes on the drawn share of them."""
        boxes = self.recipe.black_boxes
        return self._open(
            "train",
            augment_seed=self._augment_seed,
            black_boxes=BlackBoxes(**boxes.model_dump()) if boxes.fraction > 0 else None,
        )

    def evaluation(self, split: str) -> ReferringSamples:
        """Every sentence of the split, or of `<split>_shuffled` with the sentences exchanged between samples."""
        if split not in self._samples:
            if split.endswith(CONTROL_SUFFIX):
                plain = self.evaluation(split.removesuffix(CONTROL_SUFFIX))
                self._samples[split] = plain.shuffle_sentences(self._augment_seed)
            else:
                self._samples[split] = self._open(split)
        return self._samples[split]

    def _open(self, split: str, **augmentation: Any) -> ReferringSamples:
        size = self.inputs.image_size
        samples = ReferringSamples(self._data, split, image_size=size, encode=self._tokenizer.encode, **augmentation)
        samples.use_cache(fingerprint=self._trial.data_fingerprint, gib=self._trial.resources.cache_gib)
        return samples

    def loss(self, output: ModelOutput, batch: Mapping[str, Tensor]) -> Tensor:
        """`ce * cross entropy + dice * Dice`, and `auxiliary * cross entropy` of each auxiliary head."""
        config, target = self.recipe.loss, batch["target"]
        parts = segmentation_loss(
            output.logits,
            target,
            class_weights=config.class_weights,
            reduction=config.dice_reduction,
            ce_reduction=config.ce_reduction,
        )
        loss = config.ce * parts.cross_entropy + config.dice * parts.dice
        # A weight of 0 still gives every head a gradient, which DDP waits for.
        for logits in output.auxiliary:
            loss = loss + config.auxiliary * weighted_cross_entropy(
                logits.float(), target, config.class_weights, reduction=config.ce_reduction
            )
        return loss

    def measurer(self, split: str, folder: Path | None = None) -> Measurer:
        """Pixels of intersection, union and mask per sample, and the prediction; exact ties go to the background."""
        del folder  # run lengths of a mask fit into its row
        return partial(self._measure, split)

    def _measure(self, split: str, output: ModelOutput, batch: Mapping[str, Tensor]) -> list[dict[str, Any]]:
        samples, indices = self.evaluation(split), batch["index"].tolist()
        if self._evaluate.protocol == "rrsis480":
            return _rows(samples, indices, output.logits, batch["target"] == 1)
        rows: list[dict[str, Any]] = []
        for n, index in enumerate(indices):
            truth = torch.from_numpy(samples.native_mask(index)).to(output.logits.device) == 1
            logits = F.interpolate(output.logits[n : n + 1].float(), size=truth.shape, mode="bilinear")
            rows += _rows(samples, [index], logits, truth[None])
        return rows

    def scores(self, table: pd.DataFrame) -> dict[str, float]:
        """Every referring metric as a fraction."""
        counted = table[table["area"] > 0] if self._evaluate.drop_empty_refs else table
        return referring_scores(
            counted["intersection"].to_numpy(), counted["union"].to_numpy(), empty=self._evaluate.empty
        )

    def pictures(self, split: str, table: pd.DataFrame) -> list[Picture]:
        """Hits, false alarms and misses over the images, in the colours of the report's figures."""
        return [self._picture(self.evaluation(split), row) for row in table.iloc[chosen(len(table))].to_dict("records")]

    def _picture(self, samples: ReferringSamples, row: Mapping[Hashable, Any]) -> Picture:
        pixels = samples.pixels(row["index"])
        kept = decode_rle(row[MASK], height=row["height"], width=row["width"])
        image, truth, predicted = (
            resize_image(pixels.image, SIDE),
            resize_mask(pixels.mask, SIDE),
            resize_mask(kept, SIDE),
        )
        found, asked = predicted.astype(bool), truth.astype(bool)
        iou = f"IoU {100 * row['intersection'] / row['union']:.1f} %" if row["union"] else "both masks are empty"
        return Picture(
            image,
            error_picture(image, asked, asked, min_side=SIDE),
            error_picture(image, asked, found, min_side=SIDE),
            words=(row["sentence"], iou),
            legend={"hit": HIT, "false alarm": FALSE_ALARM, "miss": MISS},
        )

    def about(self) -> dict[str, Any]:
        """Nothing."""
        return {}


def _rows(samples: ReferringSamples, indices: Sequence[int], logits: Tensor, truth: Tensor) -> list[dict[str, Any]]:
    """Measure `logits (B, 2, H, W)` against `truth (B, H, W)`."""
    predicted = logits[:, 1] > logits[:, 0]
    both = (predicted & truth).sum((1, 2)).tolist()
    either = (predicted | truth).sum((1, 2)).tolist()
    area = truth.sum((1, 2)).tolist()
    height, width = predicted.shape[1:]
    # B H W -> B W H: run lengths go down the columns
    columns = predicted.transpose(1, 2).contiguous().cpu().numpy()
    return [
        {
            **{"index": i, **samples.describe(i), "intersection": both[n], "union": either[n], "area": area[n]},
            **{"height": height, "width": width, MASK: encode_rle(columns[n].T)},
        }
        for n, i in enumerate(indices)
    ]


def build_task(trial: Trial, root: Path, model_config: Any, *, storage: Path) -> Task:
    """The task that a trial names.

    Args:
        trial: What to train.
        root: Folder of the dataset.
        model_config: The model's validated configuration.
        storage: Folder of the study's runs, for what is computed once per dataset.
    """
    if trial.task == "semantic":
        return SemanticTask(trial, root, storage=storage)
    return ReferringTask(trial, root, model_config)
