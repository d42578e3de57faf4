"""Whether a trial that failed is tried again, and with what."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.faults import cause
from harness.records import Fault, Resources, Trial, TrialResult
from harness.trial_folder import read_attempts, read_history

MAX_WITHOUT_PROGRESS = 5
"""Losses of a worker in a row, without an epoch or a state between them, that end a trial."""


def with_attempts(trial: Trial, folder: Path) -> Trial:
    """The trial with what its earlier attempts found out: batches that fit the memory."""
    changes: dict[str, Any] = {}
    for attempt in read_attempts(folder):
        changes |= attempt.get("changes", {})
    return replace(trial, resources=replace(trial.resources, **changes)) if changes else trial


def plan_retry(trial: Trial, result: TrialResult, folder: Path) -> Mapping[str, Any] | None:
    """What the next attempt changes; None where the trial has failed for good.

    Args:
        trial: As it was run.
        result: How it failed.
        folder: The trial's folder.

    Returns:
        A line for `attempts.jsonl`: `fault`, `cause`, `progress`, and `changes` to the resources.
    """
    line = {"fault": result.fault, "cause": cause(result.error or ""), "progress": _progress(folder)}
    if result.fault is Fault.MEMORY:
        changes = smaller_batches(trial)
        return {**line, "changes": changes} if changes else None
    if result.fault is Fault.INFRASTRUCTURE:
        return line if _has_hope(read_attempts(folder), line["progress"]) else None
    return None


def smaller_batches(trial: Trial) -> dict[str, int]:
    """Half the samples at once in training and evaluation, the same global batch; empty where it is one already."""
    need: Resources = trial.resources
    share = math.ceil(int(trial.train["global_batch"]) / need.workers)
    now = {"micro_batch": min(need.micro_batch or share, share), "eval_batch": need.eval_batch}
    if max(now.values()) == 1:
        return {}
    return {name: math.ceil(value / 2) for name, value in now.items()}


def _has_hope(attempts: Sequence[Mapping[str, Any]], progress: Any) -> bool:
    """Whether the last losses of workers were not all at the same place."""
    last = [a for a in attempts if a.get("fault") == Fault.INFRASTRUCTURE][-MAX_WITHOUT_PROGRESS:]
    return len(last) < MAX_WITHOUT_PROGRESS or any(a.get("progress") != progress for a in last)


def _progress(folder: Path) -> list[Any]:
    """Epochs told and the newest state, by which one attempt is told from the next."""
    states = [path.stat().st_mtime for path in folder.glob("*.pt")]
    return [len(read_history(folder)), max(states, default=0.0)]
