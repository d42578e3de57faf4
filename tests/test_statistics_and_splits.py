"""Band statistics, normalisation, and what splits have in common."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from harness.data.base import SyntheticConfig
from harness.data.isprs import IsprsOptions
from harness.data.semantic import Bounds, SemanticTile
from harness.data.splits import equal_content, shared_pixels
from harness.data.statistics import BandStatistics, RunningMoments, band_statistics, normalise
from harness.data.vaihingen import Vaihingen
from harness.errors import DataError


@given(
    values=arrays(np.float32, (2, 6, 5), elements=st.floats(-1e4, 1e4, width=32) | st.just(float("nan"))),
    cut=st.integers(1, 5),
)
def test_moments_do_not_depend_on_the_windows(values: np.ndarray, cut: int) -> None:
    running, whole = RunningMoments(2), RunningMoments(2)
    running.add(values[:, :cut])
    running.add(values[:, cut:])
    whole.add(values)
    for band, layer in enumerate(values):
        finite = layer[np.isfinite(layer)].astype(np.float64)
        for found in (running.result(), whole.result()):
            assert found.count[band] == finite.size
            if finite.size:
                assert found.mean[band] == pytest.approx(finite.mean(), abs=1e-6)
                assert found.std[band] == pytest.approx(max(finite.std(), 1e-6), rel=1e-6, abs=1e-6)


def test_large_offsets_keep_their_deviation() -> None:
    values = (270 + np.random.default_rng(0).normal(0, 0.01, (1, 400, 400))).astype(np.float32)
    running = RunningMoments(1)
    for part in np.array_split(values, 37, axis=1):
        running.add(part)
    assert running.result().std[0] == pytest.approx(values.astype(np.float64).std(), rel=1e-9)


def test_what_was_not_measured_becomes_the_mean() -> None:
    statistics = {"dsm": BandStatistics((2.0,), (4.0,), (3,))}
    found = normalise({"dsm": np.array([[[2, 10, np.nan]]], np.float32)}, statistics)
    np.testing.assert_array_equal(found["dsm"], [[[0, 2, 0]]])
    assert found["dsm"].dtype == np.float32


def test_a_split_without_tiles_or_values_is_refused(tmp_path: Path) -> None:
    Vaihingen.write_synthetic(tmp_path, SyntheticConfig(train=1, val=1, test=1, size=32))
    data = Vaihingen(tmp_path, IsprsOptions(validation="none"))
    with pytest.raises(DataError, match="normalisation needs tiles in the split 'val', found none"):
        band_statistics(data, split="val")
    assert list(band_statistics(data, only=("dsm",))) == ["dsm"]

    class Blind(Vaihingen):
        def _values(self, *arguments: object) -> np.ndarray:
            return super()._values(*arguments) * np.float32("nan")  # type: ignore[arg-type]

    with pytest.raises(DataError, match="optical has none in nir, red, green"):
        band_statistics(Blind(tmp_path))


def tile(key: str, split: str, **changes: object) -> SemanticTile:
    made = SemanticTile(key, split, {}, Path(f"{key}.tif"), 10, 10)
    return replace(made, **changes)  # type: ignore[arg-type]


def test_overlapping_extents_are_found_only_across_splits() -> None:
    place = Bounds(0, 0, 10, 10)
    a = tile("a", "train", crs="X", bounds=place)
    b = tile("b", "test", crs="X", bounds=Bounds(9, 9, 19, 19))
    touching = tile("c", "test", crs="X", bounds=Bounds(10, 0, 20, 10))
    elsewhere = tile("d", "test", crs="Y", bounds=place)
    same_split = tile("e", "train", crs="X", bounds=place)
    assert shared_pixels([a, touching, elsewhere, same_split]) == []
    (found,) = shared_pixels([a, b])
    assert (found.kind, str(found)) == ("overlapping bounds", "a (train) and b (test)")


def test_parts_of_one_file_are_found() -> None:
    label = Path("scene.tif")
    left = tile("l", "train", label=label)
    right = tile("r", "test", label=label, column=10)
    assert [s.kind for s in shared_pixels([left, right])] == ["same scene"]
    assert [s.kind for s in shared_pixels([left, replace(right, column=9)])] == ["same scene", "overlapping pixels"]


def test_copies_of_a_tile_are_found(tmp_path: Path) -> None:
    a, b, c = tile("a", "train"), tile("b", "test"), tile("c", "train")
    (found,) = equal_content([a, b, c], {"a": "1", "b": "1", "c": "2"})
    assert str(found) == "a (train) and b (test)"
    Vaihingen.write_synthetic(tmp_path, SyntheticConfig(train=1, val=1, test=1, size=32))
    for folder in ("top", "dsm", "gts_for_participants"):
        (first,) = (tmp_path / folder).glob("*area1.tif")
        first.with_name(first.name.replace("area1", "area2")).write_bytes(first.read_bytes())
    assert Vaihingen(tmp_path).check().problems["in several splits, equal content"] == ["1 (train) and 2 (test)"]
