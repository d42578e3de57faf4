"""Crops and windows: what is read where, padded, mirrored, moved, disturbed; the same in every process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.data.base import SyntheticConfig
from harness.data.crops import Augmentation, EvaluationWindows, TileReader, TrainingCrops, require_tiles
from harness.data.semantic import IGNORED, SemanticTile, Window
from harness.data.statistics import band_statistics
from harness.data.synthetic import open_dataset
from harness.errors import DataError
from harness.records import Stress

PLAIN = Augmentation(flip=0.0)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> TileReader:
    """Two training tiles of 48 x 48 pixels, one to validate and one to test on."""
    made = SyntheticConfig(train=2, val=1, test=1, size=48)
    data = open_dataset("sen1floods11", root=tmp_path_factory.mktemp("crops") / "data", synthetic=made)
    return TileReader(data, band_statistics(data))


def tile_of(reader: TileReader, split: str = "test") -> SemanticTile:
    """The first tile of a split."""
    return reader.data.tiles(split)[0]


def crops(reader: TileReader, **changes: Any) -> TrainingCrops:
    """Crops of 32 pixels without augmentation, but for the changes."""
    given: dict[str, Any] = {"size": 32, "per_epoch": 6, "augmentation": PLAIN, "seed": 3, **changes}
    return TrainingCrops(reader, **given)


def windows(reader: TileReader, stress: Stress | None = None, *places: Window) -> EvaluationWindows:
    """Windows of the test tile; its whole by default."""
    chosen = places or (Window(0, 0, 48, 48),)
    return EvaluationWindows(reader, [tile_of(reader)], [chosen], stress=stress, seed=1)


def equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether two samples are the same."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_normalised_with_the_training_statistics(reader: TileReader) -> None:
    tiles = reader.data.tiles("train")
    stacked = torch.stack([reader.read(tile, tile.whole)["sar"] for tile in tiles])
    assert stacked.mean(dim=(0, 2, 3)).abs().max() < 1e-4
    assert (stacked.std(dim=(0, 2, 3), correction=0) - 1).abs().max() < 1e-4


def test_outside_a_tile_there_is_the_mean_and_no_label(reader: TileReader) -> None:
    tile, window = tile_of(reader), Window(40, 44, 16, 16)
    image, label = reader.read(tile, window)["optical"], reader.label(tile, window)
    assert image.shape == (13, 16, 16)
    assert image[:, :8, :4].abs().min() > 0
    assert not image[:, 8:].any()
    assert not image[:, :, 4:].any()
    assert (label[8:] == IGNORED).all()
    assert (label[:, 4:] == IGNORED).all()


def test_a_crop_depends_on_seed_epoch_and_index_alone(reader: TileReader) -> None:
    one, other = crops(reader), crops(reader)
    first = [one[i] for i in range(6)]
    assert all(equal(first[i], other[i]) for i in reversed(range(6)))
    other.set_epoch(1)
    assert not equal(first[0], other[0])
    assert not equal(first[0], crops(reader, seed=4)[0])
    assert not equal(first[0], first[1])


def test_label_and_modalities_of_a_crop_lie_on_each_other(reader: TileReader) -> None:
    whole = {t.key: (reader.read(t, t.whole), reader.label(t, t.whole)) for t in reader.data.tiles("train")}
    sample = crops(reader)[2]
    places = [
        (key, row, column)
        for key, (images, _) in whole.items()
        for row in range(17)
        for column in range(17)
        if torch.equal(images["optical"][:, row : row + 32, column : column + 32], sample["optical"])
    ]
    ((key, row, column),) = places
    images, label = whole[key]
    assert torch.equal(images["sar"][:, row : row + 32, column : column + 32], sample["sar"])
    assert torch.equal(label[row : row + 32, column : column + 32], sample["target"])


@pytest.mark.parametrize(("which", "axis"), [("flip", -1), ("vertical_flip", -2)])
def test_mirrored(reader: TileReader, which: str, axis: int) -> None:
    plain = crops(reader)[0]
    mirrored = crops(reader, augmentation=PLAIN._replace(**{which: 1.0}))[0]
    assert all(torch.equal(mirrored[name], plain[name].flip(axis)) for name in plain)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_scaled_crops_keep_their_size(reader: TileReader, scale: float) -> None:
    sample = crops(reader, augmentation=PLAIN._replace(scale=(scale, scale)))[0]
    assert {name: tuple(value.shape[-2:]) for name, value in sample.items()} == dict.fromkeys(sample, (32, 32))
    assert sample["target"].dtype == torch.int64
    assert set(sample["target"].unique().tolist()) <= {0, 1, IGNORED}
    padded = (sample["target"] == IGNORED).float().mean()
    assert padded > 0.4 if scale == 0.5 else padded < 0.2  # 64 pixels of a tile of 48: 44 % lie outside


def test_a_crop_that_one_class_fills_is_drawn_again(reader: TileReader) -> None:
    def largest_shares(limit: float) -> list[float]:
        found = []
        for sample in (
            crops(reader, size=8, per_epoch=60, augmentation=PLAIN._replace(max_class_share=limit))[i]
            for i in range(60)
        ):
            counts = torch.bincount(sample["target"][sample["target"] != IGNORED])
            found.append(float(counts.max() / counts.sum()))
        return found

    free, limited = largest_shares(1.0), largest_shares(0.75)
    assert np.mean(np.array(limited) > 0.75) < 0.5 * np.mean(np.array(free) > 0.75)


def test_an_epoch_covers_the_tiles_unless_told_otherwise(reader: TileReader) -> None:
    assert len(crops(reader, per_epoch=None)) == 2 * 2 * 2
    assert len(crops(reader)) == 6


def test_workers_have_every_tile_once(reader: TileReader) -> None:
    tile = tile_of(reader)
    places = [[Window(0, 0, 32, 32), Window(0, 16, 32, 32)], [Window(0, 0, 32, 32)], [Window(8, 8, 32, 32)]]
    samples = EvaluationWindows(reader, [tile] * 3, places)
    assert [samples.part(rank, 2) for rank in (0, 1)] == [[0, 1, 3], [2]]
    assert samples.part(0, 1) == [0, 1, 2, 3]
    assert sorted(crops(reader).part(0, 2) + crops(reader).part(1, 2)) == list(range(6))


def test_shift_moves_one_modality_to_the_right(reader: TileReader) -> None:
    plain, moved = windows(reader)[0], windows(reader, Stress("shift", "sar", 3))[0]
    assert torch.equal(moved["optical"], plain["optical"])
    assert torch.equal(moved["sar"][:, :, 3:], plain["sar"][:, :, :-3])
    assert torch.equal(moved["sar"][:, :, :3], plain["sar"][:, :, :1].expand(-1, -1, 3))


def test_a_shifted_window_shows_what_lies_beside_it(reader: TileReader) -> None:
    place = Window(4, 16, 32, 32)
    whole = windows(reader)[0]
    part = windows(reader, Stress("shift", "sar", 5), place)[0]
    assert torch.equal(part["sar"], whole["sar"][:, 4:36, 11:43])


def test_drop_leaves_the_mean(reader: TileReader) -> None:
    plain, dropped = windows(reader)[0], windows(reader, Stress("drop", "optical"))[0]
    assert not dropped["optical"].any()
    assert torch.equal(dropped["sar"], plain["sar"])


def test_noise_is_the_same_wherever_windows_overlap(reader: TileReader) -> None:
    stress = Stress("noise", "sar", 0.5)
    whole, part = windows(reader, stress)[0], windows(reader, stress, Window(8, 12, 32, 32))[0]
    assert torch.equal(part["sar"], whole["sar"][:, 8:40, 12:44])
    added = whole["sar"] - windows(reader)[0]["sar"]
    assert float(added.std()) == pytest.approx(0.5, rel=0.05)
    assert torch.equal(whole["optical"], windows(reader)[0]["optical"])


def test_a_split_without_tiles_is_refused(tmp_path: Path) -> None:
    made = SyntheticConfig(train=1, val=1, test=1, size=48)
    data = open_dataset("sen1floods11", root=tmp_path / "data", synthetic=made, options={"split": "left_right"})
    with pytest.raises(DataError, match=r"'val' has none with the division 'left 0\.625"):
        require_tiles(data)
