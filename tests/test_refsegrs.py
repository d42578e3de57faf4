"""RefSegRS's reader and generator: the published layout, text files as people leave them, referents of many regions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from harness.data.base import SPLITS, SyntheticConfig
from harness.data.refsegrs import RefSegRS
from harness.data.scenes import COLOURS, NOUNS
from harness.data.triplet_miniature import Referent, draw_referent
from harness.errors import DataError

SMALL = SyntheticConfig(train=4, val=2, test=2, size=48)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "RefSegRS"
    RefSegRS.write_synthetic(folder, SMALL)
    return folder


def write_lines(root: Path, split: str, text: str | bytes) -> None:
    data = text if isinstance(text, bytes) else text.encode()
    (root / f"output_phrase_{split}.txt").write_bytes(data)


def write_pair(root: Path, name: str, mask: NDArray[np.uint8]) -> None:
    Image.fromarray(np.zeros((*mask.shape[:2], 3), np.uint8)).save(root / "images" / f"{name}.tif")
    Image.fromarray(mask).save(root / "masks" / f"{name}.tif")


def problems(root: Path) -> dict[str, Sequence[str]]:
    return dict(RefSegRS(root).check().problems)


def meant_by(referent: Referent) -> list[int]:
    """The objects that the sentence fits, read word by word; None of the scene's own notes are used."""
    words = referent.sentence.lower().removeprefix("the ")
    colour, _, noun = words.partition(" ")
    assert colour in COLOURS
    assert noun.endswith("s")
    kinds = {name for name, called in NOUNS.items() if called == noun.removesuffix("s")}
    return [i for i, o in enumerate(referent.scene.objects) if o.category in kinds and o.colour == colour]


# What is read


def test_records_are_the_lines(root: Path) -> None:
    write_lines(root, "train", "3 white vehicles on the road\n1 sidewalk\n")
    first, second = RefSegRS(root).records("train")
    assert (first.key, first.sentences, first.category) == ("3", ("white vehicles on the road",), None)
    assert first.image == root / "images" / "3.tif"
    assert first.mask == root / "masks" / "3.tif"
    assert (second.key, second.sentences) == ("1", ("sidewalk",))


@pytest.mark.parametrize(
    "text",
    [
        b"1 the road\n2 a van\n",
        b"1 the road\n2 a van",
        b"1 the road\r\n2 a van\r\n",
        b"\n\n1 the road\n   \n\t\n2 a van\n\n\n",
        b"\xef\xbb\xbf1 the road\n2 a van\n",
        b"1\tthe road \n  2   a van\n",
    ],
)
def test_harmless_differences_of_text_files_change_nothing(root: Path, text: bytes) -> None:
    write_lines(root, "train", "1 the road\n2 a van\n")
    wanted = RefSegRS(root)
    lines = [(r.key, r.sentences) for r in wanted.records("train")]
    fingerprint = wanted.fingerprint()
    write_lines(root, "train", text)
    found = RefSegRS(root)
    assert [(r.key, r.sentences) for r in found.records("train")] == lines == [("1", ("the road",)), ("2", ("a van",))]
    assert found.fingerprint() == fingerprint


def test_white_space_inside_an_expression_and_unicode_are_kept(root: Path) -> None:
    write_lines(root, "train", "1 Straße  zur\u2028Brücke\n")
    assert RefSegRS(root).records("train")[0].sentences == ("Straße  zur\u2028Brücke",)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b"../../etc/passwd x\n", r"line 1 must start with a file name without folders, got '\.\./\.\./etc/passwd'"),
        (b"1 road\n\na/b road\n", "line 3 must start with a file name without folders"),
        (b"1\x00 road\n", "line 1 must start with a file name"),
        (b"1 stra\xdfe\n", "must be UTF-8 text"),
    ],
)
def test_lines_that_are_no_triplet_are_refused(root: Path, text: bytes, match: str) -> None:
    write_lines(root, "val", text)
    with pytest.raises(DataError, match=rf"output_phrase_val\.txt: {match}"):
        RefSegRS(root)


