"""A small study whose runs have left everything figures need, and what a report would read of it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.errors import DataError
from harness.records import Plan, Table
from reports.artifacts import Panel, Sources
from reports.results import Results
from tests.report_frame import make_rows

SIDE = 20
KEYS = tuple(f"s{i}" for i in range(8))
SENTENCES = (
    "the ship",
    r"100 % of $x_1$ & <the> ship \end on the left side",
    *(f"the ship number {i} " + "very " * i + "far away" for i in range(2, 8)),
)
VARIANTS: dict[str, dict[str, Any]] = {"default": {"fusion": "sum"}, "+ noise": {"decoder": "arc"}, "MAFN": {}}
SHIFTS = {"default": 3, "+ noise": 2, "MAFN": 1}
"""Pixels by which a variant's masks are off."""


def truth(key: str) -> NDArray[np.bool_]:
    """A square that grows with the sample's number; s0 is empty."""
    mask = np.zeros((SIDE, SIDE), bool)
    side = KEYS.index(key)
    mask[5 : 5 + side, 5 : 5 + side] = True
    return mask


def predicted(key: str, label: str, replicate: int) -> NDArray[np.bool_]:
    """The truth moved to the right; sample s3 is hit by `default` and missed by MAFN."""
    shift = SHIFTS[label] + replicate
    if key == "s3":
        shift = {"default": 0, "+ noise": 3, "MAFN": 9}[label]
    return np.roll(truth(key), shift, axis=1)


class CannedArtifacts:
    """What the runs of `make_study` left; a run id is `label|replicate`."""

    def __init__(self, *, missing: Collection[str] = ()) -> None:
        self._missing = missing

    def samples(self, run_id: str, split: str) -> pd.DataFrame | None:  # noqa: ARG002
        """Per-sample results."""
        label, replicate = run_id.split("|")
        if label in self._missing or label not in SHIFTS:
            return None
        lines = []
        for i, key in enumerate(KEYS):
            t, p = truth(key), predicted(key, label, int(replicate))
            counts = {"intersection": (t & p).sum(), "union": (t | p).sum(), "area": t.sum()}
            about = {"index": i, "key": key, "sentence": SENTENCES[i], "category": "ship" if i % 2 else "harbor"}
            lines.append({**about, **counts, "height": SIDE, "width": SIDE})
        return pd.DataFrame(lines)

    def masks(self, run_id: str, split: str, keys: Collection[str]) -> dict[str, NDArray[np.bool_]]:  # noqa: ARG002
        """Predicted masks."""
        label, replicate = run_id.split("|")
        return {} if label in self._missing else {key: predicted(key, label, int(replicate)) for key in keys}

    def feature_maps(self, run_id: str) -> dict[str, NDArray[Any]]:
        """Maps; only MAFN has the point `fused 2`."""
        label = run_id.partition("|")[0]
        if label in self._missing:
            return {}
        rng = np.random.default_rng(len(label))
        names = ["fused 1", "fused 2", "decoder 1"] if label == "MAFN" else ["fused 1", "decoder 1"]
        return {"keys": np.array(["s5", "s1"]), **{name: rng.random((2, 6, 6)).astype(np.float16) for name in names}}

    def curve(self, run_id: str, name: str) -> dict[int, float]:
        """Three epochs."""
        if run_id.partition("|")[0] in self._missing:
            return {}
        return {1: 0.2, 2: 0.4, 3: 0.5 + (name == "train/loss")}


class CannedPanels:
    """Grey pictures."""

    def __init__(self, *, absent: bool = False) -> None:
        self._absent = absent

    def read(self, split: str, keys: Collection[str], *, size: int) -> dict[str, Panel]:  # noqa: ARG002
        """Pictures of some samples."""
        if self._absent:
            raise DataError("the dataset must be at data/x, nothing is there")
        image = np.full((SIDE, SIDE, 3), 120, np.uint8)
        return {key: Panel(image, truth(key), SENTENCES[KEYS.index(key)]) for key in keys}


def make_study(**plan: Any) -> tuple[Plan, pd.DataFrame]:
    """A plan of one ablation with two replicates, and its results; the second replicate of `+ noise` failed."""
    rows, trials = make_rows("parts", VARIANTS, replicates=2)
    labels = {t: row.label for row in rows for t in row.trial_ids}
    lines = []
    for trial in trials:
        label = labels[trial.id]
        failed = label == "+ noise" and trial.replicate == 1
        score = {"default": 0.5, "+ noise": 0.55, "MAFN": 0.6}[label] + 0.01 * trial.replicate
        lines.append(
            {
                **{"study": "s", "variant": trial.variant, "trial_id": trial.id, "replicate": trial.replicate},
                **{"state": "FAILED" if failed else "COMPLETE", "run_id": f"{label}|{trial.replicate}"},
                **{"started": pd.Timestamp(2026, 1, 1), "commit": "c", "note": "", "split": "val", "metric": "miou"},
                "value": float("nan") if failed else score,
            }
        )
    table = Table("parts", "ablation", "parts", ("miou",), ("val", "val_shuffled"), rows)
    made = Plan("toy", "Which?", tuple(trials), (table,), replicates=2, spec_sha="a", **plan)
    return made, pd.DataFrame(lines)


def make_request(*, missing: Collection[str] = (), absent: bool = False, **plan: Any) -> Results:
    """What a figure of that study is drawn from."""
    made, frame = make_study(**plan)
    return Results(made, frame, Sources(CannedArtifacts(missing=missing), CannedPanels(absent=absent)))
