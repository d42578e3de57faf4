"""Per-sample tables of runs under their trial's own evaluation protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from harness.metrics import sample_iou
from harness.records import Plan
from reports.artifacts import Artifacts
from reports.evidence import Evidence


class SampleTables(NamedTuple):
    """The per-sample tables of a study's runs."""

    plan: Plan
    artifacts: Artifacts

    def protocol(self, run: Evidence) -> Mapping[str, Any]:
        """The resolved `evaluate` of a run's trial."""
        return self.plan.trial(run.trial_id).evaluate

    def counted(self, run: Evidence, split: str) -> pd.DataFrame | None:
        """The samples of a run that its protocol counts; None where the run left no table.

        Those with an empty mask are left out where the protocol drops them, those whose union is empty where it skips
        them.
        """
        table = self.artifacts.samples(run.run_id, split)
        if table is None:
            return None
        protocol = self.protocol(run)
        keep = pd.Series(True, index=table.index)
        if protocol.get("drop_empty_refs"):
            keep &= table["area"] > 0
        if protocol.get("empty") == "skip":
            keep &= table["union"] > 0
        return table[keep]

    def ious(self, run: Evidence, split: str) -> pd.Series[float] | None:
        """Key -> IoU of the samples that count; None where the run left no table."""
        table = self.counted(run, split)
        if table is None:
            return None
        counts = [table[name].to_numpy(np.int64) for name in ("intersection", "union")]
        iou = sample_iou(*counts, empty="one" if self.protocol(run).get("empty") == "one" else "zero")
        return pd.Series(iou, index=table["key"].to_numpy())
