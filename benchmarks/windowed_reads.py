"""Random 512 x 512 windows of optical, radar and label rasters: reads per second and memory, against bare rasterio.

    python -m benchmarks.windowed_reads

Scenes of 5556 x 3704 pixels in WHU-OPT-SAR's layout: four optical bands and one radar band of uint8, labels of uint8.
One read is a window of all three. The bare side keeps its files open, reads the same bands in the same order with
`rasterio.DatasetReader.read`, converts optical and radar with `astype(float32)` and leaves labels as they are stored.
The harness does the same through `WhuOptSar.read` and `read_label`, which also look whether a file has changed, check
the window, mind no-data values and turn label codes into class indices. GDAL caches 128 MB per process on both sides.
The harness must give at least 0.9 of the bare side's reads per second.

Both sides have the same number of processes, all new in every pass, and the same windows; passes alternate, and the
median of the ratios of neighbouring passes counts, by the clock and, for machines that others use too, by CPU time. The
generated pattern repeats and compresses well, which makes bare reads fast. Scenes are stored in three ways, because it
is not known how users store theirs. At last the same windows are read from scenes with four times the pixels: a
reader's peak memory must stay the same.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.data.base import SyntheticConfig
from harness.data.raster import raster_info, read_bands
from harness.data.semantic import IGNORED, Window
from harness.data.whu_opt_sar import CLASSES, OFFICIAL, WhuOptSar

import rasterio  # isort: skip  # after harness.data.raster, which limits GDAL's cache
import rasterio.windows

HEIGHT, WIDTH, SIDE, NUM_SCENES = 3704, 5556, 512, 4
TARGET = 0.9
MAX_GROWTH = 1.1
STORED: dict[str, dict[str, Any]] = {
    "deflate, rows": {"compress": "deflate"},
    "plain, rows": {},
    "plain, 256 tiles": {"tiled": True, "blockxsize": 256, "blockysize": 256},
}

Arrays = list[NDArray[Any]]
Read = Callable[[int, Window], Arrays]
"""Scene and window -> optical `(4, h, w)`, radar `(1, h, w)`, label `(h, w)`."""


class Job(NamedTuple):
    """One window to read."""

    scene: int
    window: Window


class Measured(NamedTuple):
    """What one process needed."""

    wall_s: float
    cpu_s: float
    peak_mib: float


def write_scenes(root: Path, profile: dict[str, Any], factor: int = 1) -> None:
    """Scenes of the training split, each side `factor` times as long: a small one repeated, the others hard links."""
    first, *others = OFFICIAL["train"][:NUM_SCENES]
    with tempfile.TemporaryDirectory() as small:
        WhuOptSar.write_synthetic(Path(small), SyntheticConfig(train=1, val=1, test=1, size=SIDE))
        for part in ("optical", "sar", "lbl"):
            path = Path(small) / part / f"{first}.tif"
            info = raster_info(path)
            values = read_bands(path, Window(0, 0, info.height, info.width), range(1, info.num_bands + 1))
            height, width = HEIGHT * factor, WIDTH * factor
            times = (1, -(-height // info.height), -(-width // info.width))
            written = root / part / f"{first}.tif"
            written.parent.mkdir(parents=True)
            about = {"driver": "GTiff", "height": height, "width": width, "count": len(values), "dtype": "uint8"}
            with rasterio.open(written, "w", **about, **profile) as target:
                target.write(np.tile(values, times)[:, :height, :width])
            for name in others:
                os.link(written, written.with_name(f"{name}.tif"))


def draw_jobs(num: int, seed: int) -> list[Job]:
    """Random windows of random scenes, all inside the smaller size."""
    rng = np.random.default_rng(seed)
    scenes, rows, columns = (rng.integers(0, most, num) for most in (NUM_SCENES, HEIGHT - SIDE, WIDTH - SIDE))
    return [Job(int(s), Window(int(r), int(c), SIDE, SIDE)) for s, r, c in zip(scenes, rows, columns, strict=True)]


def open_bare(root: Path) -> Read:
    """The plain side."""
    names = sorted(OFFICIAL["train"][:NUM_SCENES])
    files = [[rasterio.open(root / part / f"{name}.tif") for part in ("optical", "sar", "lbl")] for name in names]

    def read(scene: int, window: Window) -> Arrays:
        optical, radar, label = files[scene]
        part = rasterio.windows.Window(window.column, window.row, window.width, window.height)
        return [
            optical.read([3, 2, 1, 4], window=part).astype(np.float32),
            radar.read([1], window=part).astype(np.float32),
            label.read(1, window=part),
        ]

    return read


def open_harness(root: Path) -> Read:
    """Our side."""
    data = WhuOptSar(root)
    tiles = sorted(data.tiles("train"), key=lambda tile: tile.key)

    def read(scene: int, window: Window) -> Arrays:
        return [*data.read(tiles[scene], window).values(), data.read_label(tiles[scene], window)]

    return read


SIDES: dict[str, Callable[[Path], Read]] = {"bare rasterio": open_bare, "harness": open_harness}


def work(side: str, root: Path, jobs: Sequence[Job], barrier: Any, found: Any) -> None:
    """A process: open, read one window of every scene, wait for the others, read the windows."""
    read = SIDES[side](root)
    for scene in range(NUM_SCENES):
        read(scene, Window(0, 0, SIDE, SIDE))
    barrier.wait()
    wall, cpu = time.perf_counter(), time.process_time()
    for job in jobs:
        read(job.scene, job.window)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    found.put(Measured(wall, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def apart(function: Callable[..., None], *arguments: Any) -> None:
    """Call it in a process of its own: the peak memory of this one would be passed on to all that it starts."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{function.__name__} has failed")


