"""CPU time and peak memory of a training step of MAFN, ours against the plain reference; ratios of one run.

    python -m benchmarks.mafn_step                      # the target: 480, batch 2, full size
    python -m benchmarks.mafn_step --size 96 --repeats 1  # a quick look

A step is forward and backward in training mode, drops included, in 32 bits with two threads. Every repetition builds a
model in a process of its own, takes one step to warm up and measures the next: user and system time of the process, and
the most memory it ever held. Repetitions alternate between the two sides, and the median counts. Outputs are compared
in evaluation mode, with our weights copied into the reference. Our step must take at most 0.6 of the reference's CPU
time and 0.7 of its memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.plain_mafn import PlainMafn, check_size, copy_weights, full_size
from models.layers.stochastic import seed_model_noise
from models.mafn import MAFN

THREADS, TOKENS = 2, 20
MAX_TIME, MAX_MEMORY, MAX_DIFFERENCE = 0.6, 0.7, 1e-4
SIDES = ("plain", "ours")


class Figure(NamedTuple):
    """What one process found."""

    cpu_s: float
    wall_s: float
    peak_gib: float


def make_batch(size: int, images: int) -> dict[str, Tensor]:
    """Noise for images, sentences of 20 and 11 tokens."""
    draws = torch.Generator().manual_seed(0)
    mask = torch.ones(images, TOKENS, dtype=torch.long)
    mask[1::2, 11:] = 0
    return {
        "image": torch.randn(images, 3, size, size, generator=draws),
        "tokens": torch.randint(5, 30_000, (images, TOKENS), generator=draws) * mask,
        "token_mask": mask,
    }


def build(side: str, size: int) -> tuple[torch.nn.Module, Callable[[dict[str, Tensor]], Tensor]]:
    """The model of a side and how to get logits from it."""
    torch.manual_seed(0)
    config, inputs = full_size(size)
    if side == "plain":
        plain = PlainMafn(config, inputs)
        return plain, plain
    ours = MAFN(config, inputs)
    return ours, lambda batch: ours(batch).logits


def cpu_seconds() -> float:
    """User and system time of this process, all threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measure(side: str, size: int, images: int) -> Figure:
    """Take two steps in this process and measure the second."""
    model, logits_of = build(side, size)
    model.train()
    batch = make_batch(size, images)
    target = torch.zeros(images, size, size, dtype=torch.long)
    target[:, size // 4 : size // 2, size // 4 : size // 2] = 1
    seed_model_noise(0)
    cpu, wall = 0.0, 0.0
    for _ in range(2):
        model.zero_grad(set_to_none=True)
        cpu, wall = cpu_seconds(), time.perf_counter()
        F.cross_entropy(logits_of(batch), target).backward()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return Figure(cpu_seconds() - cpu, time.perf_counter() - wall, peak)


@torch.inference_mode()
def compare(size: int, images: int) -> float:
    """Largest difference of the logits in evaluation mode, relative to the largest logit."""
    (ours, our_logits), (plain, plain_logits) = build("ours", size), build("plain", size)
    assert isinstance(ours, MAFN)
    assert isinstance(plain, PlainMafn)
    copy_weights(plain, ours)
    ours.eval()
    plain.eval()
    batch = make_batch(size, images)
    expected = plain_logits(batch)
    return float((our_logits(batch) - expected).abs().max() / expected.abs().max())


def in_own_process(kind: str, size: int, images: int) -> Any:
    """Run `measure` or `compare` in a fresh process; waiting threads sleep, so that CPU time is work."""
    command = [sys.executable, "-m", "benchmarks.mafn_step", "--only", kind]
    command += ["--size", str(size), "--batch", str(images)]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(THREADS)}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def show(figures: dict[str, list[Figure]], difference: float) -> bool:
    """Print medians and ratios; whether every target is reached."""
    middle = {
        side: Figure(*(statistics.median(column) for column in zip(*found, strict=True)))
        for side, found in figures.items()
    }
    print(f"{'median':8}{'CPU s':>10}{'wall s':>10}{'peak GiB':>10}")
    for side, figure in middle.items():
        print(f"{side:8}{figure.cpu_s:10.2f}{figure.wall_s:10.2f}{figure.peak_gib:10.2f}")
    ours, plain = middle["ours"], middle["plain"]
    reached = True
    for name, value, most in (
        ("CPU time, ours / plain", ours.cpu_s / plain.cpu_s, MAX_TIME),
        ("peak memory, ours / plain", ours.peak_gib / plain.peak_gib, MAX_MEMORY),
        ("largest relative difference of logits", difference, MAX_DIFFERENCE),
    ):
        reached &= value <= most
        print(f"{name}: {value:.3g}, target {most:g}: {'reached' if value <= most else 'MISSED'}")
    return reached


def parse() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=480, help="image side in pixels, a multiple of 32")
    parser.add_argument("--batch", type=int, default=2, help="images per step")
    parser.add_argument("--repeats", type=int, default=3, help="processes per side")
    parser.add_argument("--only", choices=(*SIDES, "compare"), help="measure in this process and print JSON")
    return parser.parse_args()


def main() -> None:
    """Check the reference's size, compare, measure, print."""
    options = parse()
    torch.set_num_threads(THREADS)
    if options.only == "compare":
        print(json.dumps(compare(options.size, options.batch)))
        return
    if options.only:
        print(json.dumps(measure(options.only, options.size, options.batch)))
        return
    print(f"plain reference: {check_size():,} parameters at full size, as published")
    print(
        f"step: {options.size} x {options.size}, batch {options.batch}, {THREADS} threads, "
        f"load {os.getloadavg()[0]:.1f}"
    )
    difference = float(in_own_process("compare", options.size, options.batch))
    figures: dict[str, list[Figure]] = {side: [] for side in SIDES}
    for repeat in range(options.repeats):
        for side in SIDES:
            figure = Figure(*in_own_process(side, options.size, options.batch))
            figures[side].append(figure)
            print(
                f"{repeat + 1}. {side:6} {figure.cpu_s:.2f} s CPU, {figure.wall_s:.2f} s, {figure.peak_gib:.2f} GiB",
                flush=True,
            )
    show(figures, difference)


if __name__ == "__main__":
    main()
