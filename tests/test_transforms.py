"""Preprocessing against the published implementation's numbers; black boxes; samples as tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from harness.data.base import ReferringDataset, SyntheticConfig
from harness.data.referring import ReferringSamples
from harness.data.rrsis_d import RrsisD
from harness.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    BlackBoxes,
    black_out,
    box_side,
    draw_black_box_refs,
    normalise,
    resize_image,
    resize_mask,
)
from harness.errors import DataError

PARITY = Path(__file__).resolve().parents[2] / "shared/data/parity/preprocess_blackbox_free.npz"
ALWAYS = BlackBoxes(fraction=1.0, min_count=3, max_count=5, size=4)


def encode(sentence: str) -> tuple[list[int], list[int]]:
    """Lengths of the words, padded to 8."""
    ids = [len(word) for word in sentence.split()][:8]
    return ids + [0] * (8 - len(ids)), [1] * len(ids) + [0] * (8 - len(ids))


class ManySentences:
    """A dataset of three records with 1, 2 and 3 sentences."""

    def __init__(self, data: RrsisD) -> None:
        self._data = data

    def __getattr__(self, name: str) -> object:
        return getattr(self._data, name)

    def records(self, split: str) -> list[object]:
        """Records whose sentences carry their number."""
        found = []
        for i, record in enumerate(self._data.records(split)[:3]):
            values = {**record.__dict__, "sentences": tuple(f"record {i} sentence {n}" for n in range(i + 1))}
            found.append(type(record)(**values))
        return found


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> RrsisD:
    root = tmp_path_factory.mktemp("rrsis_d")
    RrsisD.write_synthetic(root, SyntheticConfig(train=10, val=5, test=3, size=48))
    return RrsisD(root)


def samples(data: ReferringDataset, split: str = "train", **options: object) -> ReferringSamples:
    return ReferringSamples(data, split, **{"image_size": 32, "encode": encode, **options})  # type: ignore[arg-type]


# Pixels


@pytest.mark.skipif(not PARITY.is_file(), reason="reference tensors of the published implementation are not here")
def test_preprocessing_matches_the_published_implementation() -> None:
    stored = np.load(PARITY, allow_pickle=False)
    image, mask = resize_image(stored["in/image"], 96), resize_mask(stored["in/mask"], 96)
    np.testing.assert_array_equal(image, stored["out/image_resized"])
    np.testing.assert_array_equal(mask, stored["out/mask_resized"])
    np.testing.assert_array_equal(mask, stored["out/target"])
    np.testing.assert_allclose(normalise(image), stored["out/image_normalised"], atol=4e-7, rtol=0)


def test_normalised_images_are_channels_first() -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    image[0, 1] = (255, 0, 255)
    found = normalise(image)
    assert (found.shape, found.dtype) == ((3, 2, 2), np.float32)
    np.testing.assert_allclose(found[:, 0, 1], [(1 - 0.485) / 0.229, -0.456 / 0.224, (1 - 0.406) / 0.225], atol=1e-6)


def test_normalisation_is_the_published_arithmetic_to_the_last_bit() -> None:
    image = np.random.default_rng(0).integers(0, 256, (17, 13, 3), dtype=np.uint8)
    mean, std = np.array(IMAGENET_MEAN, np.float32), np.array(IMAGENET_STD, np.float32)
    published = ((image.astype(np.float32) / np.float32(255) - mean) / std).transpose(2, 0, 1)
    found = normalise(image)
    np.testing.assert_array_equal(found, published)
    assert found.flags.c_contiguous
    planes = np.ascontiguousarray(image.transpose(2, 0, 1)).transpose(1, 2, 0)
    np.testing.assert_array_equal(normalise(planes), published)


# Black boxes


def test_a_fixed_share_of_the_records_gets_boxes() -> None:
    chosen = draw_black_box_refs(12_181, 0.2, np.random.default_rng(0))
    assert len(chosen) == len(set(chosen.tolist())) == 2436
    assert 0 <= chosen.min() < chosen.max() < 12_181
    assert draw_black_box_refs(5, 0.0, np.random.default_rng(0)).size == 0
    np.testing.assert_array_equal(draw_black_box_refs(5, 1.0, np.random.default_rng(0)), np.arange(5))


def test_boxes_on_a_full_size_image_are_32_pixels_and_inside() -> None:
    image = np.full((800, 800, 3), 255, np.uint8)
    one = BlackBoxes(min_count=1, max_count=1)
    for seed in range(5):
        covered = black_out(image, one, np.random.default_rng(seed))
        assert (covered == 0).all(axis=2).sum() == 32 * 32
    assert image.min() == 255


def test_the_number_of_boxes_covers_its_range_with_both_ends() -> None:
    image = np.full((64, 400, 3), 255, np.uint8)
    boxes = BlackBoxes(min_count=0, max_count=1, size=1)
    covered = [int((black_out(image, boxes, np.random.default_rng(s)) == 0).sum()) for s in range(400)]
    assert 0 in covered
    assert 3 in covered


def test_small_images_get_boxes_of_the_published_share() -> None:
    assert [box_side(BlackBoxes(), w) for w in (800, 256, 255, 100, 64, 20, 1)] == [32, 32, 10, 4, 2, 1, 1]
    covered = black_out(np.full((64, 64, 3), 255, np.uint8), BlackBoxes(), np.random.default_rng(0))
    assert 0.01 < (covered == 0).mean() < 0.15
    assert black_out(np.full((1, 1, 3), 9, np.uint8), BlackBoxes(), np.random.default_rng(0)).sum() == 0


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"fraction": 1.5}, "fraction must be in 0..1"),
        ({"min_count": 5, "max_count": 4}, "min_count <= max_count"),
        ({"size": 0}, "at least 1 pixel"),
    ],
)
def test_impossible_boxes_are_refused(values: dict[str, float], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        BlackBoxes(**values)  # type: ignore[arg-type]


# Samples


def test_a_sample_is_what_models_expect(data: RrsisD) -> None:
    sample = samples(data)[3]
    shapes = {name: (tuple(t.shape), t.dtype) for name, t in sample.items()}
    assert shapes == {
        "image": ((3, 32, 32), torch.float32),
        "target": ((32, 32), torch.int64),
        "tokens": ((8,), torch.int64),
        "token_mask": ((8,), torch.int64),
        "index": ((), torch.int64),
    }
    assert sample["target"].unique().tolist() == [0, 1]
    assert int(sample["index"]) == 3


def test_batches_are_the_same_with_and_without_worker_processes(data: RrsisD) -> None:
    made = samples(data, augment_seed=1, black_boxes=ALWAYS)
    made.set_epoch(2)
    alone, shared = (next(iter(DataLoader(made, batch_size=10, num_workers=n))) for n in (0, 1))
    for name, tensor in alone.items():
        assert torch.equal(tensor, shared[name]), name


def test_boxes_follow_from_seed_epoch_and_index(data: RrsisD) -> None:
    first, second = (samples(data, augment_seed=7, black_boxes=ALWAYS) for _ in range(2))
    second[5]
    assert torch.equal(first[4]["image"], second[4]["image"])
    before = first[4]["image"]
    first.set_epoch(1)
    assert not torch.equal(first[4]["image"], before)
    first.set_epoch(0)
    assert torch.equal(first[4]["image"], before)
    other = samples(data, augment_seed=8, black_boxes=ALWAYS)
    assert not torch.equal(other[4]["image"], before)


def test_only_the_drawn_share_is_covered_and_masks_stay(data: RrsisD) -> None:
    plain = samples(data, augment_seed=7)
    boxed = samples(data, augment_seed=7, black_boxes=BlackBoxes(fraction=0.3))
    for epoch in (0, 1):
        boxed.set_epoch(epoch)
        changed = [i for i in range(10) if not torch.equal(plain[i]["image"], boxed[i]["image"])]
        assert len(changed) == 3
        assert all(torch.equal(plain[i]["target"], boxed[i]["target"]) for i in range(10))


def test_boxes_without_a_seed_are_refused(data: RrsisD) -> None:
    with pytest.raises(ValueError, match="augment_seed"):
        samples(data, black_boxes=ALWAYS)


def test_an_empty_split_is_refused(data: RrsisD) -> None:
    class Empty(ManySentences):
        def records(self, split: str) -> list[object]:  # noqa: ARG002
            return []

    with pytest.raises(DataError, match="split 'val' must hold a sample"):
        samples(Empty(data), "val")  # type: ignore[arg-type]


def test_evaluation_shows_every_sentence_and_training_one(data: RrsisD) -> None:
    many = ManySentences(data)
    shown = samples(many)  # type: ignore[arg-type]
    assert [shown.sentence(i) for i in range(len(shown))] == [
        f"record {i} sentence {n}" for i in range(3) for n in range(i + 1)
    ]
    keys = [shown.describe(i)["key"] for i in range(6)]
    assert len(set(keys)) == 6
    assert [key.rpartition("#")[2] for key in keys[1:]] == ["0", "1", "0", "1", "2"]
    assert keys[0] == data.records("train")[0].key
    training = samples(many, augment_seed=0)  # type: ignore[arg-type]
    assert len(training) == 3
    seen = set()
    for epoch in range(30):
        training.set_epoch(epoch)
        seen.add(training.sentence(2))
    assert seen == {f"record 2 sentence {n}" for n in range(3)}


@pytest.mark.parametrize("seed", range(5))
def test_shuffled_sentences_are_somebody_elses(data: RrsisD, seed: int) -> None:
    plain = samples(ManySentences(data))  # type: ignore[arg-type]
    shuffled = plain.shuffle_sentences(seed)
    own = [plain.sentence(i).split()[1] for i in range(6)]
    new = [shuffled.sentence(i).split()[1] for i in range(6)]
    assert all(a != b for a, b in zip(own, new, strict=True))
    assert set(new) == {"0", "1", "2"}
    assert new == [plain.shuffle_sentences(seed).sentence(i).split()[1] for i in range(6)]
    assert [shuffled.describe(i)["key"] for i in range(6)] == [plain.describe(i)["key"] for i in range(6)]
    assert torch.equal(shuffled[4]["target"], plain[4]["target"])


def test_one_record_cannot_be_shuffled(tmp_path: Path) -> None:
    RrsisD.write_synthetic(tmp_path, SyntheticConfig(train=1, val=1, test=1, size=32))
    with pytest.raises(DataError, match="two or more records"):
        samples(RrsisD(tmp_path)).shuffle_sentences(0)
