"""Windowed rasters: pixels, georeference, open files, and one line for every way in which a file can be wrong."""

from __future__ import annotations

import multiprocessing
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.data import raster
from harness.data.base import SyntheticConfig
from harness.data.raster import Georeference, raster_info, read_bands, read_values, write_prediction, write_raster
from harness.data.semantic import Bounds, SemanticTile, Window, row_windows
from harness.data.whu_opt_sar import WhuOptSar
from harness.errors import DataError

AT = Georeference("EPSG:32632", 500_000.0, 5_400_000.0, 10.0)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a.tif"
    write_raster(path, np.random.default_rng(0).integers(0, 255, (3, 20, 30), dtype=np.uint8), at=AT)
    return path


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Three scenes; the training one is `NH49E004021`."""
    root = tmp_path / "whu"
    WhuOptSar.write_synthetic(root, SyntheticConfig(train=1, val=1, test=1, size=80))
    return root


def part_of(root: Path, folder: str) -> Path:
    return root / folder / "NH49E004021.tif"


def one_line(error: pytest.ExceptionInfo[DataError]) -> None:
    assert "\n" not in str(error.value)


def test_header_and_pixels_come_back(image: Path) -> None:
    info = raster_info(image)
    assert info[:4] == (20, 30, 3, "uint8")
    assert (info.crs, info.bounds) == ("EPSG:32632", Bounds(500_000.0, 5_399_800.0, 500_300.0, 5_400_000.0))
    stored = np.random.default_rng(0).integers(0, 255, (3, 20, 30), dtype=np.uint8)
    np.testing.assert_array_equal(read_bands(image, Window(4, 5, 6, 7), [3, 1]), stored[[2, 0], 4:10, 5:12])


def test_a_prediction_of_a_window_lies_at_that_window(image: Path, tmp_path: Path) -> None:
    write_prediction(tmp_path / "out" / "p.tif", np.zeros((5, 6), np.uint8), like=image, window=Window(2, 3, 5, 6))
    assert raster_info(tmp_path / "out" / "p.tif").bounds == Bounds(500_030.0, 5_399_930.0, 500_090.0, 5_399_980.0)
    with pytest.raises(DataError, match=r"p\.tif: a prediction for .* must be 20x30 .*, got \(5, 6\)"):
        write_prediction(tmp_path / "p.tif", np.zeros((5, 6), np.uint8), like=image)


def test_no_data_and_infinite_become_nan(image: Path, tmp_path: Path) -> None:
    write_raster(tmp_path / "b.tif", np.array([[1, np.inf], [np.nan, 2]], np.float32))
    np.testing.assert_array_equal(
        read_values(tmp_path / "b.tif", Window(0, 0, 2, 2), [1])[0], [[1, np.nan], [np.nan, 2]]
    )
    labels = np.full((20, 30), 7, np.uint8)
    labels[0, 0] = 255
    write_prediction(tmp_path / "c.tif", labels, like=image)
    found = read_values(tmp_path / "c.tif", Window(0, 0, 1, 2), [1])
    np.testing.assert_array_equal(found[0], [[np.nan, 7]])


def test_a_changed_file_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    for width in (4, 9):
        write_raster(path, np.full((3, width), width, np.uint8))
        assert raster_info(path).width == width
        assert read_bands(path, Window(0, 0, 3, width), [1]).max() == width


def test_open_files_are_few_and_belong_to_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raster, "MAX_OPEN", 3)
    for number in range(8):
        write_raster(tmp_path / f"{number}.tif", np.full((2, 2), number, np.uint8))
        assert read_bands(tmp_path / f"{number}.tif", Window(0, 0, 1, 1), [1]).item() == number
    raster_info(tmp_path / "7.tif")
    assert any(path.endswith("7.tif") for path, _, _ in raster._HANDLES.files)
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(len(raster._HANDLES.files)))
    thread.start()
    thread.join()
    assert seen == [0]


def test_a_forked_process_opens_its_own_files(image: Path) -> None:
    whole = Window(0, 0, 20, 30)
    expected = read_bands(image, whole, [1]).sum()
    before = raster._HANDLES.process
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(_sum_and_owner, (image, whole)) == (expected, True)
    assert raster._HANDLES.process == before


def _sum_and_owner(image: Path, window: Window) -> tuple[int, bool]:
    import os

    return read_bands(image, window, [1]).sum(), raster._HANDLES.process == os.getpid()


@given(height=st.integers(1, 40), width=st.integers(1, 40), most=st.integers(1, 200))
def test_row_windows_cover_every_pixel_once(height: int, width: int, most: int) -> None:
    tile = SemanticTile("a", "train", {}, Path("a"), height, width)
    seen = np.zeros((height, width), int)
    for w in row_windows(tile, most):
        seen[w.row : w.row + w.height, w.column : w.column + w.width] += 1
        assert w.height == 1 or w.height * w.width <= most
    assert (seen == 1).all()


# Wrong files


def test_missing_damaged_and_small_files(image: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x\.tif: must be a raster file, found: No such file") as error:
        raster_info(tmp_path / "x.tif")
    one_line(error)
    (tmp_path / "y.tif").write_text("no raster")
    with pytest.raises(DataError, match=r"y\.tif: must be a raster file, found: .*not recognized") as error:
        raster_info(tmp_path / "y.tif")
    one_line(error)
    with pytest.raises(DataError, match=r"a\.tif: the window must lie inside 20x30 pixels .* got Window"):
        read_bands(image, Window(0, 0, 21, 30), [1])
    with pytest.raises(DataError, match=r"a\.tif: .*rows 0 to 1 cannot be read"):
        read_bands(image, Window(0, 0, 2, 2), [4])


def test_a_truncated_image_is_refused_when_the_dataset_is_opened(scenes: Path) -> None:
    path = part_of(scenes, "optical")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=r"optical.NH49E004021\.tif: must (hold 80x120 complete|be a raster)") as error:
        WhuOptSar(scenes)
    one_line(error)


def test_a_tile_damaged_later_is_named_when_it_is_read(scenes: Path) -> None:
    data = WhuOptSar(scenes)
    tile = data.tiles("train")[0]
    path = part_of(scenes, "sar")
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(DataError, match=r"sar.NH49E004021\.tif: must "):
        data.read(tile, tile.whole)
    problems = data.check().problems
    assert [x.partition(":")[0] for x in problems["unreadable tiles"]] == ["NH49E004021"]


def test_rasters_of_another_size_are_refused(scenes: Path) -> None:
    write_raster(part_of(scenes, "sar"), np.ones((70, 120), np.uint8))
    with pytest.raises(DataError, match=r"sar.NH49.*must be 80x120 pixels .* like .*lbl.*found 70x120") as error:
        WhuOptSar(scenes)
    one_line(error)


def test_rasters_in_another_system_or_place_are_refused(scenes: Path) -> None:
    values = np.arange(80 * 120, dtype=np.uint8).reshape(80, 120)
    write_raster(part_of(scenes, "lbl"), np.zeros((80, 120), np.uint8), at=AT)
    write_raster(part_of(scenes, "sar"), values, at=AT._replace(crs="EPSG:32633"))
    with pytest.raises(DataError, match=r"sar.*must have the CRS EPSG:32632 of .*lbl.*found EPSG:32633"):
        WhuOptSar(scenes)
    write_raster(part_of(scenes, "sar"), values, at=AT._replace(left=AT.left + 10))
    with pytest.raises(DataError, match=r"sar.*must begin where .*lbl.* does"):
        WhuOptSar(scenes)
    write_raster(part_of(scenes, "sar"), values, at=AT._replace(left=AT.left + 4))
    assert WhuOptSar(scenes).tiles("train")[0].crs == "EPSG:32632"


def test_labels_and_images_in_each_others_place_are_refused(scenes: Path) -> None:
    label, sar, optical = (part_of(scenes, folder) for folder in ("lbl", "sar", "optical"))
    kept = {path: path.read_bytes() for path in (label, sar, optical)}
    sar.write_bytes(kept[label])
    with pytest.raises(DataError, match=r"sar.*must be an image for the modality 'sar', found only label codes"):
        WhuOptSar(scenes)
    optical.write_bytes(kept[label])
    with pytest.raises(DataError, match=r"optical.*'optical' must have 4 bands, found 1; is this a label raster"):
        WhuOptSar(scenes)
    optical.write_bytes(kept[optical])
    label.write_bytes(kept[sar])
    sar.write_bytes(kept[sar])
    with pytest.raises(DataError, match=r"lbl.*must be a label raster .* have other values; is this an image"):
        WhuOptSar(scenes)
    write_raster(label, np.zeros((80, 120), np.float32))
    with pytest.raises(DataError, match=r"lbl.*a label must hold integers, found float32"):
        WhuOptSar(scenes)


def test_an_empty_folder_and_a_missing_modality_are_refused(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a folder of WHU-OPT-SAR must hold optical, sar, lbl; missing"):
        WhuOptSar(tmp_path)
    for name in ("optical", "sar", "lbl"):
        (tmp_path / "empty" / name).mkdir(parents=True)
    with pytest.raises(DataError, match=r"must hold at least one tile, found none"):
        WhuOptSar(tmp_path / "empty")
    part_of(scenes, "sar").unlink()
    with pytest.raises(DataError, match=r"sar.NH49E004021\.tif: must be a raster file, found: No such file"):
        WhuOptSar(scenes)
