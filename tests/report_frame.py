"""A study whose report has everything that can go wrong in it: awkward labels, retries, failures, gaps, ties."""

from __future__ import annotations

from typing import Any

import pandas as pd

from harness.records import Plan, Row, Skipped, Table, Trial

AWKWARD = r"50 % & _x_ # {y} $z$ ~ ^ \end|<é ± Δ – “中”>"
FULL = {"name": "mafn", "fusion": "correlation", "noise": True, "decoder": "msrc", "kernels": (1, 3, 5)}
METRICS = ("p50", "p60", "p70", "p80", "p90", "oiou", "miou")
FEW = ("p50", "p70", "p90", "oiou", "miou")

WOBBLE = ((1, -2, 1), (-1, 0, 1), (2, -1, -1), (0, 1, -1))
"""What training again adds, by level and replicate; without mean, so that only spreads and tests see it."""

Change = dict[str, Any]


def make_trial(variant: str, replicate: int, **model: Any) -> Trial:
    """A trial of MAFN with other options."""
    return Trial(
        task="referring",
        data={"name": "rrsis_d", "image_size": 480},
        data_fingerprint="f" * 12,
        model={**FULL, **model},
        train={"lr": 3e-5},
        evaluate={"protocol": "rrsis480"},
        replicate=replicate,
        variant=variant,
    )


def make_rows(group: str, variants: dict[str, Change], *, replicates: int = 3) -> tuple[tuple[Row, ...], list[Trial]]:
    """Rows and trials of label -> changes of the model's options; no change at all is the reference."""
    rows, trials = [], []
    for label, change in variants.items():
        mine = [make_trial(f"{group}/{label}", r, **change) for r in range(replicates)]
        changes = {f"model.{k}": v for k, v in change.items()}
        rows.append(Row(label, f"{group}/{label}", changes, tuple(t.id for t in mine), is_reference=not change))
        trials += mine
    return tuple(rows), trials


COMPARISON: dict[str, Change] = {
    "LAVT": {"name": "lavt"},
    "RMSIN": {"name": "rmsin"},
    "LGCE": {"name": "lgce"},
    "CMPC": {"name": "cmpc"},
    AWKWARD: {"name": "awkward"},
    "MAFN": {},
}
COMPONENTS: dict[str, Change] = {
    "default": {"fusion": "sum", "noise": False, "decoder": "arc"},
    "+ correlation fusion": {"noise": False, "decoder": "arc"},
    "+ adaptive noise": {"decoder": "arc"},
    "+ MSRC": {},
}
KERNELS: dict[str, Change] = {
    "[1]": {"kernels": (1,)},
    "[1, 3]": {"kernels": (1, 3)},
    "[1, 3, 5]": {},
    "[1, 3, 5, 7]": {"kernels": (1, 3, 5, 7)},
}


def make_plan(*, replicates: int = 3) -> Plan:
    """The three tables of the MAFN paper."""
    comparison, a = make_rows("comparison", COMPARISON, replicates=replicates)
    components, b = make_rows("components", COMPONENTS, replicates=replicates)
    kernels, c = make_rows("kernels", KERNELS, replicates=replicates)
    return Plan(
        study="mafn & friends",
        question="Which of MAFN's parts earn their 50 % of parameters?",
        trials=tuple({t.id: t for t in (*a, *b, *c)}.values()),
        tables=(
            Table("comparison", "comparison", "comparison", METRICS, ("val", "test"), comparison, "rrsis_d"),
            Table("components", "ablation", "components", FEW, ("val",), components, "rrsis_d"),
            Table("kernels", "ablation", "kernels", FEW, ("val",), kernels, "rrsis_d", caption="Kernel sizes."),
            Table(
                "control", "ablation", "components", ("oiou", "miou"), ("val", "val_shuffled"), components, costs=False
            ),
        ),
        skipped=(
            Skipped("comparison/CMPC+", "comparison", "needs GloVe_6B, which is\nnot on disk"),
            Skipped("kernels/[9]", "other", "not of a table shown"),
        ),
        replicates=replicates,
        spec_sha="ab" * 32,
    )


def make_frame(plan: Plan) -> pd.DataFrame:
    """Results of most of it: CMPC failed, LGCE never started, one replicate of RMSIN and one kernel set are missing."""
    lines: list[dict[str, Any]] = []
    labels = {t: row.label for table in plan.tables for row in table.rows for t in row.trial_ids}
    order = {label: i for i, label in enumerate(dict.fromkeys(labels.values()))}
    for trial in plan.trials:
        label = labels[trial.id]
        level = {"+ adaptive noise": order["+ correlation fusion"]}.get(label, order[label])
        if label == "LGCE":
            continue
        if label == "CMPC":
            note = "OutOfMemoryError: tried to allocate 24.00 GiB (GPU 0)" if trial.replicate else ""
            lines += _lines(trial, "FAILED", started=1, note=note or None)
        elif label in ("RMSIN", "[1, 3]") and trial.replicate == 1:
            lines += _lines(trial, "FAILED", started=1, note="ValueError: loss is nan_ & 100 % wrong")
        elif label == "[1]" and trial.replicate > 0:
            lines += _lines(trial, "RUNNING", started=1, level=99)
        else:
            lines += _lines(trial, "FAILED", started=0, note="an earlier attempt", level=50)
            lines += _lines(trial, "COMPLETE", started=1, level=level)
            lines += _lines(trial, "RUNNING", started=2, level=99)
    return pd.DataFrame(lines)


def _lines(
    trial: Trial, state: str, *, started: int, note: str | None = None, level: int | None = None
) -> list[dict[str, Any]]:
    run = {
        "study": "mafn",
        "variant": trial.variant,
        "trial_id": trial.id,
        "replicate": trial.replicate,
        "state": state,
        "run_id": f"{trial.id}{state.lower()}{started}",
        "commit": "c0ffee",
        "note": note,
        "started": pd.Timestamp(2026, 1, 1 + started),
    }
    if level is None:
        return [{**run, "split": None, "metric": None, "value": float("nan")}]
    wobble = 1e-4 * WOBBLE[level % 4][trial.replicate]
    scores = [
        (split, metric, 0.80 - 0.07 * i + 0.004 * level - 0.02 * s + (0.001 + 0.0005 * i) * trial.replicate**2 + wobble)
        for s, split in enumerate(("val", "test", "val_shuffled"))
        for i, metric in enumerate(METRICS)
    ]
    if trial.model["name"] != "lavt":  # whose cost was not recorded
        size = len(trial.model["kernels"]) + 7.5 * (trial.model["name"] == "awkward")
        scores += [
            ("cost", "parameters", 2.4e8 + 1e6 * size),
            ("cost", "gmacs", 0.0123456 if size > 10 else 330 + size),
        ]
    return [{**run, "split": split, "metric": metric, "value": value} for split, metric, value in scores]
