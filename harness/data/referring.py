"""Samples of a referring dataset as tensors: what the training loop and the evaluator iterate over.

Training shows one sentence per object and epoch, evaluation every sentence. Whatever is drawn for a sample depends only
on (seed, epoch, index): not on the number of workers, the order of access or the model. Letters: `S` image side, `T`
tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from harness.data.base import ReferringDataset, ReferringRecord, digest
from harness.data.cache import CacheShape, Pixels, SampleCache, open_cache
from harness.data.transforms import (
    BlackBoxes,
    black_out,
    draw_black_box_refs,
    normalise,
    resize_image,
    resize_mask,
)
from harness.errors import DataError

__all__ = ["BlackBoxes", "Encode", "ReferringSamples"]

Encode = Callable[[str], tuple[Any, Any]]
"""Sentence -> token ids `(T,)` and mask `(T,)` of 0 and 1, as sequences, arrays or tensors of integers."""

_BOXED_STREAM, _BOX_STREAM, _SENTENCE_STREAM, _SHUFFLE_STREAM = 1, 2, 3, 4


class ReferringSamples(Dataset[dict[str, Tensor]]):
    """One split as tensors.

    A sample holds `image` float32 `(3, S, S)`, normalised; `target` int64 `(S, S)` of 0 and 1; `tokens` int64 `(T,)`;
    `token_mask` int64 `(T,)`; `index` int64 `()`, its place in this object.

    Args:
        dataset: The opened dataset.
        split: `train`, `val` or `test`.
        image_size: `S` in pixels.
        encode: Turns a sentence into tokens; the same length `T` for every sentence.
        augment_seed: Makes these training samples: one per record, with a sentence drawn anew each epoch. Without it,
            one sample per record and sentence, nothing drawn.
        black_boxes: Augmentation of training samples; None for none.

    Raises:
        DataError: The split holds no sample.
        ValueError: `black_boxes` without `augment_seed`.
    """

    def __init__(
        self,
        dataset: ReferringDataset,
        split: str,
        *,
        image_size: int,
        encode: Encode,
        augment_seed: int | None = None,
        black_boxes: BlackBoxes | None = None,
    ) -> None:
        if black_boxes is not None and augment_seed is None:
            raise ValueError("black_boxes must come with augment_seed; evaluation samples are never augmented")
        self._dataset, self._size, self._encode = dataset, image_size, encode
        self._records = tuple(dataset.records(split))
        if not self._records:
            raise DataError(f"split {split!r} must hold a sample, got none; 'harness data check' counts them")
        self._seed, self._boxes, self._epoch = augment_seed, black_boxes, 0
        self._boxed = self._choose_boxed()
        self._donors = np.arange(len(self._records))
        self._places = tuple(self._expand())
        self._cache: SampleCache | None = None

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        record_index, _ = self._places[index]
        pixels = self._pixels(record_index)
        ids, mask = self._encode(self.sentence(index))
        return {
            "image": torch.from_numpy(normalise(pixels.image)),
            "target": torch.from_numpy(pixels.mask.astype(np.int64)),
            "tokens": torch.as_tensor(ids, dtype=torch.int64),
            "token_mask": torch.as_tensor(mask, dtype=torch.int64),
            "index": torch.tensor(index),
        }

    def use_cache(self, *, fingerprint: str, gib: float) -> None:
        """Take pixels from the node's cache, and keep there what is decoded; samples are the same with and without.

        Args:
            fingerprint: Hash of the dataset's content.
            gib: What all caches of the node may take, in GiB; 0 for no cache.
        """
        content = digest(fingerprint.encode(), *(_file_state(record) for record in self._records))
        shape = CacheShape(len(self._records), self._size)
        split = self._records[0].split
        self._cache = open_cache(f"{split}-{self._size}-{content}", shape, gib=gib) if gib > 0 else None

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, whose sentences and boxes are drawn; call before the epoch's loader starts."""
        self._epoch = epoch

    def part(self, rank: int, num_workers: int) -> list[int]:
        """Every n-th sample, from the worker's own number on."""
        return list(range(rank, len(self), num_workers))

    def sentence(self, index: int) -> str:
        """The sentence that sample `index` shows in this epoch."""
        record_index, number = self._places[index]
        sentences = self._records[int(self._donors[record_index])].sentences
        if self._seed is not None:
            number = int(self._rng(_SENTENCE_STREAM, record_index).integers(len(sentences)))
        return sentences[number % len(sentences)]

    def describe(self, index: int) -> dict[str, Any]:
        """`key`, `sentence` and `category` of a sample, for tables of results.

        The key is the record's; a record with several sentences adds `#0`, `#1`, ... in evaluation.
        """
        record_index, number = self._places[index]
        record = self._records[record_index]
        is_one_of_many = self._seed is None and len(record.sentences) > 1
        key = f"{record.key}#{number}" if is_one_of_many else record.key
        return {"key": key, "sentence": self.sentence(index), "category": record.category}

    def pixels(self, index: int) -> Pixels:
        """Image and mask of sample `index` as evaluation sees them, before normalisation."""
        return self._plain(self._places[index][0])

    def native_mask(self, index: int) -> NDArray[np.uint8]:
        """The sample's mask `(H, W)` of 0 and 1 as it is on disk."""
        return self._dataset.read_mask(self._records[self._places[index][0]])

    def shuffle_sentences(self, seed: int) -> ReferringSamples:
        """A control for "does the model read?": the same images and masks, each with another record's sentence.

        Records pass their sentences around one random cycle, so that none keeps its own; two records may say the same.

        Args:
            seed: Decides who gets whose sentence.

        Raises:
            DataError: There is only one record.
        """
        num_records = len(self._records)
        if num_records < 2:
            raise DataError("shuffling sentences must have two or more records, got one; use a larger split")
        order = np.random.default_rng([seed, _SHUFFLE_STREAM]).permutation(num_records)
        shuffled = copy.copy(self)
        shuffled._donors = np.empty(num_records, np.int64)
        shuffled._donors[order] = self._donors[np.roll(order, 1)]
        return shuffled

    def _expand(self) -> list[tuple[int, int]]:
        """(record, sentence) of every sample."""
        if self._seed is not None:
            return [(i, 0) for i in range(len(self._records))]
        return [(i, n) for i, record in enumerate(self._records) for n in range(len(record.sentences))]

    def _choose_boxed(self) -> frozenset[int]:
        if self._boxes is None or self._seed is None:
            return frozenset()
        rng = np.random.default_rng([self._seed, _BOXED_STREAM])
        return frozenset(draw_black_box_refs(len(self._records), self._boxes.fraction, rng).tolist())

    def _pixels(self, record_index: int) -> Pixels:
        if self._boxes is None or record_index not in self._boxed:
            return self._plain(record_index)
        image = self._whole(record_index)
        mask = self._plain(record_index, image).mask if self._cache else self._mask(record_index)
        covered = black_out(image, self._boxes, self._rng(_BOX_STREAM, record_index))
        return Pixels(resize_image(covered, self._size), mask)

    def _plain(self, record_index: int, image: NDArray[np.uint8] | None = None) -> Pixels:
        """Image and mask without augmentation, from the cache or from the files; `image` saves decoding it again."""
        kept = self._cache.read(record_index) if self._cache else None
        if kept is not None:
            return kept
        if image is None:
            image = self._dataset.read_image(self._records[record_index])
        pixels = Pixels(resize_image(image, self._size), self._mask(record_index))
        if self._cache:
            self._cache.write(record_index, pixels)
        return pixels

    def _whole(self, record_index: int) -> NDArray[np.uint8]:
        """The image at full resolution, from the cache or from its file."""
        kept = self._cache.read_whole(record_index) if self._cache else None
        if kept is not None:
            return kept
        image = self._dataset.read_image(self._records[record_index])
        if self._cache:
            self._cache.write_whole(record_index, image)
        return image

    def _mask(self, record_index: int) -> NDArray[np.uint8]:
        record = self._records[record_index]
        mask = resize_mask(self._dataset.read_mask(record), self._size)
        if mask.max() > 1:
            raise DataError(f"the mask of sample {record.key} must hold 0 and 1 only, got {mask.max()}")
        return mask

    def _rng(self, stream: int, record_index: int) -> np.random.Generator:
        return np.random.default_rng([self._seed or 0, stream, self._epoch, record_index])


def _file_state(record: ReferringRecord) -> bytes:
    """What changes when a record or its image file does; reads no pixels."""
    found = record.image.stat() if record.image.exists() else None
    state = (found.st_size, found.st_mtime_ns) if found else None
    return repr((record.key, record.split, record.image.name, state)).encode()
