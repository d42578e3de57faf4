"""CPU time of evaluating 500 samples: the harness in batches against a plain loop over single samples, in one run.

    python -m benchmarks.evaluation

A tiny MAFN with random weights, and generated data in RRSIS-D's layout. The plain loop is the published protocol as one
first writes it (section 9.1 of the specification): one sample at a time through the model, argmax, pixel sums. It is
measured twice: on samples that it decodes itself, and on the very samples that the harness reads, where only the
batches differ. Both must give the intersection and the union that the harness gives, for every sample. The harness also
stores the predicted masks; the loop does not. It must take at most half of the CPU time of the loop on the same
samples.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from harness.data.synthetic import data_root
from harness.evaluate import evaluate
from harness.plan import expand, fingerprint_of
from harness.records import Resources, Trial
from harness.spec import load_study
from harness.tasks import Task, build_task
from models.base import MODELS, SegmentationModel, resolve_config

MAX_TIME = 0.5
STUDY = """\
name: evaluation
question: How long does evaluation take?
task: referring
data: {{name: rrsis_d, image_size: {size}, synthetic: {{train: 20, val: 2, test: {samples}, size: {native}}}}}
train: {{epochs: 1, global_batch: 4}}
reference:
  label: MAFN
  model:
    name: mafn
    backbone: {{pretrained: null, embed_dim: 16, depths: [1, 1, 2, 1], heads: [1, 2, 4, 8], window: 4}}
    text: {{pretrained: null, layers: 2, hidden: 32, heads: 2, intermediate: 64, vocab_size: 200}}
replicates: 1
variants:
  decoder: {{design: grid, axes: {{model.decoder: [msrc]}}}}
report:
  primary: {{metric: miou}}
  tables:
    - {{name: decoder, of: decoder, kind: ablation, metrics: [miou], splits: [val]}}
"""

Counts = list[tuple[int, int]]
"""Intersection and union of every sample, in pixels."""


def make_trial(folder: Path, options: argparse.Namespace) -> Trial:
    """The one trial of the study, with a decoded-sample cache under `folder`."""
    path = folder / "evaluation.yaml"
    text = STUDY.format(size=options.size, samples=options.samples, native=options.native)
    path.write_text(text, encoding="utf-8")
    study = load_study(path, environ={})
    fingerprint, root = fingerprint_of(study)
    trial = expand(study, fingerprint=fingerprint, data_root=root).trials[0]
    return replace(trial, resources=Resources(eval_batch=options.batch))


def build(trial: Trial, folder: Path) -> tuple[SegmentationModel, Task]:
    """The trial's model and task."""
    model_class = MODELS.get(trial.model["name"])
    config = resolve_config(model_class, trial.model)
    task = build_task(trial, data_root(trial, folder), config, storage=folder)
    torch.manual_seed(0)
    return model_class(config, task.inputs).eval(), task


def measure_plainly(model: SegmentationModel, sample: Mapping[str, Tensor]) -> tuple[int, int]:
    """Intersection and union of one sample."""
    with torch.no_grad():
        logits = model(default_collate([sample])).logits
    prediction = logits.argmax(1)[0].numpy()
    target = sample["target"].numpy()
    return int(((prediction == 1) & (target == 1)).sum()), int(((prediction == 1) | (target == 1)).sum())


def cpu_seconds(function: Callable[[], Counts]) -> tuple[float, Counts]:
    """User and system time of a call, and what it returned."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    found = function()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, found


def make_sides(trial: Trial, folder: Path) -> dict[str, Callable[[], Counts]]:
    """What is measured: name -> a pass over the split."""
    model, task = build(trial, folder)
    uncached = build(replace(trial, resources=replace(trial.resources, cache_gib=0.0)), folder)[1]

    def loop(source: Task) -> Counts:
        samples: Any = source.evaluation("test")
        return [measure_plainly(model, samples[i]) for i in range(len(samples))]

    def batches() -> Counts:
        table = evaluate(
            model,
            task.evaluation("test"),
            task.measurer("test"),
            device=torch.device("cpu"),
            resources=trial.resources,
        )
        return list(zip(table["intersection"].tolist(), table["union"].tolist(), strict=True))

    return {
        "loop, decoding": lambda: loop(uncached),
        "loop, same samples": lambda: loop(task),
        "harness": batches,
    }


def parse() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, default=500, help="samples of the split")
    parser.add_argument("--size", type=int, default=96, help="side the model sees, in pixels")
    parser.add_argument("--native", type=int, default=200, help="side of the generated JPEGs, in pixels")
    parser.add_argument("--batch", type=int, default=16, help="samples per batch of the harness")
    parser.add_argument("--passes", type=int, default=3, help="passes per side, alternating")
    return parser.parse_args()


def main() -> None:
    """Generate, measure, compare, print."""
    options = parse()
    torch.set_num_threads(1)
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["HARNESS_CACHE"] = f"{name}/cache"
        sides = make_sides(make_trial(folder, options), folder)
        expected = sides["harness"]()  # fills the cache
        for _ in range(options.passes):
            for side, run in sides.items():
                cpu, found = cpu_seconds(run)
                seconds.setdefault(side, []).append(cpu)
                different = sum(a != b for a, b in zip(found, expected, strict=True))
                if different:
                    raise AssertionError(f"{side}: {different} samples differ from the harness's first pass")
    print(
        f"{options.samples} samples, {options.size} px, batch {options.batch}, one thread, "
        f"load {os.getloadavg()[0]:.1f}"
    )
    print(f"intersection and union: equal for all {len(expected)} samples")
    middle = {side: statistics.median(found) for side, found in seconds.items()}
    print(f"{'':20}{'CPU s':>8}{'harness / it':>14}")
    for side, value in middle.items():
        print(f"{side:20}{value:8.2f}{middle['harness'] / value:14.2f}")
    ratio = middle["harness"] / middle["loop, same samples"]
    print(f"ratio {ratio:.2f}, target {MAX_TIME}: {'reached' if ratio <= MAX_TIME else 'MISSED'}")


if __name__ == "__main__":
    main()
