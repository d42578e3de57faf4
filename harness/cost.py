"""What a model costs: parameters built, trained and dead, multiply-adds, latency, peak memory, also of its training."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from harness.trial_folder import write_json
from models.base import SegmentationModel

NUM_TIMED = 5


@torch.inference_mode()
def measure_cost(model: SegmentationModel, batch: Mapping[str, Tensor], device: torch.device) -> dict[str, float]:
    """Measure a model on one sample in evaluation mode.

    Args:
        model: On `device`.
        batch: A batch of one sample on `device`.
        device: Where to time; a GPU is synchronised around every pass.

    Returns:
        `parameters`, `parameters_trained` (those the optimizer updates), `parameters_dead` (those that cannot influence
        the output), `gmacs` (matrix products and convolutions, 10^9 multiply-adds per sample), `latency_ms` (median of
        5 passes after one), `peak_memory_mib` (GPU memory of those passes; on a CPU the process's peak so far).
    """
    model.eval()
    dead = model.dead_parameters()
    counter = FlopCounterMode(display=False)
    with counter:
        model(batch)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    passes = [_timed_pass(model, batch, device) for _ in range(NUM_TIMED)]
    return {
        "parameters": float(sum(p.numel() for p in model.parameters())),
        "parameters_trained": float(sum(p.numel() for g in model.parameter_groups() for p in g.parameters)),
        "parameters_dead": float(sum(p.numel() for n, p in model.named_parameters() if n in dead)),
        "gmacs": counter.get_total_flops() / 2e9,
        "latency_ms": 1000 * statistics.median(passes),
        "peak_memory_mib": _peak_memory_mib(device),
    }


def _timed_pass(model: SegmentationModel, batch: Mapping[str, Tensor], device: torch.device) -> float:
    started = time.perf_counter()
    model(batch)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _peak_memory_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KiB


def training_memory_mib(device: torch.device) -> float | None:
    """Most GPU memory that this process has reserved so far, without that of the driver; None on a CPU.

    What is reserved and not in use counts: another trial on the same GPU cannot have it.
    """
    if device.type != "cuda":
        return None
    return max(torch.cuda.max_memory_reserved(device), torch.cuda.max_memory_allocated(device)) / 2**20


def write_training_memory(folder: Path, device: torch.device, *, peak_mib: float | None = None) -> None:
    """Write `memory.json`, by which trials are packed on GPUs; nothing on a CPU.

    Args:
        folder: The trial's.
        device: Where this worker trains.
        peak_mib: Of the worker that needs most; None for this one so far.
    """
    peak = training_memory_mib(device) if peak_mib is None else peak_mib
    if peak is None:
        return
    total = torch.cuda.get_device_properties(device).total_memory / 2**20
    write_json(folder / "memory.json", {"peak_mib": peak, "total_mib": total})
