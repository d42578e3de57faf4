"""What every dataset for semantic segmentation keeps, checked on the miniature it writes itself."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from harness.data.base import DATASETS, SPLITS, SyntheticConfig
from harness.data.landscape import draw_classes, single_bound
from harness.data.raster import raster_info, read_bands, write_prediction
from harness.data.semantic import IGNORED, SemanticDataset, SemanticTile, Window
from harness.data.splits import shared_pixels
from harness.data.statistics import band_statistics
from harness.errors import DataError

CONFIG = SyntheticConfig(train=4, val=2, test=2, size=48)
NAMES = [name for name in DATASETS.names() if DATASETS.get(name).info.task == "semantic"]


@pytest.fixture(scope="module", params=NAMES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Name and folder of a miniature."""
    root = tmp_path_factory.mktemp(request.param)
    DATASETS.get(request.param).write_synthetic(root, CONFIG)
    return request.param, root


def open_again(made: tuple[str, Path]) -> Any:
    name, root = made
    return DATASETS.get(name)(root)


def all_tiles(data: SemanticDataset) -> list[SemanticTile]:
    return [tile for split in SPLITS for tile in data.tiles(split)]


def test_it_is_a_dataset_that_says_where_it_comes_from(made: tuple[str, Path]) -> None:
    data = open_again(made)
    assert isinstance(data, SemanticDataset)
    assert all((data.info.title, data.info.paper, data.info.task == "semantic", data.split_name))
    assert not data.leaky
    assert data.ignored == IGNORED
    assert [c.index for c in data.classes] == list(range(len(data.classes)))
    assert len({c.colour for c in data.classes}) == len({c.name for c in data.classes}) == len(data.classes)
    for modality in data.modalities:
        assert modality.wavelengths_um is None or len(modality.wavelengths_um) == len(modality.bands)


def test_options_have_defaults_and_refuse_unknown_keys(made: tuple[str, Path]) -> None:
    options = open_again(made).Options
    assert TypeAdapter(options).validate_python({}) == options()
    with pytest.raises(ValidationError, match="Unexpected keyword argument"):
        TypeAdapter(options).validate_python({"splitt": "official"})
    with pytest.raises(AttributeError, match="cannot assign"):
        setattr(options(), next((f.name for f in fields(options)), "anything"), 1)


def test_splits_are_disjoint_and_not_empty(made: tuple[str, Path]) -> None:
    data = open_again(made)
    tiles = all_tiles(data)
    assert all(data.tiles(split) for split in data.info.expected)
    assert len({tile.key for tile in tiles}) == len(tiles) > 0
    assert all(tile.split == split for split in SPLITS for tile in data.tiles(split))
    assert shared_pixels(tiles) == []
    with pytest.raises(DataError, match=r"unknown split 'trian'.*did you mean 'train'"):
        data.tiles("trian")


def test_pixels_have_the_declared_shape(made: tuple[str, Path]) -> None:
    data = open_again(made)
    seen: set[int] = set()
    for tile in all_tiles(data):
        values, label = data.read(tile, tile.whole), data.read_label(tile, tile.whole)
        assert list(values) == [m.name for m in data.modalities]
        for modality in data.modalities:
            bands = values[modality.name]
            assert bands.dtype == np.float32
            assert bands.shape == (len(modality.bands), tile.height, tile.width)
            assert np.isfinite(bands).all()
        assert (label.dtype, label.shape) == (np.uint8, (tile.height, tile.width))
        seen |= set(np.unique(label).tolist())
    assert seen <= {*range(len(data.classes)), IGNORED}
    assert len(seen - {IGNORED}) >= min(5, len(data.classes))


def test_windows_are_slices_of_the_whole(made: tuple[str, Path]) -> None:
    data = open_again(made)
    tile = data.tiles("train")[0]
    whole, label = data.read(tile, tile.whole), data.read_label(tile, tile.whole)

    @given(data=st.data())
    def agree(**drawn: Any) -> None:
        draw = drawn["data"].draw
        row, column = draw(st.integers(0, tile.height - 1)), draw(st.integers(0, tile.width - 1))
        window = Window(row, column, draw(st.integers(1, tile.height - row)), draw(st.integers(1, tile.width - column)))
        part = np.s_[row : row + window.height, column : column + window.width]
        for name, values in data.read(tile, window).items():
            np.testing.assert_array_equal(values, whole[name][:, *part])
        np.testing.assert_array_equal(data.read_label(tile, window), label[part])

    agree()


def test_a_window_outside_and_an_unknown_modality_are_refused(made: tuple[str, Path]) -> None:
    data = open_again(made)
    tile = data.tiles("train")[0]
    for window in (Window(-1, 0, 2, 2), Window(0, 0, 0, 1), Window(0, 1, 1, tile.width)):
        with pytest.raises(DataError, match=f"tile {tile.key} has .* leaves it"):
            data.read(tile, window)
        with pytest.raises(DataError, match="leaves it"):
            data.read_label(tile, window)
    with pytest.raises(DataError, match="unknown modality 'lidar'"):
        data.read(tile, tile.whole, only=("lidar",))
    first = data.modalities[0].name
    assert list(data.read(tile, tile.whole, only=(first,))) == [first]


