"""RRSIS-D's reader: the published layout, its known defects, damaged and hostile files."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.data.base import SPLITS, SyntheticConfig
from harness.data.rrsis_d import RrsisD
from harness.errors import DataError

SAMPLE = Path(__file__).resolve().parents[2] / "shared/data/rrsisd_loveda"
REFS, INSTANCES, IMAGES = "rrsisd/refs(unc).p", "rrsisd/instances.json", "images/rrsisd/JPEGImages"
SMALL = SyntheticConfig(train=4, val=2, test=2, size=48, quirks=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "RRSIS-D"
    RrsisD.write_synthetic(folder, SMALL)
    return folder


def change_refs(root: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    """Apply `change` to the list of references on disk."""
    refs = pickle.loads((root / REFS).read_bytes())
    change(refs)
    (root / REFS).write_bytes(pickle.dumps(refs, protocol=2))


def change_instances(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Apply `change` to the dict of instances on disk."""
    instances = json.loads((root / INSTANCES).read_text())
    change(instances)
    (root / INSTANCES).write_text(json.dumps(instances))


# What is read


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample with real pixels is not beside the repository")
def test_the_sample_with_real_pixels() -> None:
    data = RrsisD(SAMPLE)
    report = data.check()
    assert report.counts == {"train": 106, "val": 22, "test": 40}
    assert not report.problems
    records = [r for split in SPLITS for r in data.records(split)]
    assert len({r.image for r in records}) == 94
    assert len({r.key for r in records}) == 168
    assert Counter(r.category for r in records) == {
        **{"building": 20, "road": 13, "water": 33, "forest": 21, "agriculture": 81}
    }
    areas = {a["id"]: a["area"] for a in json.loads((SAMPLE / INSTANCES).read_text())["annotations"]}
    assert all(int(data.read_mask(r).sum()) == areas[r.mask.annotation] > 0 for r in records)
    assert data.read_image(records[0]).shape == (256, 256, 3)
    assert data.fingerprint() == RrsisD(SAMPLE).fingerprint()


def test_records_carry_keys_sentences_and_categories(root: Path) -> None:
    record = RrsisD(root).records("train")[1]
    assert record.key == "12/1"
    assert record.image.name == "00012.jpg"
    assert record.sentences[0].startswith("The ")
    assert record.category is not None
    assert record.category.replace("field", "").replace("court", "") in record.sentences[0].replace(" ", "")


def test_both_spellings_of_the_category_key_are_read(root: Path) -> None:
    before = [r.category for r in RrsisD(root).records("train")]

    def respell(instances: dict[str, Any]) -> None:
        for annotation in instances["annotations"]:
            annotation["category_id"] = annotation.pop("categories_id")

    change_instances(root, respell)
    assert [r.category for r in RrsisD(root).records("train")] == before


def test_the_test_split_is_what_contains_test(root: Path) -> None:
    change_refs(root, lambda refs: refs[0].update(split="testA"))
    data = RrsisD(root)
    assert len(data.records("train")) == 3
    assert data.records("test")[0].key == "11/0"
    assert {r.split for r in data.records("test")} == {"test"}


def test_several_sentences_and_unicode_are_kept(root: Path) -> None:
    change_refs(
        root, lambda refs: refs[0]["sentences"].append({"sent_id": 99, "raw": "Größe ✓", "sent": "", "tokens": []})
    )
    assert RrsisD(root).records("train")[0].sentences[1] == "Größe ✓"


def test_unknown_split_is_named(root: Path) -> None:
    with pytest.raises(DataError, match=r"unknown split 'vall' of RRSIS-D; did you mean 'val'\?"):
        RrsisD(root).records("vall")


# Known defects


def test_every_quirk_is_there_once_and_found(root: Path) -> None:
    data = RrsisD(root)
    report = data.check()
    train, test = data.records("train"), data.records("test")
    assert report.counts == {"train": 4, "val": 2, "test": 2}
    assert dict(report.problems) == {
        "empty masks": [test[0].key],
        "size mismatches": [f"{train[0].key} (image 49x48, mask 48x48 (height x width))"],
    }
    assert "train 12181" in report.notes[0]
    assert data.read_mask(test[0]).sum() == 0
    assert data.read_image(train[0]).shape == (49, 48, 3)
    assert isinstance(train[2].mask.segmentation[0], list)
    annotations = {a["id"]: a for a in json.loads((root / INSTANCES).read_text())["annotations"]}
    stale = annotations[train[1].mask.annotation]["bbox"]
    rows, columns = np.nonzero(data.read_mask(train[1]))
    assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] != stale
    for record in train:
        assert int(data.read_mask(record).sum()) == annotations[record.mask.annotation]["area"]


