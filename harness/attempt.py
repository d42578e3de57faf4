"""What a driver and the workers of one attempt at a trial tell each other: the job, and how it ended."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.faults import fault_of
from harness.records import Fault, Trial, TrialResult, TrialState

if TYPE_CHECKING:
    from harness.train import TrialContext

FAKE_GPUS = "HARNESS_FAKE_GPUS"
"""Environment variable that lets trials which ask for GPUs run on CPUs: for trying schedules without GPUs."""

STOPPED = "stopped"

Entry = Callable[[Trial, "TrialContext"], TrialResult]
"""What runs a trial inside a worker."""

RUN_TRIAL = "harness.trial:run_trial"
"""The entry of every study, by name: a driver need not import what trials run."""


class Job(NamedTuple):
    """What every worker of a trial is given."""

    trial: Mapping[str, Any]
    storage: str
    ticket: str
    """Of this attempt; whoever has lost it must not write."""
    entry: str | Entry
    """`RUN_TRIAL`, or the function that a test or a benchmark runs in its place."""


def clear_ends(folder: Path) -> None:
    """Forget how an earlier attempt ended."""
    for pattern in ("failure-*.json", "hang-*.txt"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def read_failure(trial: Trial, folder: Path, otherwise: BaseException) -> TrialResult:
    """How a trial failed, from what its workers left: a hang, the first real failure, or a worker that is gone.

    Args:
        trial: The trial.
        folder: Its folder.
        otherwise: What Ray says.
    """
    for path in sorted(folder.glob("hang-*.txt")):
        if stacks := path.read_text(encoding="utf-8").strip():
            text = f"{stacks}\nTimeoutError: longer than resources.timeout_min = {trial.resources.timeout_min:g}"
            return TrialResult(trial.id, TrialState.FAILED, error=text, fault=Fault.TIMEOUT)
    left = sorted((json.loads(p.read_text(encoding="utf-8")) for p in folder.glob("failure-*.json")), key=_when)
    if left:
        # a worker whose peer is gone fails too: what the others say comes first
        first = next((f for f in left if f["fault"] != Fault.INFRASTRUCTURE), left[0])
        return TrialResult(trial.id, TrialState.FAILED, error=first["error"], fault=Fault(first["fault"]))
    text = str(otherwise) or type(otherwise).__name__
    fault = fault_of(otherwise)
    kind = Fault.INFRASTRUCTURE if fault is Fault.ERROR else fault
    return TrialResult(trial.id, TrialState.FAILED, error=text, fault=kind)


def _when(failure: Mapping[str, Any]) -> float:
    return float(failure["time"])