def test_the_object_is_what_is_above_zero(root: Path) -> None:
    mask = np.zeros((8, 8), np.uint8)
    mask[0, 0], mask[3, 3], mask[5, 5] = 1, 50, 255
    write_pair(root, "1", mask)
    write_lines(root, "train", "1 roads\n")
    data = RefSegRS(root)
    np.testing.assert_array_equal(data.read_mask(data.records("train")[0]), mask > 0)
    assert problems(root) == {"mask values 1 to 50": ["1"]}


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "I;16"])
def test_masks_are_read_however_they_are_stored(root: Path, mode: str) -> None:
    wanted = np.zeros((8, 8), np.uint8)
    wanted[2:5, 3:7] = 1
    grey = Image.fromarray(wanted * np.uint8(255))
    stored = Image.fromarray(wanted.astype(np.uint16) * 255) if mode == "I;16" else grey.convert(mode)
    if mode == "P":
        stored = Image.fromarray(wanted).convert("P")
    stored.save(root / "masks" / "1.tif")
    write_lines(root, "train", "1 roads\n")
    data = RefSegRS(root)
    np.testing.assert_array_equal(data.read_mask(data.records("train")[0]), wanted)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_images_are_read(root: Path, compression: str) -> None:
    wanted = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    Image.fromarray(wanted).save(root / "images" / "1.tif", compression=compression)
    write_lines(root, "train", "1 roads\n")
    data = RefSegRS(root)
    np.testing.assert_array_equal(data.read_image(data.records("train")[0]), wanted)


# What is wrong


def test_a_line_without_expression_is_reported(root: Path) -> None:
    write_lines(root, "train", "1 the road\n2\n3  \n")
    assert RefSegRS(root).records("train")[1].sentences == ("",)
    assert problems(root) == {"empty sentences": ["2", "3"]}


def test_names_that_come_again_are_samples_with_keys_of_their_own_and_reported(root: Path) -> None:
    write_lines(root, "train", "1 the road\n2 a van\n1 the road\n1 a bus\n")
    write_lines(root, "test", "2 a van\n")
    data = RefSegRS(root)
    assert [r.key for r in data.records("train")] == ["1", "2", "1#2", "1#3"]
    assert [r.key for r in data.records("test")] == ["2#2"]
    assert problems(root) == {
        "duplicated names": ["1#2 (train)", "1#3 (train)", "2#2 (test)"],
        "in several splits": ["2 (train)", "2#2 (test)"],
    }


def test_missing_and_damaged_files_are_named_and_the_check_goes_on(root: Path) -> None:
    one, two, three, four = (r.key for r in RefSegRS(root).records("train"))
    (root / "images" / f"{one}.tif").unlink()
    (root / "masks" / f"{two}.tif").unlink()
    (root / "images" / f"{three}.tif").write_bytes(b"II*\0")
    (root / "masks" / f"{four}.tif").write_bytes(b"no image")
    data = RefSegRS(root)
    assert dict(data.check().problems) == {
        "missing images": [f"{one} ({one}.tif)"],
        "missing masks": [f"{two} ({two}.tif)"],
        "unreadable images": [f"{three} ({three}.tif)"],
        "unreadable masks": [f"{four} ({four}.tif)"],
    }
    records = data.records("train")
    with pytest.raises(DataError, match=rf"{one}\.tif: the image of sample {one} must exist, found no file"):
        data.read_image(records[0])
    with pytest.raises(DataError, match=rf"{two}\.tif: the mask of sample {two} must exist, found no file"):
        data.read_mask(records[1])
    with pytest.raises(DataError, match=rf"the image of sample {three} cannot be decoded"):
        data.read_image(records[2])
    with pytest.raises(DataError, match=r"1\.tif: every file that a line names must exist; 'harness data check'"):
        data.fingerprint()


