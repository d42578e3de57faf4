"""A split through a model: one row per sample, whatever the batch size and the number of workers."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader

from harness.distributed import gather, rank, world_size
from harness.records import Resources
from harness.tasks import Measurer, Samples


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The batch with its tensors on `device`."""
    return {k: v.to(device, non_blocking=True) for k, v in batch.items()}


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    samples: Samples,
    measurer: Measurer,
    *,
    device: torch.device,
    resources: Resources,
    precision: str = "fp32",
) -> pd.DataFrame:
    """Measure every sample of a split.

    Each worker takes its part; no sample is padded in or counted twice.

    Args:
        model: The model itself, not its DDP wrapper; its training mode is restored.
        samples: The split.
        measurer: Measures predictions on it; used once.
        device: Where the model is.
        resources: `eval_batch` samples per forward pass and `data_workers` loader processes; they change the speed, not
            the result.
        precision: `fp32` or `bf16` autocast.

    Returns:
        One row per sample in the dataset's order, the same on every worker.
    """
    given: Any = samples
    loader: DataLoader[dict[str, Any]] = DataLoader(
        given,
        batch_size=resources.eval_batch,
        sampler=samples.part(rank(), world_size()),
        num_workers=resources.data_workers,
    )
    was_training = model.training
    model.eval()
    rows: list[dict[str, Any]] = []
    for cpu_batch in loader:
        batch = to_device(cpu_batch, device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            output = model(batch)
        rows += measurer(output, batch)
    model.train(was_training)
    return pd.DataFrame.from_records(gather(rows)).sort_values("index", ignore_index=True)
