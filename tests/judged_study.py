"""A study whose truth is known, with per-sample results: one component is useless, another useful."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.metrics import referring_scores
from harness.records import Plan, Table
from reports.artifacts import Sources
from tests.drawn_study import CannedPanels
from tests.report_frame import Change, make_rows

GAINS = {"full": 0.0, "without noise": 0.0, "without fusion": -0.25, "other decoder": -0.6}
"""Label -> by how much the logit of every IoU is moved; `noise` is the useless component."""
CHANGES: dict[str, Change] = {
    "full": {},
    "without noise": {"noise": False},
    "without fusion": {"fusion": "sum"},
    "other decoder": {"decoder": "arc"},
}
SAMPLES = 300


def samples_of(label: str, replicate: int) -> pd.DataFrame:
    """Per-sample results of a run: hard samples are hard for all, a replicate moves all of them, the rest is noise."""
    hard = np.random.default_rng(1).normal(0.8, 1.0, SAMPLES)
    rng = np.random.default_rng([list(GAINS).index(label), replicate])
    logits = hard + GAINS[label] + rng.normal(0, 0.02) + rng.normal(0, 0.5, SAMPLES)
    union = np.random.default_rng(2).integers(200, 4000, SAMPLES)
    intersection = np.round(union / (1 + np.exp(-logits))).astype(int)
    return pd.DataFrame(
        {
            "key": [f"{i}/0" for i in range(SAMPLES)],
            "category": [("ship", "dam")[i % 2] for i in range(SAMPLES)],
            "intersection": intersection,
            "union": union,
            "area": union,
        }
    )


@dataclass(frozen=True)
class JudgedArtifacts:
    """What the runs left: per-sample results, for those that kept them."""

    kept: Mapping[str, pd.DataFrame]

    def samples(self, run_id: str, split: str) -> pd.DataFrame | None:  # noqa: ARG002
        """Per-sample results."""
        return self.kept.get(run_id)

    def masks(self, run_id: str, split: str, keys: Collection[str]) -> dict[str, NDArray[np.bool_]]:  # noqa: ARG002
        """None."""
        return {}

    def feature_maps(self, run_id: str) -> dict[str, NDArray[Any]]:  # noqa: ARG002
        """None."""
        return {}

    def curve(self, run_id: str, name: str) -> dict[int, float]:  # noqa: ARG002
        """None."""
        return {}


def make_judged(
    *, replicates: int = 3, labels: Collection[str] = tuple(GAINS), lost: Collection[str] = ()
) -> tuple[Plan, Table, pd.DataFrame, Sources]:
    """The study's plan, table, results frame and sources; the runs of `lost` left no per-sample results."""
    chosen = {label: CHANGES[label] for label in labels}
    rows, trials = make_rows("parts", chosen, replicates=replicates)
    table = Table("parts", "ablation", "parts", ("oiou", "miou"), ("val",), rows, costs=False)
    lines, kept = [], {}
    for row in rows:
        for replicate, trial_id in enumerate(row.trial_ids):
            samples = samples_of(row.label, replicate)
            run_id = f"{row.label}|{replicate}"
            if row.label not in lost:
                kept[run_id] = samples
            scores = referring_scores(samples["intersection"].to_numpy(), samples["union"].to_numpy())
            common = {"trial_id": trial_id, "replicate": replicate, "state": "COMPLETE", "run_id": run_id}
            place = {"started": pd.Timestamp(2026, 1, 1), "split": "val", "note": ""}
            lines += [{**common, **place, "metric": name, "value": value} for name, value in scores.items()]
    plan = Plan("judged", "Which?", tuple(trials), (table,), replicates=replicates)
    return plan, table, pd.DataFrame(lines), Sources(JudgedArtifacts(kept), CannedPanels())
