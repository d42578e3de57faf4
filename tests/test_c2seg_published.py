"""C2Seg's Beijing and Wuhan as published: MATLAB 7.3 files, read in windows and compared with the arrays in them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from harness.data.base import SPLITS
from harness.data.c2seg import C2Seg, C2SegOptions, neighbour_mean
from harness.data.raster import raster_info, read_bands, write_prediction
from harness.data.semantic import IGNORED, SemanticTile, Window, row_windows, strips
from harness.data.statistics import band_statistics
from harness.errors import DataError

HEIGHT, WIDTH, NUM_HSI = 40, 23, 5  # neither side a multiple of 3
MISSING = (31, 10)
"""Row and column of the radar pixel without a value; row 32 is the first of the validation part."""

Arrays = dict[str, NDArray[Any]]


def write_matlab_73(path: Path, variables: Arrays) -> None:
    """Arrays H x W or H x W x C as MATLAB writes them: columns first, compressed chunks, a header of 512 bytes."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in variables.items():
            chunks = (1, 4, array.shape[0])[-array.ndim :]
            stored = file.create_dataset(name, data=array.T, chunks=chunks, compression="gzip")
            stored.attrs["MATLAB_class"] = np.bytes_("single")
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")


def write_city(root: Path, city: str, seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    low = (-(-HEIGHT // 3), -(-WIDTH // 3), NUM_HSI)
    arrays = {
        "HSI": rng.uniform(0, 1, low).astype(np.float32),
        "MSI": rng.integers(0, 4000, (HEIGHT, WIDTH, 4)).astype(np.uint16),
        "SAR": rng.normal(-17, 5, (HEIGHT, WIDTH, 2)).astype(np.float32),
        "label": rng.integers(100, 200, (HEIGHT, WIDTH)).astype(np.uint8),
    }
    arrays["SAR"][*MISSING, 1] = np.nan
    label = rng.integers(0, 14, (HEIGHT, WIDTH)).astype(np.uint8)
    write_matlab_73(root / f"{city}.mat", arrays)
    write_matlab_73(root / f"{city}_label.mat", {"label": label})
    return {**arrays, "label": label}


@pytest.fixture
def cities(tmp_path: Path) -> dict[str, Arrays]:
    """What is in the files of a folder."""
    return {city: write_city(tmp_path, city, seed) for seed, city in enumerate(("beijing", "wuhan"))}


def fine_hsi(arrays: Arrays) -> NDArray[Any]:
    """`(C, H, W)` on the grid of the other modalities."""
    repeated = np.kron(arrays["HSI"], np.ones((3, 3, 1), np.float32))
    return repeated[:HEIGHT, :WIDTH].transpose(2, 0, 1)


@pytest.mark.usefixtures("cities")
def test_source_city_is_divided_and_target_city_is_tested(tmp_path: Path) -> None:
    data = C2Seg(tmp_path)
    assert {s: [(t.key, t.row, t.height, t.width) for t in data.tiles(s)] for s in SPLITS} == {
        "train": [("beijing/train", 0, 32, WIDTH)],
        "val": [("beijing/val", 32, 8, WIDTH)],
        "test": [("wuhan", 0, HEIGHT, WIDTH)],
    }
    whole = C2Seg(tmp_path, C2SegOptions(validation="none"))
    assert [(t.key, t.height) for t in whole.tiles("train")] == [("beijing", HEIGHT)]
    assert [(m.name, len(m.bands)) for m in data.modalities] == [("hsi", NUM_HSI), ("msi", 4), ("sar", 2)]
    assert data.fingerprint() == C2Seg(tmp_path).fingerprint() != whole.fingerprint()
    problems = data.check().problems
    assert "unreadable tiles" not in problems
    assert "pixels without a value" not in problems


@pytest.mark.parametrize("split", SPLITS)
def test_windows_are_those_of_the_arrays(tmp_path: Path, cities: dict[str, Arrays], split: str) -> None:
    data = C2Seg(tmp_path)
    tile = data.tiles(split)[0]
    arrays = cities["wuhan" if split == "test" else "beijing"]
    rng = np.random.default_rng(0)
    windows = [tile.whole, Window(tile.height - 1, WIDTH - 1, 1, 1)]
    for _ in range(30):
        row, column = int(rng.integers(tile.height)), int(rng.integers(WIDTH))
        height, width = int(rng.integers(1, tile.height - row + 1)), int(rng.integers(1, WIDTH - column + 1))
        windows.append(Window(row, column, height, width))
    hsi = fine_hsi(arrays)
    # The pixel below the missing one belongs to another tile, which may not be looked at.
    rows = slice(tile.row, tile.row + tile.height)
    sar = neighbour_mean(arrays["SAR"][rows].transpose(2, 0, 1))
    assert np.isfinite(sar).all()
    for window in windows:
        top, left = tile.row + window.row, window.column
        part = np.s_[top : top + window.height, left : left + window.width]
        found = data.read(tile, window)
        np.testing.assert_array_equal(found["hsi"], hsi[:, *part])
        np.testing.assert_array_equal(found["msi"], arrays["MSI"][part].transpose(2, 0, 1))
        near = sar[:, window.row : window.row + window.height, left : left + window.width]
        np.testing.assert_array_equal(found["sar"], near)
        label = arrays["label"][part].astype(int)
        np.testing.assert_array_equal(data.read_label(tile, window), np.where(label == 0, IGNORED, label - 1))
    assert list(data.read(tile, tile.whole, only=["msi"])) == ["msi"]


def test_statistics_are_those_of_the_training_part(tmp_path: Path, cities: dict[str, Arrays]) -> None:
    found = band_statistics(C2Seg(tmp_path))
    np.testing.assert_allclose(found["hsi"].mean, fine_hsi(cities["beijing"])[:, :32].mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(found["msi"].mean, cities["beijing"]["MSI"][:32].mean((0, 1)), rtol=1e-6)
    assert found["hsi"].count == (32 * WIDTH,) * NUM_HSI


@pytest.mark.usefixtures("cities")
def test_files_are_swept_as_they_are_stored(tmp_path: Path) -> None:
    tile = C2Seg(tmp_path).tiles("val")[0]
    assert strips(tile, 20) == [Window(0, c, 8, min(2, WIDTH - c)) for c in range(0, WIDTH, 2)]
    plain = SemanticTile("a", "train", {}, tmp_path, 8, WIDTH)
    assert strips(plain, 50) == row_windows(plain, 50)


@pytest.mark.usefixtures("cities")
def test_a_prediction_has_the_full_size(tmp_path: Path) -> None:
    tile = C2Seg(tmp_path).tiles("val")[0]
    label = C2Seg(tmp_path).read_label(tile, tile.whole)
    write_prediction(tmp_path / "p.tif", label, like=next(iter(tile.files.values())), window=tile.place)
    np.testing.assert_array_equal(read_bands(tmp_path / "p.tif", tile.whole, [1])[0], label)
    assert raster_info(tmp_path / "p.tif").crs is None


def test_labels_may_be_stored_as_doubles(tmp_path: Path, cities: dict[str, Arrays]) -> None:
    label = cities["wuhan"]["label"].astype(np.float64)
    label[0, :3] = [0.5, np.nan, 1e300]
    write_matlab_73(tmp_path / "wuhan_label.mat", {"label": label})
    data = C2Seg(tmp_path)
    tile = data.tiles("test")[0]
    decoded = data.decode_label(tile, tile.whole)
    assert decoded.unknown == {"0.5": 1, "1e+300": 1, "nan": 1}
    expected = np.where(label == 0, IGNORED, label - 1)
    expected[0, :3] = IGNORED
    np.testing.assert_array_equal(decoded.indices, expected)


@pytest.mark.usefixtures("cities")
def test_a_forked_process_reads_the_same(tmp_path: Path) -> None:
    data = C2Seg(tmp_path)
    tile = data.tiles("test")[0]
    expected = data.read(tile, tile.whole)["msi"]
    child = os.fork()
    if not child:
        same = np.array_equal(data.read(tile, tile.whole)["msi"], expected)
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
    np.testing.assert_array_equal(data.read(tile, tile.whole)["msi"], expected)


@pytest.mark.usefixtures("cities")
def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "beijing.mat"
    whole = path.read_bytes()
    later = whole[:520] + b"\x07" + whole[521:]
    other = "must be a complete MATLAB 7.3 file (HDF5), found another or a truncated one"
    cases = {
        whole[:-100]: f"must have {len(whole):,} bytes as its header says, found {len(whole) - 100:,}; copy the file",
        whole[:550]: other,
        b"MATLAB 5.0 MAT-file".ljust(600): other,
        later: "must be a MATLAB 7.3 file (HDF5, superblock 0 to 3), found superblock 7",
        whole[:600] + bytes(len(whole) - 600): "with at least one matrix, found another or a damaged file",
    }
    for content, message in cases.items():
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"beijing\.mat: .*{re.escape(message)}"):
            C2Seg(tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=r"a folder of C2Seg-BW must hold .*missing: beijing\.mat"):
        C2Seg(tmp_path)
    (tmp_path / "BW").mkdir()  # patches win
    with pytest.raises(DataError, match=r"BW: a folder of C2Seg-BW must hold beijing/hsi"):
        C2Seg(tmp_path)


@pytest.mark.usefixtures("cities")
def test_damaged_chunks_are_named(tmp_path: Path) -> None:
    path = tmp_path / "wuhan.mat"
    with h5py.File(path) as file:
        chunk = file["SAR"].id.get_chunk_info(2)
    with path.open("r+b") as raw:
        raw.seek(chunk.byte_offset)
        raw.write(b"\xff" * chunk.size)
    data_error = r"wuhan\.mat/SAR: must hold 40x23 complete pixels .*cannot be read: .*copy the file again"
    with pytest.raises(DataError, match=data_error):
        C2Seg(tmp_path)


@pytest.mark.usefixtures("cities")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"SAR": None}, r"beijing\.mat: must hold the matrix 'SAR', found HSI, MSI, label$"),
        ({"HSI": np.zeros((13, 8, 5))}, r"beijing\.mat/HSI: must be 14x8 pixels .*40x23, 3 times finer, found 13x8"),
        ({"HSI": np.zeros((40, 23, 5))}, r"HSI: must be 14x8 pixels .*, found 40x23"),
        ({"MSI": np.zeros((23, 40, 4))}, r"MSI: must be 40x23 pixels \(height x width\) like .*, found 23x40"),
        ({"MSI": np.zeros((40, 23, 3))}, r"the modality 'msi' must have 4 bands, found 3"),
    ],
)
def test_wrong_variables_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with h5py.File(tmp_path / "beijing.mat") as file:
        arrays = {name: file[name][()].T for name in file}
    changed = {name: array for name, array in {**arrays, **change}.items() if array is not None}
    write_matlab_73(tmp_path / "beijing.mat", changed)
    with pytest.raises(DataError, match=message):
        C2Seg(tmp_path)


def test_raw_label_codes_inside_a_scene_are_not_read(tmp_path: Path, cities: dict[str, Arrays]) -> None:
    write_matlab_73(tmp_path / "wuhan_label.mat", {"other": cities["wuhan"]["label"]})
    with pytest.raises(DataError, match=r"wuhan_label\.mat: must hold the matrix 'label', found one of another name"):
        C2Seg(tmp_path)
