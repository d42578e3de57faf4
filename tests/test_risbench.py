"""RISBench's reader and generator: file names with endings, splits that follow from the file and never from a name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.data.base import SPLITS, SyntheticConfig
from harness.data.risbench import RISBench
from harness.data.scenes import referents
from harness.data.triplet_miniature import draw_referent
from harness.errors import DataError

SMALL = SyntheticConfig(train=4, val=3, test=2, size=48)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    RISBench.write_synthetic(tmp_path, SMALL)
    return tmp_path


def test_validation_lines_name_train_files(root: Path) -> None:
    data = RISBench(root)
    names = {split: [r.image.name for r in data.records(split)] for split in SPLITS}
    assert names["train"] == ["train_0_0.png", "train_0_1.png", "train_0_2.png", "train_1_0.png"]
    assert names["val"] == ["train_30000_0.png", "train_30000_1.png", "train_30000_2.png"]
    assert names["test"] == ["test_0_0.png", "test_0_1.png"]
    assert {r.split for r in data.records("val")} == {"val"}
    assert not data.check().problems


def test_the_split_is_the_file_a_line_stands_in(root: Path) -> None:
    for split, name in (("train", "test_0_0.png"), ("test", "train_0_0.png")):
        (root / f"output_phrase_{split}.txt").write_text(f"{name} the dam\n")
    data = RISBench(root)
    assert [(r.split, r.key) for s in ("train", "test") for r in data.records(s)] == [
        ("train", "test_0_0"),
        ("test", "train_0_0"),
    ]


def test_records_are_the_lines(root: Path) -> None:
    (root / "output_phrase_train.txt").write_bytes(b"train_0_0.png  the dam on the left\r\n\r\ntrain_0_1.png\r\n")
    first, second = RISBench(root).records("train")
    assert (first.key, first.sentences, first.category) == ("train_0_0", ("the dam on the left",), None)
    assert first.image == root / "img_rgb" / "train_0_0.png"
    assert first.mask == root / "mask" / "train_0_0.png"
    assert second.sentences == ("",)
    assert RISBench(root).check().problems == {"empty sentences": ["train_0_1"]}


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("the dam on the left", "line 1 must start with a file name with its ending, got 'the'"),
        ("img_rgb/train_0_0.png the dam", "line 1 must start with a file name without folders"),
    ],
)
def test_lines_that_do_not_start_with_a_file_name_are_refused(root: Path, line: str, match: str) -> None:
    (root / "output_phrase_test.txt").write_text(line)
    with pytest.raises(DataError, match=match):
        RISBench(root)


def test_masks_of_three_channels_are_read_by_their_first(root: Path) -> None:
    data = RISBench(root)
    record = data.records("train")[0]
    before = data.read_mask(record)
    stored = np.asarray(Image.open(record.mask))
    assert set(np.unique(stored)) == {0, 255}
    Image.fromarray(np.stack([stored, 255 - stored, stored], axis=2)).save(record.mask)
    np.testing.assert_array_equal(data.read_mask(record), before)


def test_a_name_in_two_splits_is_reported(root: Path) -> None:
    (root / "output_phrase_val.txt").write_text("train_0_0.png the dam\n")
    assert RISBench(root).check().problems == {
        "duplicated names": ["train_0_0#2 (val)"],
        "in several splits": ["train_0_0 (train)", "train_0_0#2 (val)"],
    }


def test_counts_that_are_not_the_published_ones_are_noted_with_their_doubt(root: Path) -> None:
    notes = RISBench(root).check().notes
    assert notes[0] == "not the published data set, which has train 26300, val 10013, test 16159 samples"
    assert "quoted, not counted" in notes[1]
    assert sum(RISBench.info.expected.values()) == 52_472


def test_every_sentence_means_its_target_alone(root: Path) -> None:
    data = RISBench(root)
    for split in SPLITS:
        for i, record in enumerate(data.records(split)):
            made = draw_referent(SMALL, split, i, groups=False)
            assert record.sentences == (made.sentence,)
            assert made.members == (made.scene.target,) == referents(made.scene)
            np.testing.assert_array_equal(data.read_mask(record), made.scene.mask(made.scene.target))


def test_equal_configs_give_equal_bytes_and_more_samples_keep_the_first(tmp_path: Path) -> None:
    for name, config in (("a", SMALL), ("b", SMALL), ("more", SyntheticConfig(train=6, val=4, test=3, size=48))):
        RISBench.write_synthetic(tmp_path / name, config)
    files = [p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*")]
    assert len(files) == 3 + 2 * 9
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    pixels = [f for f in files if f.suffix == ".png"]
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "more" / f).read_bytes() for f in pixels)


def test_quirks_are_there_and_found(tmp_path: Path) -> None:
    RISBench.write_synthetic(tmp_path, SyntheticConfig(train=3, val=1, test=1, size=48, quirks=True))
    data = RISBench(tmp_path)
    assert set(data.check().problems) == {"empty masks", "mask values 1 to 50", "size mismatches"}
    with Image.open(data.records("train")[2].mask) as mask:
        assert mask.mode == "RGB"
