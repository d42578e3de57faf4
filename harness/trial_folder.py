"""What a trial keeps on disk, and how it is written so that a crash leaves the old file or the whole new one.

A trial keeps everything in `<storage>/trials/<id>/`:

| file | content |
|---|---|
| `trial.json` | the trial itself, from the moment it is started |
| `run.json` | the key of its run in the tracking store (`harness.tracking`) |
| `claim.json` | the driver that runs it now (`harness.claims`) |
| `history.jsonl` | the scores of every epoch |
| `log-<rank>.txt` | what each worker printed |
| `state-<epoch>-<step>.pt`, `best-<epoch>.pt` | states to go on from, and the best weights (`harness.checkpoint`) |
| `system.jsonl` | what it took of its machine, every ten seconds (`harness.system_metrics`) |
| `memory.json` | on GPUs, the most memory of its training so far and that of the GPU |
| `seeds.json` | the seed of every random stream |
| `samples_<split>.parquet`, ... | what the report needs besides scores |
| `pictures/` | what was predicted on a few samples (`harness.pictures`) |
| `attempts.jsonl` | one line per attempt that failed and was tried again |
| `stop` | asks the running trial to save its state and end |
| `result.json` | how it ended; written last and at once |

Whoever finds a result need not train again, so a driver that dies between the end of a trial and its record in MLflow
loses nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.records import Trial, TrialResult, TrialState

STATE = re.compile(r"state-(\d+)-(\d+)\.pt")
"""Name of a saved state: its epoch, its step."""
STOP = "stop"
PRUNE = "prune"
"""Content of `stop` where a search gives the trial up; anything else lets it go on some other time."""


@dataclass(frozen=True)
class EpochScores:
    """What a trial reported after an epoch."""

    epoch: int
    """From 1."""
    scores: Mapping[str, float]
    """`train/loss`, `val/miou`, ..."""
    time: float
    """Seconds since 1970."""


def trial_folder(storage: Path, trial: Trial) -> Path:
    """Where a trial keeps its files, made if missing."""
    folder = storage / "trials" / trial.id
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the file is there whole or not at all."""
    draft = path.with_name(f"{path.name}.tmp")
    draft.write_text(json.dumps(value, indent=1), encoding="utf-8")
    draft.replace(path)


def write_result(folder: Path, result: TrialResult) -> None:
    """Write `result.json`."""
    write_json(folder / "result.json", result.to_json())


def read_result(folder: Path) -> TrialResult | None:
    """The result in a trial's folder, or None where the trial has not ended."""
    path = folder / "result.json"
    return TrialResult.from_json(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def append_history(folder: Path, epoch: EpochScores) -> None:
    """Add one line to `history.jsonl`."""
    _append_line(folder / "history.jsonl", {"epoch": epoch.epoch, "scores": dict(epoch.scores), "time": epoch.time})


def read_history(folder: Path) -> list[EpochScores]:
    """The epochs a trial reported, each once, in order; a line that a crash cut short is left out."""
    lines = _read_lines(folder / "history.jsonl")
    found = {line["epoch"]: EpochScores(line["epoch"], line["scores"], line["time"]) for line in lines}
    return [found[epoch] for epoch in sorted(found)]


def append_attempt(folder: Path, attempt: Mapping[str, Any]) -> None:
    """Add one line to `attempts.jsonl`: `fault`, `cause`, `time`, and what the next attempt changes."""
    _append_line(folder / "attempts.jsonl", attempt)


def read_attempts(folder: Path) -> list[dict[str, Any]]:
    """The attempts that failed and were tried again, in order."""
    return _read_lines(folder / "attempts.jsonl")


def clear_failure(folder: Path) -> None:
    """Forget an earlier failure so that the trial can be tried again from its checkpoint."""
    result = read_result(folder)
    if result is not None and result.state is not TrialState.COMPLETE:
        (folder / "result.json").unlink()


def forget_progress(folder: Path) -> None:
    """Remove everything that a trial would go on from, so that it trains from the first step; logs stay."""
    names = ("history.jsonl", "attempts.jsonl", "memory.json", STOP)
    for path in (*folder.glob("*.pt"), *(folder / name for name in names)):
        path.unlink(missing_ok=True)


def _append_line(path: Path, value: Mapping[str, Any]) -> None:
    """Add a line, after a line break of its own: a crash may have cut the line before short."""
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" + json.dumps(value))


def _read_lines(path: Path) -> list[dict[str, Any]]:
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found
