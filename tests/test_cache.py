"""The cache of decoded samples: equal pixels, many processes, crashes, a budget that holds."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import pickle
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from harness.data import cache, cache_folder
from harness.data.base import DATASETS, ReferringDataset, ReferringRecord, SyntheticConfig
from harness.data.cache import CacheShape, Pixels, SampleCache, open_cache
from harness.data.cache_folder import GIB, CacheFolder, NoRoomError, default_folder
from harness.data.referring import BlackBoxes, ReferringSamples
from harness.data.rrsis_d import RrsisD
from harness.data.transforms import black_out, resize_image
from harness.errors import DataError

FORK = multiprocessing.get_context("fork")
SHAPE = CacheShape(num_samples=12, size=20)
BOXES = BlackBoxes(fraction=0.5, min_count=3, max_count=9, size=5)
MIB = 2**20 / GIB


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> RrsisD:
    root = tmp_path_factory.mktemp("rrsis_d")
    RrsisD.write_synthetic(root, SyntheticConfig(train=12, val=4, test=3, size=64, quirks=True))
    return RrsisD(root)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The node's cache folder, for one test; what was said once may be said again."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    cache_folder.say_once.cache_clear()
    return tmp_path / "cache"


def encode(sentence: str) -> tuple[list[int], list[int]]:
    return [len(sentence)], [1]


def open_samples(
    data: ReferringDataset, split: str = "train", *, gib: float = 1.0, **options: object
) -> ReferringSamples:
    made = ReferringSamples(data, split, **{"image_size": 40, "encode": encode, **options})  # type: ignore[arg-type]
    made.use_cache(fingerprint="f", gib=gib)
    return made


def boxed(data: ReferringDataset, *, gib: float, seed: int = 7) -> ReferringSamples:
    return open_samples(data, gib=gib, augment_seed=seed, black_boxes=BOXES)


def all_equal(a: ReferringSamples, b: ReferringSamples) -> bool:
    return all(torch.equal(a[i][name], b[i][name]) for i in range(len(a)) for name in a[i])


def count_reads(data: RrsisD, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of the images that are decoded from now on."""
    reads: list[str] = []
    read_image = data.read_image

    def read(record: ReferringRecord) -> NDArray[np.uint8]:
        reads.append(record.key)
        return read_image(record)

    monkeypatch.setattr(data, "read_image", read)
    return reads


def pixels(index: int, size: int = SHAPE.size) -> Pixels:
    rng = np.random.default_rng(index)
    return Pixels(rng.integers(0, 256, (size, size, 3), np.uint8), rng.integers(0, 2, (size, size), np.uint8))


def whole(index: int) -> NDArray[np.uint8]:
    """An image whose size depends on the index."""
    return np.random.default_rng([index, 1]).integers(0, 256, (30 + index, 33, 3), np.uint8)


def opened(name: str = "x", *, mib: float = 64, shape: CacheShape = SHAPE) -> SampleCache:
    found = open_cache(name, shape, gib=mib * MIB)
    assert found is not None
    return found


def entries(folder: Path) -> list[str]:
    return sorted(p.name.partition("-")[0] for p in folder.glob("*.samples"))


# Equal pixels


