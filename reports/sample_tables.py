"""Per-sample tables of runs under their trial's own evaluation protocol."""

from __future__ import annotations

import numpy as np
import pandas as pd

from harness.metrics import sample_iou
from reports.artifacts import FigureRequest, Run


def counted_samples(request: FigureRequest, run: Run, split: str) -> pd.DataFrame | None:
    """The samples of a run that its protocol counts; None where the run left no table.

    Those with an empty mask are left out where the protocol drops them, those whose union is empty where it skips them.
    """
    table = request.sources.artifacts.samples(run.run_id, split)
    if table is None:
        return None
    protocol = request.plan.trial(run.trial_id).evaluate
    keep = pd.Series(True, index=table.index)
    if protocol.get("drop_empty_refs"):
        keep &= table["area"] > 0
    if protocol.get("empty") == "skip":
        keep &= table["union"] > 0
    return table[keep]


def sample_ious(request: FigureRequest, run: Run, split: str) -> pd.Series[float] | None:
    """Key -> IoU of the samples that count; None where the run left no table."""
    table = counted_samples(request, run, split)
    if table is None:
        return None
    protocol = request.plan.trial(run.trial_id).evaluate
    counts = [table[name].to_numpy(np.int64) for name in ("intersection", "union")]
    iou = sample_iou(*counts, empty="one" if protocol.get("empty") == "one" else "zero")
    return pd.Series(iou, index=table["key"].to_numpy())
