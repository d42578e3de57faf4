"""The report of a study of 10,000 runs with 20 scores each: `harness report`, the whole command, time and memory.

The store is written as MLflow would write it, with scores that are noise around a value per variant; per-sample results
are not in it. The command runs in a process of its own, so that its memory is its own.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import sqlalchemy as sa

from harness.plan import expand, fingerprint_of
from harness.records import Trial
from harness.results import TAGS, connect
from harness.spec import load_study

TARGET_S = 30.0
ROOT = Path(__file__).resolve().parent.parent
METRICS = ("p50", "p60", "p70", "p80", "p90", "oiou", "miou")
COSTS = ("parameters_m", "gmacs", "latency_ms", "train_s", "cpu_hours", "gpu_hours")
NUM_CURVES = 3

STUDY = """\
name: scale
question: Which of {variants} learning rates is best?
task: referring
data: {{name: rrsis_d, image_size: 32, synthetic: {{train: 10, val: 5, test: 4, size: 32}}}}
train: {{epochs: 3, global_batch: 4, lr: 1.0e-3}}
reference: {{label: MAFN, model: {{name: mafn, backbone: {{pretrained: null}}, text: {{pretrained: null}}}}}}
replicates: {replicates}
variants:
  rates: {{design: grid, axes: {{train.lr: [{rates}]}}}}
report:
  primary: {{metric: miou}}
  tables:
    - {{name: rates, of: rates, kind: ablation, metrics: [p50, p60, p70, p80, p90, oiou, miou], splits: [val, test]}}
  figures: [{figures}]
"""


def write_study(folder: Path, *, variants: int, replicates: int, figures: Sequence[str]) -> Path:
    """A study of so many variants, the reference among them."""
    rates = ", ".join(f"{(n + 1) * 1e-3:.4f}" for n in range(variants))
    path = folder / "scale.yaml"
    text = STUDY.format(variants=variants, replicates=replicates, rates=rates, figures=", ".join(figures))
    path.write_text(text, encoding="utf-8")
    return path


def rows_of(trials: Sequence[Trial], experiment: int, place: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of MLflow's tables, as its own store would write them."""
    random = np.random.default_rng(0)
    levels = {trial.variant: random.normal(0.5, 0.05) for trial in trials}
    names = [f"{split}/{name}" for split in ("val", "test") for name in METRICS]
    for index, trial in enumerate(trials):
        run = uuid.UUID(int=index + 1).hex
        yield (
            "runs",
            {
                **{"run_uuid": run, "name": trial.variant, "status": "FINISHED", "lifecycle_stage": "active"},
                **{"start_time": 1_700_000_000_000 + index, "end_time": 1_700_000_100_000 + index},
                **{"experiment_id": experiment, "artifact_uri": (place / run).as_uri(), "user_id": "u"},
                **{"source_type": "UNKNOWN", "source_name": "", "entry_point_name": "", "source_version": ""},
            },
        )
        values = {"study": "scale", "variant": trial.variant, "trial_id": trial.id, "commit": "c0ffee"}
        tags = {TAGS[name]: value for name, value in values.items()}
        tags |= {"harness.kind": "trial", "harness.replicate": str(trial.replicate), "harness.code_sha": "0" * 12}
        for key, value in tags.items():
            yield "tags", {"run_uuid": run, "key": key, "value": value}
        scores = dict(zip(names, np.clip(random.normal(levels[trial.variant], 0.01, len(names)), 0, 1), strict=True))
        scores |= {f"cost/{name}": 1.5 for name in COSTS} | {f"epoch/val/m{n}": 0.5 for n in range(NUM_CURVES)}
        for key, number in scores.items():
            row = {"run_uuid": run, "key": key, "value": float(number), "timestamp": 1_700_000_000_000, "step": 0}
            yield "latest_metrics", {**row, "is_nan": False}


def fill(uri: str, trials: Sequence[Trial], place: Path) -> None:
    """Write the runs."""
    experiment = int(connect(uri).create_experiment("scale", artifact_location=place.as_uri()))
    engine = sa.create_engine(uri)
    tables = sa.MetaData()
    names = ("runs", "tags", "latest_metrics")
    tables.reflect(engine, only=names)
    batches: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for table, row in rows_of(trials, experiment, place):
        batches[table].append(row)
    with engine.begin() as connection:
        for name in names:
            connection.execute(sa.insert(tables.tables[name]), batches[name])
    engine.dispose()


def measure(label: str, uri: str, folder: Path, given: argparse.Namespace) -> bool:
    """Print one line; whether the target is reached."""
    spec = write_study(folder, variants=given.variants, replicates=given.replicates, figures=given.figures)
    study = load_study(spec)
    fingerprint, root = fingerprint_of(study)
    trials = expand(study, fingerprint=fingerprint, data_root=root).trials
    fill(uri, trials, folder / "artifacts")
    words = ["report", str(spec), "--storage", str(folder), "--tracking-uri", uri, "--json"]
    used, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, *(["-m", "cProfile", "-o", given.profile] if given.profile else []), "-m", "harness"]
    done = subprocess.run([*command, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        sys.exit(done.stderr)
    cpu = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    pdf = "with PDF" if shutil.which("pdflatex") else "without PDF"
    print(
        f"{label:10s} {len(trials)} runs of {given.variants} variants, {pdf}: {wall:.1f} s by the clock, "
        f"{cpu:.1f} CPU s (target {TARGET_S:.0f} s: {'reached' if wall <= TARGET_S else 'MISSED'}), "
        f"at most {after.ru_maxrss / 2**10:.0f} MiB"
    )
    return wall <= TARGET_S


def main() -> None:
    """Measure both kinds of store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", type=int, default=500)
    parser.add_argument("--replicates", type=int, default=20)
    parser.add_argument("--figures", nargs="*", default=["delta"])
    parser.add_argument("--profile", help="Write what cProfile says of the command to this file.")
    given = parser.parse_args()
    reached = []
    with TemporaryDirectory() as place, ExitStack() as stack:
        folder = Path(place)
        reached.append(measure("sqlite", f"sqlite:///{folder / 'mlflow.db'}", folder, given))
        if any(Path("/usr/lib/postgresql").glob("*/bin")) and not given.profile:
            from tests.servers import postgresql

            reached.append(measure("PostgreSQL", stack.enter_context(postgresql()), folder, given))
    sys.exit(0 if all(reached) else 1)


if __name__ == "__main__":
    main()
