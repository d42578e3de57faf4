"""What is particular to each dataset for semantic segmentation: splits, codes, bands, known defects."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from harness.data import gid, isprs
from harness.data.base import SPLITS, SyntheticConfig
from harness.data.c2seg import C2Seg, C2SegOptions
from harness.data.gid import Gid, GidOptions, seeded_splits
from harness.data.globe230k import Globe230k, Globe230kOptions
from harness.data.isprs import IsprsOptions
from harness.data.landscape import moved
from harness.data.matlab import write_matlab
from harness.data.potsdam import Potsdam
from harness.data.raster import read_bands, write_raster
from harness.data.semantic import IGNORED, Window
from harness.data.sen1floods11 import Sen1Floods11, Sen1Floods11Options
from harness.data.statistics import band_statistics
from harness.data.vaihingen import Vaihingen
from harness.data.whu_opt_sar import OFFICIAL, WhuOptSar, WhuOptSarOptions
from harness.errors import DataError

SMALL = SyntheticConfig(train=3, val=2, test=2, size=48)
QUIRKS = replace(SMALL, quirks=True)
CHIP = Path(__file__).resolve().parents[2] / "shared" / "data" / "sen1floods11"


def test_the_second_modality_can_be_moved() -> None:
    values = np.arange(12).reshape(3, 4)
    np.testing.assert_array_equal(moved(values, (1, -1)), [[1, 2, 3, 3], [1, 2, 3, 3], [5, 6, 7, 7]])


# Sen1Floods11


@pytest.mark.skipif(not CHIP.is_dir(), reason="the real chip lies outside the repository")
def test_the_real_chip_is_divided_into_left_and_right() -> None:
    data = Sen1Floods11(CHIP, Sen1Floods11Options(split="left_right", optical_bands=("B2", "B3", "B4", "B8")))
    train, test = data.tiles("train")[0], data.tiles("test")[0]
    assert [(t.height, t.column, t.width) for t in (train, test)] == [(512, 0, 320), (512, 320, 192)]
    assert data.tiles("val") == ()
    assert data.leaky
    labels = [data.read_label(t, t.whole) for t in (train, test)]
    counts = sum(np.bincount(label.ravel(), minlength=256) for label in labels)
    assert (counts[0], counts[1], counts[IGNORED]) == (192_010, 70_035, 99)
    values = data.read(train, Window(0, 0, 64, 64))
    assert values["optical"].shape == (4, 64, 64)
    assert 0 < values["optical"].mean() < 1
    assert -35 <= values["sar"].min() <= values["sar"].max() <= 5
    found = band_statistics(data)
    assert found["sar"].mean[0] > found["sar"].mean[1]
    report = data.check()
    assert list(report.problems) == ["in several splits, same scene"]
    assert "LEAKY" in report.notes[0]


def test_columns_can_be_left_out_and_held_out(tmp_path: Path) -> None:
    Sen1Floods11.write_synthetic(tmp_path, SMALL)
    options = Sen1Floods11Options(split="left_right", gap=4, val_columns=10)
    data = Sen1Floods11(tmp_path, options)
    parts = {split: data.tiles(split)[0] for split in SPLITS}
    assert {split: (t.column, t.width) for split, t in parts.items()} == {
        "train": (0, 20),
        "val": (20, 10),
        "test": (34, 14),
    }
    whole = Sen1Floods11(tmp_path).tiles("train")[0]
    plain = Sen1Floods11(tmp_path).read_label(whole, whole.whole)
    np.testing.assert_array_equal(data.read_label(parts["test"], Window(0, 0, 48, 14)), plain[:, 34:])
    assert data.fingerprint() != Sen1Floods11(tmp_path).fingerprint()
    with pytest.raises(DataError, match="leaves no columns for test, the chip has 48"):
        Sen1Floods11(tmp_path, replace(options, gap=40))


def test_chip_lists_are_checked(tmp_path: Path) -> None:
    Sen1Floods11.write_synthetic(tmp_path, SMALL)
    path = tmp_path / "splits" / "flood_valid_data.csv"
    path.write_text("../x.tif,y.tif\n")
    with pytest.raises(DataError, match=r"flood_valid_data.csv:1: a line must start with <chip>_S1Hand.tif"):
        Sen1Floods11(tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=r"found no file; or use split: left_right"):
        Sen1Floods11(tmp_path)


def test_options_of_sen1floods11_are_checked() -> None:
    with pytest.raises(ValueError, match="left_share must be between 0 and 1, got 1"):
        Sen1Floods11Options(left_share=1)
    with pytest.raises(ValueError, match="at least 0, got -1 and 0"):
        Sen1Floods11Options(gap=-1)
    with pytest.raises(ValueError, match=r"must be some of B1, .*got \['B99'\]"):
        Sen1Floods11Options(optical_bands=("B99",))


# WHU-OPT-SAR


def test_the_scene_list_has_60_20_and_20_scenes() -> None:
    assert {split: len(scenes) for split, scenes in OFFICIAL.items()} == {"train": 60, "val": 20, "test": 20}
    assert len(set().union(*OFFICIAL.values())) == 100
    assert all(len(name) == 11 for names in OFFICIAL.values() for name in names)


def test_bands_are_red_green_blue_infrared_whatever_the_order(tmp_path: Path) -> None:
    WhuOptSar.write_synthetic(tmp_path, SMALL)
    stored = WhuOptSar(tmp_path)
    tile = stored.tiles("train")[0]
    a = stored.read(tile, tile.whole)["optical"]
    b = WhuOptSar(tmp_path, WhuOptSarOptions(band_order="rgbn")).read(tile, tile.whole)["optical"]
    np.testing.assert_array_equal(a, b[[2, 1, 0, 3]])
    np.testing.assert_array_equal(b, read_bands(tile.files["optical"], tile.whole, [1, 2, 3, 4]))


def test_codes_are_tens_and_a_narrow_scene_is_cut(tmp_path: Path) -> None:
    WhuOptSar.write_synthetic(tmp_path, QUIRKS)
    data = WhuOptSar(tmp_path)
    tile = data.tiles("train")[0]
    assert (tile.height, tile.width) == (48, 71)
    codes = read_bands(tile.label, tile.whole, [1])[0].astype(int)
    expected = np.where((codes % 10 == 0) & (codes > 0), codes // 10 - 1, IGNORED)
    np.testing.assert_array_equal(data.read_label(tile, tile.whole), expected)
    problems = data.check().problems
    assert problems["unknown label codes, ignored"] == ["NH49E004021: 75: 16 pixels"]
    shown = problems["rasters of different sizes, cut to the smallest"]
    assert shown == ["NH49E004021: lbl 48x72, optical 48x72, sar 48x71"]


def test_a_wrong_order_of_bands_is_noticed(tmp_path: Path) -> None:
    WhuOptSar.write_synthetic(tmp_path, SMALL)
    for path in (tmp_path / "optical").glob("*.tif"):
        bands = read_bands(path, Window(0, 0, 48, 72), [4, 3, 2, 1])  # infrared first
        write_raster(path, bands)
    (kind,) = WhuOptSar(tmp_path).check().problems
    assert kind == "doubtful order of bands, try another band_order"


def test_random_patches_are_called_leaky(tmp_path: Path) -> None:
    WhuOptSar.write_synthetic(tmp_path, SMALL)
    data = WhuOptSar(tmp_path, WhuOptSarOptions(split="random_patch_leaky", patch=16))
    num = {split: len(data.tiles(split)) for split in SPLITS}
    assert num == {"train": 50, "val": 16, "test": 18}
    assert (data.leaky, data.split_name) == (True, "random_patch_leaky")
    other = WhuOptSar(tmp_path, WhuOptSarOptions(split="random_patch_leaky", patch=16, seed=1))
    assert data.tiles("train") != other.tiles("train")
    report = data.check()
    assert len(report.problems["in several splits, same scene"]) == 7
    assert "in several splits, overlapping pixels" not in report.problems
    assert "LEAKY" in report.notes[0]
    with pytest.raises(DataError, match="at least 3 patches of 99 pixels, found 0"):
        WhuOptSar(tmp_path, WhuOptSarOptions(split="random_patch_leaky", patch=99))
    with pytest.raises(ValueError, match="patch must be at least 1 pixel, got 0"):
        WhuOptSarOptions(patch=0)


def test_the_other_name_of_the_optical_folder_and_missing_scenes(tmp_path: Path) -> None:
    WhuOptSar.write_synthetic(tmp_path, SMALL)
    before = WhuOptSar(tmp_path).tiles("train")
    (tmp_path / "optical").rename(tmp_path / "image")
    assert [t.key for t in WhuOptSar(tmp_path).tiles("train")] == [t.key for t in before]


# GID


def test_forest_and_water_of_gid_are_not_mixed_up() -> None:
    colours = {c.name: c.colour for c in gid.CLASSES_5}
    assert (colours["forest"], colours["water"]) == ((0, 255, 255), (0, 0, 255))


@pytest.mark.parametrize("num_classes", [5, 15])
def test_gid_reads_infrared_first_and_colours(tmp_path: Path, num_classes: int) -> None:
    Gid.write_synthetic(tmp_path, QUIRKS)
    data = Gid(tmp_path, GidOptions(num_classes=num_classes))  # type: ignore[arg-type]
    assert len(data.classes) == num_classes
    tile = next(t for s in SPLITS for t in data.tiles(s) if t.key == "GF2_PMS1__L1A0000000000-MSS1")
    stored = read_bands(tile.files["nir"], tile.whole, [1, 2, 3, 4])
    values = data.read(tile, tile.whole)
    np.testing.assert_array_equal(values["nir"], stored[:1])
    np.testing.assert_array_equal(values["rgb"], stored[1:])
    label = data.read_label(tile, tile.whole)
    colours = read_bands(tile.label, tile.whole, [1, 2, 3]).transpose(1, 2, 0)
    for c in data.classes:
        assert (colours[label == c.index] == c.colour).all()
    assert (label[:3, :3] == IGNORED).all()
    assert data.check().problems["unknown label codes, ignored"] == [f"{tile.key}: (12, 34, 56): 9 pixels"]


def test_gid_splits_follow_the_seed_and_keep_every_scene(tmp_path: Path) -> None:
    names = [f"s{i}" for i in range(150)]
    first = seeded_splits(names, 0, where=tmp_path)
    assert [list(first.values()).count(split) for split in SPLITS] == [90, 30, 30]
    assert first == seeded_splits(names[::-1], 0, where=tmp_path)
    assert first != seeded_splits(names, 1, where=tmp_path)
    with pytest.raises(DataError, match=r"must hold at least 3 .tif files to divide into splits, found 2"):
        seeded_splits(names[:2], 0, where=tmp_path)


# ISPRS


def test_splits_of_both_customs() -> None:
    for dataset, sizes in ((Vaihingen, {"official": (16, 17), "ssrs": (12, 4)}), (Potsdam, {"official": (24, 14)})):
        for name, custom in dataset.customs.items():
            assert set(custom.held_out) < set(custom.train)
            assert not set(custom.train) & set(custom.test)
            if name in sizes:
                assert (len(custom.train), len(custom.test)) == sizes[name]
    assert (len(Potsdam.customs["ssrs"].train), len(Potsdam.customs["ssrs"].test)) == (18, 6)


@pytest.mark.parametrize("dataset", [Vaihingen, Potsdam])
def test_isprs_options(dataset: type[isprs.IsprsDataset], tmp_path: Path) -> None:
    dataset.write_synthetic(tmp_path, QUIRKS)
    full = dataset(tmp_path)
    scaled = dataset(tmp_path, IsprsOptions(dsm="tile_minmax", evaluation_labels="eroded", validation="none"))
    assert (len(full.tiles("val")), len(scaled.tiles("val"))) == (2, 0)
    assert len(scaled.tiles("train")) == len(full.tiles("train")) + 2
    tile = scaled.tiles("test")[0]
    heights = scaled.read(tile, tile.whole)["dsm"]
    assert (heights.min(), heights.max()) == (0, 1)
    assert full.read(tile, tile.whole)["dsm"].min() > 240
    inner, whole = scaled.read_label(tile, tile.whole), full.read_label(full.tiles("test")[0], tile.whole)
    kept = inner != IGNORED
    np.testing.assert_array_equal(inner[kept], whole[kept])
    assert kept.mean() < (whole != IGNORED).mean() - 0.1
    first = scaled.tiles("train")[0]
    assert first.label == full.tiles("train")[0].label
    assert first.height == 47


def test_noisy_colours_count_as_the_nearest(tmp_path: Path) -> None:
    Vaihingen.write_synthetic(tmp_path, QUIRKS)
    report = Vaihingen(tmp_path).check()
    assert report.problems["unknown label codes, ignored"] == ["1: (128, 64, 32): 9 pixels"]
    assert report.problems["pixels without a value"] == ["1: dsm, 1 pixels"]


def test_an_isprs_folder_without_tiles_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must hold files like top/top_mosaic_09cm_area1.tif, .*; found none of them"):
        Vaihingen(tmp_path)


def test_potsdam_heights_may_lack_leading_zeros(tmp_path: Path) -> None:
    Potsdam.write_synthetic(tmp_path, SMALL)
    folder = tmp_path / "1_DSM"
    (folder / "dsm_potsdam_02_10.tif").rename(folder / "dsm_potsdam_2_10.tif")
    assert Potsdam(tmp_path).tiles("train")[0].files["dsm"].name == "dsm_potsdam_2_10.tif"


# Globe230k


def test_missing_ndvi_is_replaced_as_published(tmp_path: Path) -> None:
    Globe230k.write_synthetic(tmp_path, QUIRKS)
    data = Globe230k(tmp_path)
    first, second = data.tiles("train")[:2]
    assert (data.read(first, first.whole)["ndvi"] == -1).all()
    values = read_bands(second.files["ndvi"], second.whole, [1])
    values[0, 3, 3] = np.nan
    write_raster(second.files["ndvi"], values)
    found = data.read(second, Window(3, 3, 1, 1))["ndvi"].item()
    assert found == pytest.approx(np.nanmean(values), rel=1e-5)
    assert data.check().problems["pixels without a value"] == ["data_0: sar, 1 pixels"]


def test_globe230k_options_and_equal_sizes(tmp_path: Path) -> None:
    Globe230k.write_synthetic(tmp_path, SMALL)
    data = Globe230k(tmp_path)
    tile = data.tiles("train")[0]
    swapped = Globe230k(tmp_path, Globe230kOptions(modalities=("sar",), radar_order="vv_vh"))
    assert [m.name for m in swapped.modalities] == ["sar"]
    a, b = data.read(tile, tile.whole)["sar"], swapped.read(tile, tile.whole, only=("sar",))["sar"]
    np.testing.assert_array_equal(a, b[::-1])
    assert a[0].mean() > a[1].mean()
    odd = data.tiles("train")[1]
    Image.new("L", (40, 48)).save(odd.label)
    with pytest.raises(DataError, match=r"data_1.png: must be 48x48 pixels .* like the first tile .*found 48x40"):
        data.read_label(odd, odd.whole)
    with pytest.raises(ValueError, match="modalities must name at least one, each once"):
        Globe230kOptions(modalities=())
    (tmp_path / "val_num.txt").write_text("../data_1\n")
    with pytest.raises(DataError, match=r"val_num.txt: line 1 must be a name without folders"):
        Globe230k(tmp_path)


def test_a_missing_patch_is_named_by_the_fingerprint(tmp_path: Path) -> None:
    Globe230k.write_synthetic(tmp_path, SMALL)
    data = Globe230k(tmp_path)
    data.tiles("train")[2].files["dem"].unlink()
    with pytest.raises(DataError, match=r"data_2.tif: every file of a tile must exist"):
        data.fingerprint()


# C2Seg


def test_c2seg_trains_on_one_city_and_tests_on_the_other(tmp_path: Path) -> None:
    C2Seg.write_synthetic(tmp_path, SyntheticConfig(train=4, val=1, test=2, size=48))
    data = C2Seg(tmp_path)
    assert {s: [t.key.partition("_")[0] for t in data.tiles(s)] for s in SPLITS} == {
        "train": ["beijing"] * 4,
        "val": ["beijing"],
        "test": ["wuhan"] * 2,
    }
    assert data.tiles("val")[0].key == "beijing_192_240_0_48"
    whole = C2Seg(tmp_path, C2SegOptions(validation="none"))
    assert (len(whole.tiles("train")), len(whole.tiles("val"))) == (5, 0)
    (tmp_path / "BW" / "wuhan" / "label" / "x_label.tiff").write_bytes(b"")
    with pytest.raises(DataError, match="a patch must be called <city>_<r0>_<r1>_<c0>_<c1>_label"):
        C2Seg(tmp_path)


def test_matlab_files_are_read_in_windows(tmp_path: Path) -> None:
    C2Seg.write_synthetic(tmp_path, QUIRKS)
    data = C2Seg(tmp_path, C2SegOptions(cities="AB"))
    train, val, test = (data.tiles(s)[0] for s in SPLITS)
    assert [(t.row, t.height, t.width) for t in (train, val, test)] == [(0, 38, 48), (38, 10, 48), (0, 48, 48)]
    stored = scipy.io.loadmat(tmp_path / "augsburg_multimodal.mat")
    values = data.read(val, Window(2, 3, 4, 5))
    np.testing.assert_array_equal(values["msi"], stored["MSI"][40:44, 3:8].transpose(2, 0, 1))
    assert (data.read_label(train, Window(0, 0, 3, 3)) == IGNORED).all()
    sar = stored["SAR"][:, :, 1]
    assert np.isnan(sar[24, 16])
    near = np.mean([sar[23, 16], sar[25, 16], sar[24, 15], sar[24, 17]])
    for window in (train.whole, Window(24, 16, 1, 1)):
        found = data.read(train, window)["sar"][1]
        assert np.isfinite(found).all()
        assert found[24 - window.row, 16 - window.column] == pytest.approx(near, rel=1e-5)
    assert "in several splits, same scene" in data.check().problems


def test_scaled_reflectance_is_divided(tmp_path: Path) -> None:
    C2Seg.write_synthetic(tmp_path, SMALL)
    plain = C2Seg(tmp_path)
    tile = plain.tiles("test")[0]
    before = plain.read(tile, tile.whole)["hsi"]
    for path in (tmp_path / "BW").glob("*/hsi/*.tiff"):
        write_raster(path, 1e4 * read_bands(path, Window(0, 0, 48, 48), range(1, 13)))
    np.testing.assert_allclose(C2Seg(tmp_path).read(tile, tile.whole)["hsi"], before, rtol=1e-5)


def test_damaged_matlab_files_are_named(tmp_path: Path) -> None:
    options = C2SegOptions(cities="AB")
    with pytest.raises(DataError, match=r"augsburg_multimodal\.mat: must be a MATLAB file, found: No such file"):
        C2Seg(tmp_path, options)
    path = tmp_path / "augsburg_multimodal.mat"
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(512))
    with pytest.raises(DataError, match=r"must be a MATLAB file below version 7.3, found 7.3 \(HDF5\)"):
        C2Seg(tmp_path, options)
    C2Seg.write_synthetic(tmp_path, SMALL)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"must be a complete MATLAB file, found: .*copy the file again"):
        C2Seg(tmp_path, options)
    write_matlab(path, {"other": np.zeros((3, 3))})
    with pytest.raises(DataError, match="must hold the variable 'HSI', found other"):
        C2Seg(tmp_path, options)
