"""Ablations whose rows and scores a test chooses, and what their figures are drawn from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from harness.records import Plan, Table
from reports.artifacts import Sources
from reports.results import Results
from tests.drawn_study import CannedArtifacts, CannedPanels
from tests.report_frame import Change, make_rows

Score = Callable[[str, int], float | None]
"""Label and replicate -> score; None for a run that failed."""

Costs = Callable[[str], Mapping[str, float]]
"""Label -> costs."""


def make_designed(
    rows: Mapping[str, Change],
    score: Score,
    *,
    replicates: int = 3,
    costs: Costs = lambda _: {},
    splits: Sequence[str] = ("val",),
    **table: Any,
) -> Results:
    """A study of one ablation without per-sample results; a split's scores are 0.01 below those of the split before."""
    made, trials = make_rows("parts", dict(rows), replicates=replicates)
    lines = []
    for row in made:
        for replicate, trial_id in enumerate(row.trial_ids):
            found = score(row.label, replicate)
            run = {
                **{"study": "s", "variant": row.variant, "trial_id": trial_id, "replicate": replicate, "commit": "c"},
                **{"state": "FAILED" if found is None else "COMPLETE", "run_id": f"{row.label}|{replicate}"},
                **{"started": pd.Timestamp(2026, 1, 1), "note": ""},
            }
            of_run = [("val", "miou", np.nan)] if found is None else []
            if found is not None:
                of_run += [(split, "miou", found - 0.01 * i) for i, split in enumerate(splits)]
                of_run += [("cost", name, value) for name, value in costs(row.label).items()]
            lines += [{**run, "split": split, "metric": name, "value": value} for split, name, value in of_run]
    shown = Table("parts", "ablation", "parts", ("miou",), tuple(splits), made, **table)
    plan = Plan("designed", "Which?", tuple(trials), (shown,), replicates=replicates)
    return Results(plan, pd.DataFrame(lines), Sources(CannedArtifacts(), CannedPanels()))