@pytest.mark.parametrize("name", ["refsegrs", "risbench", "rrsis_d"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_samples_are_the_same_with_and_without(name: str, split: str, tmp_path: Path, folder: Path) -> None:
    DATASETS.get(name).write_synthetic(tmp_path / "d", SyntheticConfig(train=5, val=2, test=3, size=48, quirks=True))
    made = DATASETS.get(name)(tmp_path / "d")
    plain, cold = open_samples(made, split, gib=0), open_samples(made, split)
    assert all_equal(plain, cold)
    assert all_equal(plain, open_samples(made, split))
    assert entries(folder) == [split]


def test_black_boxes_are_the_same_with_and_without(data: RrsisD) -> None:
    for seed in (7, 8, 9):
        plain, cached = boxed(data, gib=0, seed=seed), boxed(data, gib=1, seed=seed)
        for epoch in (0, 1, 2):
            plain.set_epoch(epoch)
            cached.set_epoch(epoch)
            assert all_equal(plain, cached)


def test_boxes_on_kept_images_equal_decode_box_resize() -> None:
    """The kept full-resolution image goes the published way: box, then resize, for many sizes and draws."""
    made = opened()
    for case in range(60):
        rng = np.random.default_rng([case, 5])
        height, width, size = (int(v) for v in rng.integers(8, 90, 3))
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        if case < SHAPE.num_samples:
            made.write_whole(case, image)
            kept = made.read_whole(case)
            assert kept is not None
            found, wanted = (
                resize_image(black_out(x, BOXES, np.random.default_rng(case)), size) for x in (kept, image)
            )
            np.testing.assert_array_equal(found, wanted)
            with pytest.raises(ValueError, match="read-only"):
                kept[0, 0] = 0


@pytest.mark.parametrize("size", [1, 7, 20, 33])
def test_what_is_written_is_read(size: int) -> None:
    made = opened(shape=CacheShape(5, size))
    for i in (0, 4, 2):
        assert made.read(i) is None
        made.write(i, pixels(i, size))
    for i in range(5):
        found = made.read(i)
        if i in (1, 3):
            assert found is None
            continue
        assert found is not None
        np.testing.assert_array_equal(found.image, pixels(i, size).image)
        np.testing.assert_array_equal(found.mask, pixels(i, size).mask)


def test_masks_of_other_values_are_refused(data: RrsisD, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "read_mask", lambda record: np.full((64, 64), 255, np.uint8))  # noqa: ARG005
    with pytest.raises(DataError, match="mask of sample 11/0 must hold 0 and 1 only, got 255"):
        open_samples(data, gib=0)[0]


# Nothing is decoded twice


def test_later_epochs_and_trials_decode_nothing(
    data: RrsisD,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reads = count_reads(data, monkeypatch)
    first = boxed(data, gib=1)
    for epoch in (0, 1):
        first.set_epoch(epoch)
        for i in range(12):
            first[i]
        assert len(reads) == 12
    second = boxed(data, gib=1)
    for i in range(12):
        second[i]
    assert len(reads) == 12
    other_replicate = boxed(data, gib=1, seed=8)
    new = other_replicate._boxed - first._boxed
    for _ in range(2):
        for i in range(12):
            other_replicate[i]
        assert len(reads) == 12 + len(new)


def test_off_decodes_at_every_access_and_leaves_no_folder(
    data: RrsisD, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = count_reads(data, monkeypatch)
    made = boxed(data, gib=0)
    for _ in range(2):
        made[0]
    assert len(reads) == 2
    assert not folder.exists()


def test_worker_processes_fill_and_read_the_same_cache(
    data: RrsisD,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, plain = boxed(data, gib=1), boxed(data, gib=0)
    batches = list(DataLoader(made, batch_size=3, num_workers=2))
    reads = count_reads(data, monkeypatch)
    found = torch.cat([b["image"] for b in batches])
    assert torch.equal(found, torch.stack([made[i]["image"] for i in range(12)]))
    assert not reads
    assert torch.equal(found, torch.stack([plain[i]["image"] for i in range(12)]))


def test_pickled_samples_open_the_same_cache(data: RrsisD) -> None:
    made = boxed(data, gib=1)
    for i in range(12):
        made[i]
    copied = pickle.loads(pickle.dumps(made))
    assert copied._cache is not made._cache
    assert all(copied._cache.read(i) is not None for i in range(12))
    assert all_equal(made, copied)


def test_other_content_size_split_and_files_have_other_caches(data: RrsisD, folder: Path) -> None:
    open_samples(data)
    first = entries(folder)
    open_samples(data)
    assert len(entries(folder)) == len(first) == 1
    open_samples(data, image_size=41)
    open_samples(data, "val")
    made = ReferringSamples(data, "train", image_size=40, encode=encode)
    made.use_cache(fingerprint="other", gib=1)
    os.utime(data.records("train")[3].image)
    open_samples(data)
    assert len(entries(folder)) == 5


def test_a_restart_of_the_machine_begins_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    opened().write(0, pixels(0))
    (tmp_path / "boot").write_text("another")
    monkeypatch.setattr(cache, "_BOOT_ID", tmp_path / "boot")
    assert opened().read(0) is None


# Several processes


def run_together(work: Callable[[int], None], count: int) -> list[int]:
    """Exit codes of processes that start `work` at the same time."""
    barrier = FORK.Barrier(count)

    def start(number: int) -> None:
        barrier.wait(timeout=30)
        work(number)

    workers = [FORK.Process(target=start, args=(n,)) for n in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    return [-1 if worker.exitcode is None else worker.exitcode for worker in workers]


def test_many_processes_fill_one_cache_at_once(folder: Path) -> None:
    def work(number: int) -> None:
        made = opened()
        for i in np.random.default_rng(number).permutation(SHAPE.num_samples).tolist() * 5:
            kept, full = made.read(i), made.read_whole(i)
            assert kept is None or (kept.image == pixels(i).image).all()
            assert kept is None or (kept.mask == pixels(i).mask).all()
            assert full is None or (full == whole(i)).all()
            made.write(i, pixels(i))
            if full is None:
                made.write_whole(i, whole(i))

    assert run_together(work, 4) == [0] * 4
    made = opened()
    for i in range(SHAPE.num_samples):
        kept, full = made.read(i), made.read_whole(i)
        assert kept is not None
        assert full is not None
        np.testing.assert_array_equal(kept.image, pixels(i).image)
        np.testing.assert_array_equal(full, whole(i))
    assert entries(folder) == ["x"]


def die_in_write(number: int, work: Callable[[], None]) -> None:
    """Run `work` in a process that is killed after half of the bytes of its n-th write."""

    def start() -> None:
        pwrite, calls = os.pwrite, []

        def half(handle: int, data: memoryview, offset: int) -> int:
            calls.append(offset)
            if len(calls) < number:
                return pwrite(handle, data, offset)
            pwrite(handle, data[: len(data) // 2], offset)
            os.kill(os.getpid(), signal.SIGKILL)
            return 0

        os.pwrite = half  # type: ignore[assignment]
        work()

    worker = FORK.Process(target=start)
    worker.start()
    worker.join(timeout=30)
    assert worker.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("number", [1, 2])
def test_a_filler_that_dies_leaves_no_sample_that_counts(number: int) -> None:
    die_in_write(number, lambda: opened().write(3, pixels(99)))
    made = opened()
    assert made.read(3) is None
    made.write(3, pixels(3))
    found = made.read(3)
    assert found is not None
    np.testing.assert_array_equal(found.image, pixels(3).image)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_filler_that_dies_leaves_no_whole_image_that_counts(number: int) -> None:
    die_in_write(number, lambda: opened().write_whole(3, whole(10)))
    made = opened()
    assert made.read_whole(3) is None
    for i in (3, 4):
        made.write_whole(i, whole(i))
    for i in (3, 4):
        full = made.read_whole(i)
        assert full is not None
        np.testing.assert_array_equal(full, whole(i))


def test_a_maker_that_dies_is_no_obstacle(folder: Path) -> None:
    name = "half-made.samples"
    (folder / name).mkdir(parents=True)
    folder.chmod(0o700)
    (folder / name / "samples").write_bytes(b"")
    made = CacheFolder(folder, 100)
    assert made.open("half-made", {"samples": 60}).path.joinpath("samples").stat().st_size == 60
    (folder / ".1.samples-gone").mkdir()
    made.open("other", {"samples": 40})
    assert not (folder / ".1.samples-gone").exists()


# The budget


def test_the_oldest_unused_caches_make_room(folder: Path) -> None:
    made = CacheFolder(folder, 100)
    for age, name in enumerate(("a", "b", "c")):
        entry = made.open(name, {"f": 30})
        os.utime(entry.path / ".lock", (1000 + age, 1000 + age))
        os.close(entry.lock)
    used = made.open("a", {"f": 30})
    os.close(made.open("d", {"f": 30}).lock)
    assert entries(folder) == ["a.samples", "c.samples", "d.samples"]
    os.close(made.open("e", {"f": 70}).lock)
    assert entries(folder) == ["a.samples", "e.samples"]
    assert made.used() == 100
    os.close(used.lock)


def test_caches_in_use_stay_and_what_does_not_fit_changes_nothing(folder: Path) -> None:
    made = CacheFolder(folder, 100)
    used = made.open("used", {"f": 50})
    os.close(made.open("idle", {"f": 40}).lock)
    with pytest.raises(NoRoomError, match="more than what is in use leaves"):
        made.open("new", {"f": 60})
    with pytest.raises(NoRoomError, match=r"needs 9.41e-08 of 9.31e-08 GiB"):
        made.open("huge", {"f": 101})
    assert entries(folder) == ["idle.samples", "used.samples"]
    with pytest.raises(NoRoomError, match="more than what is in use leaves"):
        made.grow(used, "f", 101)
    made.grow(used, "f", 90)
    assert entries(folder) == ["used.samples"]
    assert (used.path / "f").stat().st_size == 90
    os.close(used.lock)


def test_a_cache_used_by_another_process_is_not_removed(folder: Path) -> None:
    ready, done = FORK.Event(), FORK.Event()

    def hold() -> None:
        entry = CacheFolder(folder, 100).open("held", {"f": 60})
        ready.set()
        done.wait(timeout=30)
        os.close(entry.lock)

    worker = FORK.Process(target=hold)
    worker.start()
    assert ready.wait(timeout=30)
    made = CacheFolder(folder, 100)
    with pytest.raises(NoRoomError, match="more than what is in use leaves"):
        made.open("new", {"f": 60})
    os.kill(worker.pid or 0, signal.SIGKILL)
    worker.join(timeout=30)
    made.open("new", {"f": 60})
    assert entries(folder) == ["new.samples"]


def test_a_cache_that_does_not_fit_is_not_used_and_that_is_said_once(
    data: RrsisD, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain, small = boxed(data, gib=0), boxed(data, gib=0.01 * MIB)
    assert all_equal(plain, small)
    boxed(data, gib=0.01 * MIB)
    said = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(said) == 1
    assert "raise resources.cache_gib" in said[0]
    assert not entries(folder)


def test_whole_images_take_a_bounded_share(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = opened(mib=0.04)
    for i in range(SHAPE.num_samples):
        made.write(i, pixels(i))
        made.write_whole(i, whole(i))
    kept = [i for i in range(SHAPE.num_samples) if made.read_whole(i) is not None]
    assert 0 < len(kept) < SHAPE.num_samples
    assert sum(whole(i).nbytes for i in kept) <= 0.02 * 2**20
    assert all(made.read(i) is not None for i in range(SHAPE.num_samples))
    assert sum("no more full-resolution images" in r.getMessage() for r in caplog.records) == 1
    assert CacheFolder(folder, 0).used() <= 0.04 * 2**20


def test_a_full_disk_is_no_error(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    made = opened()

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    for i in range(3):
        made.write(i, pixels(i))
        made.write_whole(i, whole(i))
        assert made.read(i) is None
        assert made.read_whole(i) is None
    assert [("No space left" in r.getMessage()) for r in caplog.records] == [True, True]


def test_a_disk_with_little_left_is_left_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = CacheFolder(folder, 10 * GIB)
    monkeypatch.setattr(cache_folder, "FREE_SHARE", 1.0)
    with pytest.raises(NoRoomError, match="more than what is in use leaves"):
        made.open("x", {"f": GIB})


def test_a_large_disk_that_is_nearly_full_still_holds_small_caches(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=10_000 * GIB, free=100))
    made = CacheFolder(folder, GIB)
    os.close(made.open("x", {"f": 50}).lock)
    with pytest.raises(NoRoomError, match=r"needs 9\.31e-08 GiB more"):
        made.grow(made.open("y", {"f": 10}), "f", 110)
    assert entries(folder) == ["x.samples", "y.samples"]


def test_a_folder_of_somebody_else_is_not_used(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    assert open_cache("x", SHAPE, gib=1) is None
    assert "belong to this user and be writable by nobody else" in caplog.text
    assert not list(folder.iterdir())


def test_a_folder_that_cannot_be_made_is_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder.write_text("a file")
    assert open_cache("x", SHAPE, gib=1) is None
    assert "set HARNESS_CACHE" in caplog.text


def test_nothing_but_caches_is_touched(folder: Path) -> None:
    (folder / "photos").mkdir(parents=True)
    folder.chmod(0o700)
    (folder / "photos" / "cat.jpg").write_bytes(b"x" * 200)
    made = CacheFolder(folder, 100)
    for name in "abcd":
        os.close(made.open(name, {"f": 90}).lock)
    assert entries(folder) == ["d.samples"]
    assert (folder / "photos" / "cat.jpg").exists()


def test_caches_are_private_and_can_be_deleted_while_used(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = opened()
    made.write(0, pixels(0))
    assert folder.stat().st_mode & 0o777 == 0o700
    shutil.rmtree(folder)
    assert made.read(0) is not None
    made.write_whole(0, whole(0))
    assert "no more full-resolution images" in caplog.text


def test_the_default_folder_is_this_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HARNESS_CACHE")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert default_folder() == tmp_path / f"harness-cache-{os.getuid()}"


def test_no_file_stays_open() -> None:
    before = len(os.listdir("/dev/fd"))  # noqa: PTH208 - a folder of descriptors, not of paths
    for _ in range(5):
        opened().write(0, pixels(0))
    gc.collect()
    assert len(os.listdir("/dev/fd")) == before  # noqa: PTH208
