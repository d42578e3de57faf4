"""Generated data: sentences that mean one object, equal bytes, first use by several processes at once."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.data.base import SPLITS, SyntheticConfig
from harness.data.rrsis_d import RrsisD
from harness.data.scenes import COLOURS, MIN_AREA_RATIO, NOUNS, Scene, draw_scene, referents
from harness.data.synthetic import GENERATOR_VERSION, MARKER, ensure_synthetic, open_dataset, synthetic_fingerprint
from harness.errors import DataError, UnknownNameError

TINY = SyntheticConfig(train=3, val=2, test=2, size=32)
HALVES = {"left": (0, -1), "right": (0, 1), "top": (1, -1), "upper": (1, -1), "bottom": (1, 1), "lower": (1, 1)}


def scenes(size: int, count: int = 150) -> list[Scene]:
    return [draw_scene(SyntheticConfig(size=size), "train", i) for i in range(count)]


def tree(root: Path) -> dict[str, str]:
    """Path -> hash of every file."""
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def meant_by(scene: Scene) -> list[int]:
    """The objects that the sentence fits, read word by word without the scene's own notes about it."""
    words = scene.sentence.lower().removeprefix("the ")
    found = [i for i, o in enumerate(scene.objects) if NOUNS[o.category] in words]
    areas = [int(scene.mask(i).sum()) for i in range(len(scene.objects))]
    for colour in COLOURS:
        if words.startswith(colour + " "):
            found = [i for i in found if scene.objects[i].colour == colour]
    for word, sign in (("large", 1), ("small", -1)):
        if words.startswith(word):
            found = [max(found, key=lambda i: sign * areas[i])]
    centre = scene.size / 2
    for word, (axis, sign) in HALVES.items():
        if word in words.split():
            found = [i for i in found if ((scene.objects[i].x, scene.objects[i].y)[axis] - centre) * sign > 0]
    if words.endswith("middle"):
        offset = [max(abs(o.x - centre), abs(o.y - centre)) for o in scene.objects]
        found = [i for i in found if offset[i] < 0.2 * scene.size]
    return found


# Scenes


@pytest.mark.parametrize("size", [32, 64, 96])
def test_every_sentence_means_its_target_and_nothing_else(size: int) -> None:
    for scene in scenes(size):
        assert meant_by(scene) == [scene.target] == list(referents(scene)), scene


def test_a_sentence_of_another_object_is_noticed() -> None:
    for scene in scenes(64, 40):
        wrong = replace(scene, target=(scene.target + 1) % len(scene.objects))
        same_class = wrong.objects[wrong.target].category == scene.objects[scene.target].category
        if same_class:
            assert referents(wrong) != (wrong.target,)


def test_look_alikes_make_the_sentence_matter() -> None:
    made = scenes(64, 400)
    kinds = Counter(s.kind for s in made)
    assert kinds["colour"] / len(made) == pytest.approx(0.6, abs=0.08)
    assert set(kinds) == {"colour", "position", "size", "category"}
    for scene in made:
        target = scene.objects[scene.target]
        alike = [o for i, o in enumerate(scene.objects) if o.category == target.category and i != scene.target]
        assert (scene.kind == "category") == (not alike)
        assert len(alike) <= 3
        ratios = [max(o.side, target.side) ** 2 / min(o.side, target.side) ** 2 for o in alike]
        assert all(r >= MIN_AREA_RATIO if scene.kind == "size" else r < 1.3 for r in ratios)
    assert sum(s.target == 0 for s in made) < 0.6 * len(made)


@pytest.mark.parametrize("size", [32, 64, 96])
def test_objects_are_large_enough_apart_and_inside(size: int) -> None:
    for scene in scenes(size, 60):
        masks = np.stack([scene.mask(i) for i in range(len(scene.objects))])
        assert masks.sum(axis=0).max() == 1
        for mask, item in zip(masks, scene.objects, strict=True):
            assert 0.1 <= item.side / size <= 0.25
            assert mask.sum() >= 0.3 * item.side**2
            assert mask.sum() == mask[1:-1, 1:-1].sum()


def test_more_samples_keep_the_first_ones(tmp_path: Path) -> None:
    RrsisD.write_synthetic(tmp_path / "few", TINY)
    RrsisD.write_synthetic(tmp_path / "many", replace(TINY, train=5))
    few, many = (RrsisD(tmp_path / name) for name in ("few", "many"))
    for split in SPLITS:
        for a, b in zip(few.records(split), many.records(split), strict=False):
            assert a.sentences == b.sentences
            np.testing.assert_array_equal(few.read_image(a), many.read_image(b))


def test_generated_scenes_belong_to_the_generator_version() -> None:
    """When this fails, what a config generates has changed: raise GENERATOR_VERSION and pin the new pair."""
    told = [(s.sentence, [o.outline() for o in s.objects]) for s in scenes(64, 50)]
    assert (GENERATOR_VERSION, hashlib.sha256(json.dumps(told).encode()).hexdigest()[:12]) == (1, "615fa689dd1f")


# Files


@pytest.mark.parametrize("quirks", [False, True])
def test_equal_configs_give_equal_bytes(tmp_path: Path, quirks: bool) -> None:
    for name in ("a", "b"):
        RrsisD.write_synthetic(tmp_path / name, replace(TINY, quirks=quirks))
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert len(tree(tmp_path / "a")) == 2 * 7 + 2