def test_without_quirks_nothing_is_found(tmp_path: Path) -> None:
    RrsisD.write_synthetic(tmp_path, SyntheticConfig(train=4, val=2, test=2, size=48))
    assert not RrsisD(tmp_path).check().problems


def test_check_goes_on_after_damage(root: Path) -> None:
    def damage(refs: list[dict[str, Any]]) -> None:
        refs[3].update(ref_id=refs[2]["ref_id"], image_id=refs[2]["image_id"])
        refs[4]["sentences"][0]["raw"] = " "

    def damage_masks(instances: dict[str, Any]) -> None:
        instances["annotations"][3]["image_id"] = instances["annotations"][2]["image_id"]
        instances["annotations"][5].update(segmentation=[{"size": [48, 48], "counts": "0"}], categories_id=77)

    change_refs(root, damage)
    change_instances(root, damage_masks)
    (root / IMAGES / "00015.jpg").unlink()
    (root / IMAGES / "00012.jpg").write_bytes(b"no image")
    problems = RrsisD(root).check().problems
    assert problems["duplicated keys"] == ["13/2"]
    assert problems["missing images"] == ["15/4 (00015.jpg)"]
    assert problems["unreadable images"] == ["12/1 (00012.jpg)"]
    assert problems["unreadable masks"] == ["16/5 (annotation 20006)"]
    assert problems["empty sentences"] == ["15/4"]
    assert problems["unknown categories"] == ["16/5"]


# Damaged folders and files


def test_a_misspelt_folder_gets_a_suggestion(root: Path) -> None:
    with pytest.raises(
        DataError, match=r"must hold rrsisd/refs\(unc\)\.p, .*no such folder; did you mean .*RRSIS-D\?"
    ) as caught:
        RrsisD(root.parent / "RRSISD")
    assert "\n" not in str(caught.value)


def test_the_folder_above_or_below_is_suggested(root: Path) -> None:
    for wrong in (root.parent, root / "rrsisd"):
        with pytest.raises(DataError, match=r"missing: .*did you mean .*RRSIS-D\?"):
            RrsisD(wrong)


def test_a_misspelt_file_is_suggested(root: Path) -> None:
    (root / REFS).rename(root / "rrsisd/refs(umd).p")
    with pytest.raises(DataError, match=r"missing: rrsisd/refs\(unc\)\.p; did you mean .*refs\(umd\)\.p\?"):
        RrsisD(root)


def test_nothing_near_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="give the folder that holds them"):
        RrsisD(tmp_path / "nowhere" / "at" / "all")


