"""Samples of a study as pictures for its figures, read from the dataset itself."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from pathlib import Path

from harness.data.base import ReferringDataset, ReferringRecord, SyntheticConfig
from harness.data.synthetic import data_root, open_dataset
from harness.data.transforms import resize_image, resize_mask
from harness.errors import DataError
from harness.records import Trial
from reports.artifacts import Panel


class DatasetPanels:
    """Opens the dataset of a trial when the first picture is asked for.

    Args:
        trial: Any trial of the study; all of them share the dataset.
        storage: Where generated datasets are.
    """

    def __init__(self, trial: Trial, storage: Path) -> None:
        self._trial, self._storage = trial, storage
        self._records: dict[str, dict[str, tuple[ReferringRecord, str]]] = {}

    def read(self, split: str, keys: Collection[str], *, size: int) -> dict[str, Panel]:
        """Key of a sample -> image, mask and sentence, resized as for training.

        Raises:
            DataError: The dataset is not at hand, or holds no such sample.
        """
        found = {}
        for key in keys:
            if key not in self._keyed(split):
                raise DataError(f"{split} must hold the sample {key!r}, it does not; the dataset is another one now")
            record, sentence = self._keyed(split)[key]
            image = resize_image(self._dataset.read_image(record), size)
            truth = resize_mask(self._dataset.read_mask(record), size).astype(bool)
            found[key] = Panel(image, truth, sentence)
        return found

    @cached_property
    def _dataset(self) -> ReferringDataset:
        root = data_root(self._trial, self._storage)
        made = self._trial.data.get("synthetic")
        if made is None and not root.is_dir():
            raise DataError(f"the dataset must be at {root}, nothing is there")
        synthetic = None if made is None else SyntheticConfig(**made)
        found: ReferringDataset = open_dataset(self._trial.data["name"], root=root, synthetic=synthetic)
        return found

    def _keyed(self, split: str) -> dict[str, tuple[ReferringRecord, str]]:
        """Key of a sample, as in per-sample tables -> its record and sentence."""
        if split not in self._records:
            found = self._records[split] = {}
            for record in self._dataset.records(split):
                many = len(record.sentences) > 1
                for number, sentence in enumerate(record.sentences):
                    found[f"{record.key}#{number}" if many else record.key] = (record, sentence)
        return self._records[split]