@pytest.mark.parametrize("change", [{"seed": 1}, {"size": 48}, {"val": 3}, {"quirks": True}])
def test_every_field_changes_what_is_generated(tmp_path: Path, change: dict[str, int]) -> None:
    RrsisD.write_synthetic(tmp_path / "a", TINY)
    RrsisD.write_synthetic(tmp_path / "b", replace(TINY, **change))  # type: ignore[arg-type]
    assert tree(tmp_path / "a") != tree(tmp_path / "b")
    assert RrsisD(tmp_path / "a").fingerprint() != RrsisD(tmp_path / "b").fingerprint()
    assert synthetic_fingerprint("rrsis_d", TINY) != synthetic_fingerprint("rrsis_d", replace(TINY, **change))  # type: ignore[arg-type]


def test_files_hold_what_the_published_ones_hold(tmp_path: Path) -> None:
    RrsisD.write_synthetic(tmp_path, TINY)
    assert (tmp_path / "rrsisd/refs(unc).p").read_bytes()[:2] == b"\x80\x02"
    assert (tmp_path / "images/rrsisd/ann_split/00011.xml").read_text().count("<segmentation>") == 1
    instances = json.loads((tmp_path / "rrsisd/instances.json").read_text())
    assert len(instances["categories"]) == 20
    assert "categories_id" in instances["annotations"][0]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"val": 0}, "1 or more samples"),
        ({"train": 100_000}, "at most 90000"),
        ({"size": 31}, "32 to 4096 pixels, got 31"),
        ({"seed": -1}, "at least 0, got -1"),
        ({"train": 2, "quirks": True}, "3 or more training samples, got 2"),
    ],
)
def test_impossible_configs_are_refused(tmp_path: Path, change: dict[str, int], match: str) -> None:
    with pytest.raises(DataError, match=match):
        ensure_synthetic("rrsis_d", tmp_path / "x", replace(TINY, **change))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


# First use


def test_a_dataset_is_made_once_and_found_again(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "rrsis_d"
    assert ensure_synthetic("rrsis_d", root, TINY) == root
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    data = open_dataset("rrsis_d", root=root, synthetic=TINY)
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before
    assert [len(data.records(s)) for s in SPLITS] == [3, 2, 2]
    assert [p.name for p in root.parent.iterdir()] == ["rrsis_d"]
    assert len(open_dataset("rrsis_d", root=root, synthetic=None).records("train")) == 3


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    ensure_synthetic("rrsis_d", tmp_path, TINY)
    assert (tmp_path / MARKER).is_file()


def test_another_config_is_never_written_over(tmp_path: Path) -> None:
    ensure_synthetic("rrsis_d", tmp_path / "x", TINY)
    before = tree(tmp_path / "x")
    with pytest.raises(DataError, match=r"must hold the dataset generated from .*\"seed\": 5.*choose another folder"):
        ensure_synthetic("rrsis_d", tmp_path / "x", replace(TINY, seed=5))
    assert tree(tmp_path / "x") == before


@pytest.mark.parametrize("make_file", [False, True])
def test_foreign_content_is_never_written_over(tmp_path: Path, make_file: bool) -> None:
    root = tmp_path / "x"
    if make_file:
        root.write_text("mine")
    else:
        root.mkdir()
        (root / "thesis.tex").write_text("mine")
    with pytest.raises(DataError, match="got a file" if make_file else "must be empty .* got thesis.tex"):
        ensure_synthetic("rrsis_d", root, TINY)
    assert (root if make_file else root / "thesis.tex").read_text() == "mine"


def test_a_damaged_marker_is_named(tmp_path: Path) -> None:
    (tmp_path / MARKER).write_text("{")
    with pytest.raises(DataError, match=r"synthetic\.json: must be valid JSON"):
        ensure_synthetic("rrsis_d", tmp_path, TINY)


def test_a_parent_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="must be a folder one can write to"):
        ensure_synthetic("rrsis_d", tmp_path / "file" / "x", TINY)


def test_unknown_datasets_get_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'rrsis_d'"):
        open_dataset("rrsisd", root=tmp_path, synthetic=None)


def _make(root: Path, results: multiprocessing.Queue[str]) -> None:
    try:
        ensure_synthetic("rrsis_d", root, TINY)
        results.put(RrsisD(root).fingerprint())
    except Exception as error:  # noqa: BLE001 - the test shows it
        results.put(repr(error))


def test_several_processes_may_be_first(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    results: multiprocessing.Queue[str] = context.Queue()
    workers = [context.Process(target=_make, args=(tmp_path / "shared", results)) for _ in range(4)]
    for worker in workers:
        worker.start()
    found = {results.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join(timeout=60)
    assert found == {RrsisD(tmp_path / "shared").fingerprint()}
    assert [p.name for p in tmp_path.iterdir()] == ["shared"]


def test_fingerprint_is_known_without_generating() -> None:
    assert synthetic_fingerprint("rrsis_d", TINY) == synthetic_fingerprint("rrsis_d", replace(TINY))
    assert synthetic_fingerprint("rrsis_d", TINY) != synthetic_fingerprint("refsegrs", TINY)