class Malicious:
    """Would run a command when unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, ("touch owned",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_asks_for_code_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch, protocol: int) -> None:
    monkeypatch.chdir(root)
    (root / REFS).write_bytes(pickle.dumps([Malicious()], protocol=protocol))
    with pytest.raises(DataError, match=r"refs\(unc\)\.p: must hold only lists.*global 'posix\.system'"):
        RrsisD(root)
    assert not (root / "owned").exists()


@pytest.mark.parametrize("value", [np.int64(3), {1, 2}.__class__, Counter(), len])
def test_every_class_and_function_is_refused(root: Path, value: object) -> None:
    (root / REFS).write_bytes(pickle.dumps([{"ref_id": value}], protocol=2))
    with pytest.raises(DataError, match="got the global"):
        RrsisD(root)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_truncated_pickles_are_refused(root: Path, share: float) -> None:
    whole = (root / REFS).read_bytes()
    (root / REFS).write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DataError, match=r"refs\(unc\)\.p: must be a complete pickle") as caught:
        RrsisD(root)
    assert "\n" not in str(caught.value)


def test_random_bytes_are_no_pickle(root: Path) -> None:
    rng = np.random.default_rng(0)
    for size in range(1, 200, 7):
        (root / REFS).write_bytes(rng.bytes(size))
        with pytest.raises(DataError, match=r"refs\(unc\)\.p"):
            RrsisD(root)


@pytest.mark.parametrize("text", ["{", "", "[1, 2]", "\udcff"])
def test_invalid_json_is_refused(root: Path, text: str) -> None:
    (root / INSTANCES).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=r"instances\.json: must be"):
        RrsisD(root)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda refs: refs[1].pop("ann_id"), "reference 1: must have the key 'ann_id'"),
        (lambda refs: refs[1].update(image_id="12"), "'image_id' must be int, got str '12'"),
        (lambda refs: refs[1].update(ref_id=True), "'ref_id' must be int, got bool"),
        (lambda refs: refs[1].update(ann_id=refs[0]["ann_id"]), "'ann_id' must be unique, got 20001 as in reference 0"),
        (lambda refs: refs[1].update(ann_id=5), "must be an annotation of rrsisd/instances.json, got 5"),
        (lambda refs: refs[1].update(image_id=5), "must be an image of rrsisd/instances.json, got 5"),
        (lambda refs: refs[1].update(image_id=11), "must belong to image 11, it belongs to 12"),
        (lambda refs: refs[1].update(split="trial"), "must be train, val or contain 'test', got 'trial'"),
        (lambda refs: refs[1].update(sentences=[]), "at least one sentence"),
        (lambda refs: refs[1].update(sentences=["a"]), "sentence 0: must be a dict, got str 'a'"),
        (lambda refs: refs[1]["sentences"][0].pop("raw"), "sentence 0: must have the key 'raw'"),
        (lambda refs: refs.append(7), "reference 8: must be a dict, got int 7"),
    ],
)
def test_damaged_references_are_named(root: Path, change: Callable[[Any], object], match: str) -> None:
    change_refs(root, change)
    with pytest.raises(DataError, match=match):
        RrsisD(root)


def test_references_must_be_a_list(root: Path) -> None:
    (root / REFS).write_bytes(pickle.dumps({}, protocol=2))
    with pytest.raises(DataError, match="must hold a list of references, got dict"):
        RrsisD(root)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda found: found.pop("images"), r"instances\.json: must have the key 'images'"),
        (lambda found: found["images"][0].pop("height"), "image 0: must have the key 'height'"),
        (lambda found: found["images"][0].update(file_name="../x.jpg"), "without folders"),
        (lambda found: found["images"][1].update(id=11), "image 1: 'id' must be unique, got 11"),
        (lambda found: found["annotations"][1].update(id=20001), "annotation 1: 'id' must be unique, got 20001"),
        (lambda found: found["annotations"][0].update(segmentation="x"), "'segmentation' must be list or dict"),
        (lambda found: found["categories"][0].update(name=3), "category 0: 'name' must be str, got int 3"),
    ],
)
def test_damaged_instances_are_named(root: Path, change: Callable[[Any], object], match: str) -> None:
    change_instances(root, change)
    with pytest.raises(DataError, match=match):
        RrsisD(root)


def test_damaged_pixels_and_masks_name_the_sample(root: Path) -> None:
    change_instances(root, lambda found: found["annotations"][1].update(segmentation=[]))
    data = RrsisD(root)
    first, second, third = data.records("train")[:3]
    with pytest.raises(DataError, match=r"instances\.json: annotation 20002 \(sample 12/1\): .*non-empty list"):
        data.read_mask(second)
    whole = first.image.read_bytes()
    first.image.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"00011\.jpg: the image of sample 11/0 cannot be decoded"):
        data.read_image(first)
    third.image.unlink()
    with pytest.raises(DataError, match="sample 13/2 must exist"):
        data.read_image(third)
    with pytest.raises(DataError, match=r"00013\.jpg: every image .* must exist"):
        data.fingerprint()


def test_grey_images_become_rgb(root: Path) -> None:
    data = RrsisD(root)
    record = data.records("train")[1]
    Image.new("L", (20, 10), 7).save(record.image)
    assert data.read_image(record).shape == (10, 20, 3)


def test_fingerprint_follows_content_not_place(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    RrsisD.write_synthetic(other, SMALL)
    before = RrsisD(root).fingerprint()
    assert RrsisD(other).fingerprint() == before
    change_refs(other, lambda refs: refs[0]["sentences"][0].update(raw="Another"))
    assert RrsisD(other).fingerprint() != before
    (root / IMAGES / "00012.jpg").open("ab").write(b"x")
    assert RrsisD(root).fingerprint() != before
