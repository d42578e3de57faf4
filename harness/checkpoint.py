"""Weights and everything else that a trial needs to go on where it stopped, on disk, never half written.

A trial's folder holds `last.pt` (model, optimizer, schedule, counters) and `best-<epoch>.pt` (weights only). The best
weights are written before the state that names them and carry their epoch, so a crash between the two loses nothing.
Random state needs no storing: every draw is derived from seed, epoch and step.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Progress:
    """Where training stands after a finished epoch."""

    epoch: int = 0
    """Epochs done."""
    step: int = 0
    """Optimizer steps done."""
    best_epoch: int = 0
    """Epoch with the best validation score, from 1; 0 before the first."""
    best_score: float = float("-inf")
    """That score."""
    seconds: float = 0.0
    """Training time so far, over all starts."""


def save_atomic(value: Any, path: Path) -> None:
    """`torch.save` that leaves either the old file or the whole new one."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    torch.save(value, draft)
    draft.replace(path)


def clear_drafts(folder: Path) -> None:
    """Remove what a killed process left half written; call before the folder's trial goes on."""
    for draft in folder.glob("*.pt.*.tmp"):
        draft.unlink(missing_ok=True)


def best_path(folder: Path, epoch: int) -> Path:
    """Where the best weights of that epoch are."""
    return folder / f"best-{epoch}.pt"


def save_best(folder: Path, model: nn.Module, epoch: int) -> None:
    """Write the weights of the best epoch so far; older ones stay until `save_last`."""
    save_atomic(model.state_dict(), best_path(folder, epoch))


def save_last(folder: Path, states: dict[str, Any], progress: Progress) -> None:
    """Write the state to continue from, then remove best weights that it no longer names."""
    save_atomic({**states, "progress": asdict(progress)}, folder / "last.pt")
    for old in folder.glob("best-*.pt"):
        if old != best_path(folder, progress.best_epoch):
            old.unlink()


def load_last(folder: Path) -> tuple[dict[str, Any], Progress] | None:
    """The state to continue from, on the CPU, or None where there is none."""
    path = folder / "last.pt"
    if not path.exists():
        return None
    states = torch.load(path, map_location="cpu", weights_only=True)
    return states, Progress(**states.pop("progress"))


def load_best(folder: Path, epoch: int) -> dict[str, Any]:
    """The weights of the best epoch, on the CPU."""
    states: dict[str, Any] = torch.load(best_path(folder, epoch), map_location="cpu", weights_only=True)
    return states