def test_a_folder_in_another_layout_is_refused(root: Path) -> None:
    (root / "masks").rename(root / "mask")
    with pytest.raises(DataError, match=r"a folder of RefSegRS must hold .*; missing: masks; did you mean .*mask\?"):
        RefSegRS(root)
    with pytest.raises(DataError, match=r"there is no such folder; did you mean"):
        RefSegRS(root.parent / "RefSegRs")


def test_the_folder_above_is_suggested(root: Path) -> None:
    with pytest.raises(DataError, match=rf"did you mean {root}\?"):
        RefSegRS(root / "images")


def test_unknown_split_is_named(root: Path) -> None:
    with pytest.raises(DataError, match=r"unknown split 'tset' of RefSegRS; did you mean 'test'\?"):
        RefSegRS(root).records("tset")


def test_counts_that_are_not_the_published_ones_are_noted_with_their_doubt(root: Path) -> None:
    notes = RefSegRS(root).check().notes
    assert notes[0] == "not the published data set, which has train 2172, val 431, test 1817 samples"
    assert "another source says val 413" in notes[1]
    assert sum(RefSegRS.info.expected.values()) == 4_420


@pytest.mark.parametrize("folder", ["images", "masks"])
def test_fingerprint_follows_images_and_masks(root: Path, folder: str) -> None:
    before = RefSegRS(root).fingerprint()
    name = RefSegRS(root).records("train")[0].image.name
    data = bytearray((root / folder / name).read_bytes())
    data[-1] ^= 255
    (root / folder / name).write_bytes(bytes(data) if folder == "masks" else bytes(data) + b"\0")
    assert RefSegRS(root).fingerprint() != before


# The generator


@pytest.mark.parametrize("size", [32, 64, 96])
def test_sentences_of_groups_mean_their_members_and_nothing_else(size: int) -> None:
    made = [draw_referent(SyntheticConfig(size=size), "train", i, groups=True) for i in range(120)]
    groups = [r for r in made if len(r.members) > 1]
    assert 0.35 < len(groups) / len(made) < 0.65
    for referent in groups:
        assert meant_by(referent) == list(referent.members), referent
        category = referent.scene.objects[referent.members[0]].category
        alike = [o for o in referent.scene.objects if o.category == category]
        assert len(alike) > len(referent.members)
    assert {len(r.members) for r in groups} == {2, 3}


def test_masks_of_groups_hold_several_regions(tmp_path: Path) -> None:
    RefSegRS.write_synthetic(tmp_path, SyntheticConfig(train=12, val=1, test=1, size=64))
    data = RefSegRS(tmp_path)
    for i, record in enumerate(data.records("train")):
        referent = draw_referent(SyntheticConfig(size=64), "train", i, groups=True)
        assert record.sentences == (referent.sentence,)
        parts = np.stack([referent.scene.mask(m) for m in referent.members])
        assert parts.sum(axis=0).max() == 1
        np.testing.assert_array_equal(data.read_mask(record), parts.any(axis=0))
        pixels = data.read_image(record)
        colour = referent.scene.objects[referent.members[0]].colour
        for part in parts:
            mean = pixels[part > 0].astype(float).mean(axis=0)
            assert np.abs(mean - COLOURS[colour]).max() < 35


def test_every_quirk_is_there_once_and_found(tmp_path: Path) -> None:
    RefSegRS.write_synthetic(tmp_path, SyntheticConfig(train=4, val=2, test=2, size=48, quirks=True))
    data = RefSegRS(tmp_path)
    train, test = data.records("train"), data.records("test")
    assert {s: len(data.records(s)) for s in SPLITS} == {"train": 4, "val": 2, "test": 2}
    assert problems(tmp_path) == {
        "empty masks": [test[0].key],
        "mask values 1 to 50": [train[1].key],
        "size mismatches": [f"{train[0].key} (image 49x48, mask 48x48 (height x width))"],
    }
    with Image.open(train[2].mask) as mask:
        assert mask.mode == "RGB"
    text = (tmp_path / "output_phrase_train.txt").read_bytes()
    assert text.count(b"\r\n\r\n") == 3
    assert not text.endswith(b"\n")
