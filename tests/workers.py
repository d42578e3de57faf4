"""Runs a function in several worker processes joined by gloo, as a trial's workers are."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def _enter(rank: int, function: Callable[..., Any], num_workers: int, folder: str, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=num_workers)
    torch.save(function(*args), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def run_workers(function: Callable[..., Any], *args: Any, num_workers: int = 2) -> list[Any]:
    """What `function(*args)` returns on each worker; it must be importable and return what torch can save."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_enter, (function, num_workers, folder, args), nprocs=num_workers)
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(num_workers)]