def test_reading_twice_gives_the_same(made: tuple[str, Path]) -> None:
    first, second = open_again(made), open_again(made)
    assert all_tiles(first) == all_tiles(second)
    for tile in all_tiles(first):
        for name, values in first.read(tile, tile.whole).items():
            np.testing.assert_array_equal(values, second.read(tile, tile.whole)[name])


def test_nothing_is_wrong_with_it(made: tuple[str, Path]) -> None:
    report = open_again(made).check()
    assert not report.problems
    assert sum(report.counts.values()) >= len(SPLITS) - 1
    assert any(note.startswith("labelled pixels: ") for note in report.notes)


def test_known_defects_can_be_asked_for_and_are_found(made: tuple[str, Path], tmp_path: Path) -> None:
    dataset = DATASETS.get(made[0])
    dataset.write_synthetic(tmp_path, replace(CONFIG, quirks=True))
    data: Any = dataset(tmp_path)
    assert "unknown label codes, ignored" in data.check().problems
    tile = data.tiles("train")[0]
    assert set(np.unique(data.read_label(tile, tile.whole))) <= {*range(len(data.classes)), IGNORED}


def test_fingerprint_follows_the_content(made: tuple[str, Path], tmp_path: Path) -> None:
    before = open_again(made).fingerprint()
    assert open_again(made).fingerprint() == before
    dataset = DATASETS.get(made[0])
    for name, config in (("same", CONFIG), ("other", replace(CONFIG, seed=1))):
        dataset.write_synthetic(tmp_path / name, config)
        assert (dataset(tmp_path / name).fingerprint() == before) == (name == "same")


def test_a_prediction_lies_where_its_input_lies(made: tuple[str, Path], tmp_path: Path) -> None:
    data = open_again(made)
    tile = data.tiles("test")[0]
    label = data.read_label(tile, tile.whole)
    source = next(iter(tile.files.values()))
    write_prediction(tmp_path / "p.tif", label, like=source, window=tile.place)
    found = raster_info(tmp_path / "p.tif")
    assert (found.height, found.width, found.num_bands, found.dtype) == (tile.height, tile.width, 1, "uint8")
    assert (found.crs, found.bounds) == (tile.crs, tile.bounds)
    np.testing.assert_array_equal(read_bands(tmp_path / "p.tif", tile.whole, [1])[0], label)


def test_statistics_are_those_of_all_training_pixels(made: tuple[str, Path]) -> None:
    data = open_again(made)
    found = band_statistics(data)
    for modality in data.modalities:
        parts = [data.read(t, t.whole)[modality.name].reshape(len(modality.bands), -1) for t in data.tiles("train")]
        stacked = np.concatenate(parts, axis=1).astype(np.float64)
        np.testing.assert_allclose(found[modality.name].mean, stacked.mean(axis=1), rtol=1e-9)
        np.testing.assert_allclose(found[modality.name].std, stacked.std(axis=1), rtol=1e-6)


def test_fusion_matters(made: tuple[str, Path]) -> None:
    """Nearest class means from single modalities stay far below those from all of them together."""
    data = open_again(made)
    statistics = band_statistics(data)
    values: dict[str, list[Any]] = {m.name: [] for m in data.modalities}
    labels = []
    for tile in data.tiles("train"):
        label = data.read_label(tile, tile.whole)
        for name, bands in data.read(tile, tile.whole).items():
            mean, std = (np.array(x)[:, None] for x in (statistics[name].mean, statistics[name].std))
            values[name].append((bands[:, label != IGNORED] - mean) / std)
        labels.append(label[label != IGNORED])
    truth = np.concatenate(labels)
    joined = {name: np.concatenate(parts, axis=1) for name, parts in values.items()}
    single = [_gaussian_accuracy(bands, truth) for bands in joined.values()]
    together = _gaussian_accuracy(np.concatenate(list(joined.values())), truth)
    assert together - max(single) > 0.1, (together, single)


def _gaussian_accuracy(bands: Any, truth: Any) -> float:
    """Share of pixels `(C, N)` that the most likely diagonal Gaussian gets right."""
    scores = []
    for index in np.unique(truth):
        own = bands[:, truth == index]
        std = own.std(axis=1, keepdims=True) + 1e-3
        distance = (((bands - own.mean(axis=1, keepdims=True)) / std) ** 2 / 2 + np.log(std)).sum(axis=0)
        scores.append(np.log(own.shape[1]) - distance)
    return float((np.unique(truth)[np.argmax(scores, axis=0)] == truth).mean())


@pytest.mark.parametrize("num_classes", [5, 6, 7, 10, 13, 15])
def test_one_kind_of_modality_cannot_tell_all_classes_apart(num_classes: int) -> None:
    drawn = draw_classes(num_classes, 96, 96, np.random.default_rng(0))
    assert single_bound(drawn) < 0.85
