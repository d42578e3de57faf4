"""What every referring dataset keeps, checked on the miniature it writes itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.data.base import DATASETS, SPLITS, ReferringDataset, SyntheticConfig

CONFIG = SyntheticConfig(train=6, val=3, test=3, size=48)
NAMES = [name for name in DATASETS.names() if DATASETS.get(name).info.task == "referring"]


@pytest.fixture(scope="module", params=NAMES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Name and folder of a miniature."""
    root = tmp_path_factory.mktemp(request.param)
    DATASETS.get(request.param).write_synthetic(root, CONFIG)
    return request.param, root


def open_again(made: tuple[str, Path]) -> ReferringDataset:
    name, root = made
    return DATASETS.get(name)(root)  # type: ignore[return-value]


def test_it_is_a_dataset_that_says_where_it_comes_from(made: tuple[str, Path]) -> None:
    data = open_again(made)
    assert isinstance(data, ReferringDataset)
    assert all((data.info.title, data.info.paper, data.info.task))
    assert set(data.info.expected) == set(SPLITS)


def test_splits_have_the_asked_size_and_share_nothing(made: tuple[str, Path]) -> None:
    data = open_again(made)
    records = {split: data.records(split) for split in SPLITS}
    assert {split: len(found) for split, found in records.items()} == {"train": 6, "val": 3, "test": 3}
    for what in ("key", "image"):
        values = {split: {getattr(r, what) for r in found} for split, found in records.items()}
        assert len(set.union(*values.values())) == sum(map(len, values.values())), what
    keys = [r.key for found in records.values() for r in found]
    assert len(set(keys)) == len(keys)
    assert all(r.split == split for split, found in records.items() for r in found)


def test_samples_are_complete(made: tuple[str, Path]) -> None:
    data = open_again(made)
    for record in (r for split in SPLITS for r in data.records(split)):
        assert record.sentences
        assert all(sentence.strip() for sentence in record.sentences)
        image, mask = data.read_image(record), data.read_mask(record)
        assert (image.dtype, image.ndim, image.shape[2]) == (np.uint8, 3, 3)
        assert mask.dtype == np.uint8
        assert set(np.unique(mask)) == {0, 1}


def test_reading_twice_gives_the_same(made: tuple[str, Path]) -> None:
    first, second = open_again(made), open_again(made)
    for split in SPLITS:
        assert list(first.records(split)) == list(second.records(split))
        for a, b in zip(first.records(split), second.records(split), strict=True):
            np.testing.assert_array_equal(first.read_image(a), second.read_image(b))
            np.testing.assert_array_equal(first.read_mask(a), second.read_mask(b))


def test_nothing_is_wrong_with_it(made: tuple[str, Path]) -> None:
    report = open_again(made).check()
    assert not report.problems
    assert dict(report.counts) == {"train": 6, "val": 3, "test": 3}


def test_fingerprint_follows_the_content(made: tuple[str, Path], tmp_path: Path) -> None:
    before = open_again(made).fingerprint()
    assert open_again(made).fingerprint() == before
    dataset = DATASETS.get(made[0])
    for name, config in (("same", CONFIG), ("other", replace(CONFIG, seed=1))):
        dataset.write_synthetic(tmp_path / name, config)
        assert (dataset(tmp_path / name).fingerprint() == before) == (name == "same")


def test_known_defects_can_be_asked_for_and_are_found(made: tuple[str, Path], tmp_path: Path) -> None:
    dataset = DATASETS.get(made[0])
    dataset.write_synthetic(tmp_path, replace(CONFIG, quirks=True))
    assert dataset(tmp_path).check().problems