def run_pass(side: str, root: Path, options: argparse.Namespace) -> list[Measured]:
    """What every process of a pass needed."""
    context = multiprocessing.get_context("spawn")
    barrier, found = context.Barrier(options.workers), context.Queue()
    processes = [
        context.Process(target=work, args=(side, root, draw_jobs(options.windows, seed), barrier, found))
        for seed in range(options.workers)
    ]
    for process in processes:
        process.start()
    measured = [found.get() for _ in processes]
    for process in processes:
        process.join()
    return measured


def check_equal(root: Path) -> None:
    """Raise unless both sides give the same pixels and the harness the class of every code."""
    bare, ours = open_bare(root), open_harness(root)
    for job in draw_jobs(8, seed=99):
        (optical, radar, codes), found = bare(*job), ours(*job)
        classes = np.full(256, IGNORED, np.uint8)
        classes[[10 * (c.index + 1) for c in CLASSES]] = [c.index for c in CLASSES]
        for expected, got in zip((optical, radar, classes[codes]), found, strict=True):
            if expected.dtype != got.dtype or not np.array_equal(expected, got):
                raise AssertionError(f"{job}: both sides must give the same")


def compare(name: str, root: Path, options: argparse.Namespace) -> float:
    """Print the reads per second of both sides and their ratios; that by the clock."""
    apart(check_equal, root)
    rates: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
    for number in range(options.passes):
        for side in list(SIDES)[:: 1 if number % 2 else -1]:
            measured = run_pass(side, root, options)
            total = options.windows * options.workers
            rate = (total / max(m.wall_s for m in measured), total / sum(m.cpu_s for m in measured))
            rates[side].append(rate)
    for side, found in rates.items():
        wall, cpu = (statistics.median(values) for values in zip(*found, strict=True))
        print(f"{name:18}{side:15}{wall:10.1f}{cpu:12.1f}")
    pairs = np.array(rates["harness"]) / np.array(rates["bare rasterio"])  # passes x (wall, CPU)
    wall, cpu = np.median(pairs, axis=0)
    low, high = pairs[:, 0].min(), pairs[:, 0].max()
    print(f"{name:18}{'ratio':15}{wall:10.2f}{cpu:12.2f}   by the clock {low:.2f} to {high:.2f}", flush=True)
    return float(wall)


def main() -> None:
    """Generate, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--windows", type=int, default=150, help="windows per process and pass")
    parser.add_argument("--workers", type=int, default=2, help="processes that read at the same time")
    parser.add_argument("--passes", type=int, default=7, help="passes per side, alternating")
    options = parser.parse_args()
    print(f"{options.workers} processes, {options.windows} windows each, load {os.getloadavg()[0]:.1f}")
    print(f"{'stored':18}{'side':15}{'reads/s':>10}{'reads/CPU s':>12}")
    with tempfile.TemporaryDirectory() as folder:
        roots = {name: Path(folder) / str(number) for number, name in enumerate(STORED)}
        ratios = {}
        for name, root in roots.items():
            apart(write_scenes, root, STORED[name])
            ratios[name] = compare(name, root, options)
        large = Path(folder) / "large"
        first = next(iter(STORED))
        apart(write_scenes, large, STORED[first], 2)
        peaks = {
            side: [max(m.peak_mib for m in run_pass(side, root, options)) for root in (roots[first], large)]
            for side in SIDES
        }
    for side, (one, four) in peaks.items():
        print(f"peak memory of a process, {side}: {one:.0f} MiB, from scenes with 4 times the pixels {four:.0f} MiB")
    for name, ratio in ratios.items():
        print(f"{name}: ratio {ratio:.2f}, target {TARGET}: {'reached' if ratio >= TARGET else 'MISSED'}")
    one, four = peaks["harness"]
    grown = four / one
    print(f"memory: {grown:.2f} times, at most {MAX_GROWTH}: {'reached' if grown <= MAX_GROWTH else 'MISSED'}")


if __name__ == "__main__":
    main()
