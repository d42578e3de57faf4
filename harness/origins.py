"""Where the trials of a study come from, in one pass over the results frame: what a report says behind its figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from harness.code_reach import Changes
from harness.records import Trial
from harness.trial_log import log_path
from harness.trial_lookup import folder_of
from reports.origins import Origin
from reports.results import Results


def origins(results: Results, changes: Changes, storage: Path) -> dict[str, Origin]:
    """Trial id -> origin of the run that counts for it; trials that never started are left out.

    Args:
        results: The study.
        changes: What has changed of the code.
        storage: Folder that paths are given relative to.

    Raises:
        TrackingError: The store cannot be read.
    """
    rows, known = run_rows(results.frame), results.known
    return {
        trial.id: origin(trial, rows[known[trial.id].run_id], changes, storage)
        for trial in results.plan.trials
        if trial.id in known
    }


def run_rows(frame: pd.DataFrame) -> dict[str, Mapping[Any, Any]]:
    """Run id -> a row of it."""
    return {str(row["run_id"]): row for row in frame.drop_duplicates("run_id").to_dict("records")}


def origin(trial: Trial, row: Mapping[Any, Any], changes: Changes, storage: Path) -> Origin:
    """The origin of one run of a trial, from any of its rows in the results frame."""
    said = {name: str(value) for name, value in row.items() if isinstance(value, str)}
    run_id, sha = said["run_id"], said.get("code_sha", "")
    code = changes.since(trial, run_id, sha)
    fingerprint = said.get("data_fingerprint", "")
    data = (f"data: fingerprint {fingerprint}, now {trial.data_fingerprint}",)
    return Origin(
        run_id=run_id,
        commit=said.get("commit", ""),
        dirty={"true": True, "false": False}.get(said.get("dirty", "")),
        code_sha=sha,
        resumed_sha=said.get("resumed_sha", ""),
        data_fingerprint=fingerprint,
        checkpoint=_in_trial(trial, storage, said.get("checkpoint", "")),
        log=_inside(storage, str(log_path(folder_of(storage, trial.id), 0))),
        stale=(*(data if fingerprint not in ("", trial.data_fingerprint) else ()), *code.stale),
        also=code.also,
    )


def _in_trial(trial: Trial, storage: Path, path: str) -> str:
    """A file of a trial as it is found from the storage folder at hand, wherever that was when the run ended."""
    here = folder_of(storage, trial.id)
    place = Path(path)
    moved = place.is_absolute() and place.parts[-3:-1] == here.parts[-2:]
    return _inside(storage, str(here / place.name) if moved else path)


def _inside(storage: Path, path: str) -> str:
    """A path as it is found from the storage folder, so that pages of equal results are equal on every machine."""
    return Path(path).relative_to(storage).as_posix() if path and Path(path).is_relative_to(storage) else path
