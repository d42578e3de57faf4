"""What a model costs: parameters built, trained and dead, multiply-adds, latency, peak memory."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

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
