"""SIGKILLs of the driver at random moments of a study: nothing is lost, nothing finished is done again.

    python -m benchmarks.driver_kills --kills 20

Starts `harness run` on a study of 24 short trials, kills it without warning, starts the same command again, and so on;
the last start may finish. Each kill comes at a random moment after a random share of the trials, the same on a fast
machine and a slow one. Then every trial must be COMPLETE, each with one finished run in MLflow, and no trial that
had its result when a driver was killed may have been touched since.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from harness.results import results_frame
from harness.tracking import default_uri

TRIALS = 24
RESULTS = "runs/trials/*/result.json"
LATER_SECONDS = 6.0
"""Most seconds between a trial's end and a kill."""
STUDY = """\
name: kills
question: Does a study outlive its drivers?
task: referring
data: {name: rrsis_d, image_size: 32, synthetic: {train: 24, val: 6, test: 4, size: 32}}
train: {epochs: 3, global_batch: 4, lr: 1.0e-3}
reference:
  label: MAFN
  model:
    name: mafn
    kernels: [1]
    backbone: {pretrained: null, embed_dim: 8, depths: [1, 1, 1, 1], heads: [1, 2, 4, 8], window: 4}
    text: {pretrained: null, layers: 1, hidden: 32, heads: 2, intermediate: 64, vocab_size: 200, max_tokens: 12}
replicates: REPLICATES
variants:
  decoder:
    design: grid
    axes: {model.decoder: [arc, msrc]}
report:
  primary: {metric: miou}
  tables:
    - {name: decoder, of: decoder, kind: ablation, metrics: [miou], splits: [val]}
"""


class Kills(NamedTuple):
    """What became of a study whose drivers were killed."""

    trials: int
    complete: int
    """Trials with exactly one finished run in MLflow."""
    repeated: int
    """Trials whose files changed after they had their result."""
    interrupted: int
    """Trials that more than one driver worked on."""
    kills: int
    """Drivers that were killed before the study was over."""


def outlive(folder: Path, *, kills: int, trials: int, seed: int = 0) -> Kills:
    """Run a study to its end through so many kills.

    Args:
        folder: Where it runs; empty.
        kills: Drivers to kill.
        trials: Trials of the study, even.
        seed: Of the moments.
    """
    study = folder / "kills.yaml"
    study.write_text(STUDY.replace("REPLICATES", str(trials // 2)), encoding="utf-8")
    words = [sys.executable, "-m", "harness", "run", str(study), "--storage", str(folder / "runs")]
    moments = random.Random(seed)
    finished: dict[Path, tuple[int, ...]] = {}
    repeated: set[Path] = set()
    done = 0
    for number in range(kills + 1):
        driver = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        if number < kills:
            _await_results(folder, driver, int(trials * (number + moments.random()) / (kills + 1)))
            time.sleep(moments.uniform(0.0, LATER_SECONDS))
        if number < kills and driver.poll() is None:
            os.kill(driver.pid, signal.SIGKILL)
            done += 1
        driver.wait(timeout=1800)
        time.sleep(1.0)  # what a killed driver had started notices
        repeated |= {path for path, seen in finished.items() if _seen(path) != seen}
        finished |= {path.parent: _seen(path.parent) for path in folder.glob(RESULTS)}
    return _count(folder / "runs", trials, len(repeated), done)


def _await_results(folder: Path, driver: subprocess.Popen[bytes], count: int) -> None:
    """Wait for so many finished trials, or for the end of the driver."""
    while driver.poll() is None and len(list(folder.glob(RESULTS))) < count:
        time.sleep(0.1)


def _seen(folder: Path) -> tuple[int, ...]:
    names = ("result.json", "history.jsonl", "samples_val.parquet")
    return tuple((folder / name).stat().st_mtime_ns if (folder / name).exists() else 0 for name in names)


def _count(storage: Path, trials: int, repeated: int, kills: int) -> Kills:
    ids = [path.name for path in (storage / "trials").iterdir()]
    frame = results_frame(default_uri(storage), ids)
    runs = frame[frame["state"] == "COMPLETE"].groupby("trial_id")["run_id"].nunique()
    logs = [(storage / "trials" / i / "log-0.txt").read_text(encoding="utf-8") for i in ids]
    starts = [sum(" on " in line for line in text.splitlines()) for text in logs]
    return Kills(trials, int((runs == 1).sum()), repeated, sum(n > 1 for n in starts), kills)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found = outlive(Path(folder), kills=given.kills, trials=given.trials, seed=given.seed)
    print(json.dumps(found._asdict()))
    lost = found.trials - found.complete
    print(f"{found.kills} kills in {time.monotonic() - started:.0f} s: {lost} of {found.trials} trials lost")
    print(f"{found.repeated} finished trials repeated, {found.interrupted} interrupted ones continued")
    print("target reached" if found.complete == found.trials and not found.repeated else "TARGET MISSED")


if __name__ == "__main__":
    main()
