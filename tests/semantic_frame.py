"""A study of land cover with stress tests, and its results: one class is absent from validation, one run failed."""

from __future__ import annotations

from typing import Any

import pandas as pd

from harness.records import Plan, Row, Stress, Table, Trial
from reports.artifacts import Sources
from reports.results import Results
from tests.drawn_study import CannedArtifacts, CannedPanels

CLASSES = ("water", "farmland", "low_vegetation")
STRESSES = (
    *(Stress("shift", "sar", float(level)) for level in (2, 4, 8)),
    *(Stress("noise", "sar", level) for level in (0.5, 1.0)),
    *(Stress("drop", modality) for modality in ("sar", "optical")),
)
LABELS = ("DF2RQ", "CMX", "Late concat")
METRICS = ("oa", "mpa", "miou", "fwiou", "mf1", "kappa")
NOTE = "official list of scenes, 60 / 20 / 20; no scene is in two splits"


def make_semantic_plan(*, stress: bool = True, **options: Any) -> Plan:
    """A comparison of three methods with three replicates."""
    rows, trials = [], []
    for label in LABELS:
        name = label.lower().replace(" ", "_")
        mine = [
            Trial(
                task="semantic",
                data={"name": "whu_opt_sar"},
                data_fingerprint="f" * 12,
                model={"name": name},
                train={"lr": 1e-4},
                evaluate={},
                replicate=replicate,
                variant=label,
            )
            for replicate in range(3)
        ]
        ids = tuple(t.id for t in mine)
        rows.append(Row(label, label, {"model.name": name}, ids, is_reference=label == "DF2RQ"))
        trials += mine
    splits = ("test", *(s.split for s in STRESSES[:1])) if stress else ("test",)
    tables = (
        Table("comparison", "comparison", "comparison", METRICS, ("val", "test"), tuple(rows), "whu_opt_sar"),
        Table("stress", "ablation", "stress", ("miou",), splits, tuple(rows)),
    )
    return Plan(
        "land_cover",
        "Does region-wise fusion stand a shift?",
        tuple(trials),
        tables,
        replicates=3,
        primary_split="test",
        data_note=NOTE,
        **options,
    )


def make_semantic_frame(plan: Plan, *, stress: bool = True) -> pd.DataFrame:
    """Scores per split and class; the more a modality is disturbed the lower, least for DF2RQ."""
    lines = []
    for trial in plan.trials:
        rank = LABELS.index(trial.variant)
        failed = (trial.variant, trial.replicate) == ("CMX", 1)
        run = {
            **{"study": plan.study, "variant": trial.variant, "trial_id": trial.id, "replicate": trial.replicate},
            **{"state": "FAILED" if failed else "COMPLETE", "run_id": f"{trial.variant}|{trial.replicate}"},
            **{"started": pd.Timestamp(2026, 1, 1), "commit": "c", "note": "out of memory" if failed else ""},
        }
        if failed:
            lines.append({**run, "split": None, "metric": None, "value": float("nan")})
            continue
        scores = [("cost", "parameters", 3e7 + 1e6 * rank), ("cost", "gmacs", 41.5 + rank)]
        for split, loss in {"val": 0.01, "test": 0.0, **(_losses(rank) if stress else {})}.items():
            base = 0.62 - 0.03 * rank - loss + 0.004 * trial.replicate * (1, -1, 0.9)[rank]
            scores += [(split, metric, base + 0.05 * i) for i, metric in enumerate(METRICS)]
            present = CLASSES[:2] if split == "val" else CLASSES
            scores.append((split, "classes_averaged", float(len(present))))
            for i, name in enumerate(present):
                scores += [(split, f"{m}.{name}", base + 0.1 * i) for m in ("iou", "recall", "f1")]
        lines += [{**run, "split": split, "metric": metric, "value": value} for split, metric, value in scores]
    return pd.DataFrame(lines)


def _losses(rank: int) -> dict[str, float]:
    found = {}
    for stress in STRESSES:
        slope = {"shift": 0.012, "noise": 0.1, "drop": 0.0}[stress.kind] * (1 + rank / 2)
        fixed = {"sar": 0.05, "optical": 0.22}[stress.modality] * (1 + 0.3 * rank) if stress.kind == "drop" else 0.0
        found[stress.split] = slope * stress.level + fixed
    return found


def make_semantic_request(*, stress: bool = True, **options: Any) -> Results:
    """What a figure or break-down of that study is made from."""
    plan = make_semantic_plan(**options)
    return Results(plan, make_semantic_frame(plan, stress=stress), Sources(CannedArtifacts(), CannedPanels()))
