"""Which recorded run speaks for a trial: a trial tried several times counts once.

A COMPLETE run wins over any other; among equals the one started last.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import pandas as pd

from harness.records import TrialState

COLUMNS = ("trial_id", "replicate", "state", "run_id", "started", "split", "metric", "value", "note")
"""What this package reads of the results frame."""
FAULT = "fault"
"""Column with the kind of failure; a frame may lack it."""


@dataclass(frozen=True)
class Evidence:
    """What is recorded of one trial."""

    trial_id: str
    run_id: str
    state: TrialState
    replicate: int
    note: str
    """Why it failed, one line; empty when nothing was recorded."""
    scores: Mapping[tuple[str, str], float]
    """(split, metric) -> fraction in 0..1; empty unless COMPLETE."""
    fault: str = ""
    """What kind of failure it was; empty when none was recorded."""


def values_of(
    trial_ids: Iterable[str], evidence: Mapping[str, Evidence], *, split: str, metric_name: str
) -> list[float]:
    """A score of some trials, stored unit, of those that have it."""
    scores = (evidence[t].scores for t in trial_ids if t in evidence)
    return [found[split, metric_name] for found in scores if (split, metric_name) in found]


def collect_evidence(frame: pd.DataFrame, trial_ids: Collection[str]) -> dict[str, Evidence]:
    """What the results frame says of some trials.

    Args:
        frame: Tidy results, one row per score; a run without scores has one row whose split and metric are null.
        trial_ids: Trials to look for.

    Returns:
        Trial id -> evidence; trials that never started are left out.

    Raises:
        ValueError: A column is missing.
    """
    missing = [c for c in COLUMNS if c not in frame.columns]
    if missing:
        raise ValueError(f"a results frame must have the columns {', '.join(COLUMNS)}; missing: {', '.join(missing)}")
    mine = frame[frame["trial_id"].isin(list(trial_ids))]
    ranked = mine.assign(complete=mine["state"] == TrialState.COMPLETE.value).sort_values(
        ["complete", "started", "run_id"], kind="stable", na_position="first"
    )
    chosen = ranked.drop_duplicates("trial_id", keep="last")
    kept = mine[mine["run_id"].isin(chosen["run_id"])]
    scored = kept[(kept["state"] == TrialState.COMPLETE.value) & kept["value"].notna()]
    scores: dict[str, dict[tuple[str, str], float]] = {}
    for run_id, split, metric, value in scored[["run_id", "split", "metric", "value"]].itertuples(index=False):
        scores.setdefault(str(run_id), {})[str(split), str(metric)] = float(value)
    if FAULT not in chosen:
        chosen = chosen.assign(**{FAULT: None})
    columns = ["trial_id", "run_id", "state", "replicate", "note", FAULT]
    return {
        str(trial_id): Evidence(
            trial_id=str(trial_id),
            run_id=str(run_id),
            state=TrialState(str(state)),
            replicate=int(replicate),
            note=note if isinstance(note, str) else "",
            scores=scores.get(str(run_id), {}),
            fault=fault if isinstance(fault, str) else "",
        )
        for trial_id, run_id, state, replicate, note, fault in chosen[columns].itertuples(index=False)
    }
