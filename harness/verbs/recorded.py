"""A study that has been run: its plan, and what MLflow and the storage folder have of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import HarnessError
from harness.records import TrialState
from harness.verbs.options import no_store, planned, recorded_store, storage_path

if TYPE_CHECKING:
    from pandas import DataFrame

    from harness.artifacts import MlflowArtifacts
    from harness.records import Plan
    from reports.results import Results

PUBLISHED = "published"
"""Folder beside a study with the published numbers that its tables may quote."""


@dataclass(frozen=True)
class Recorded:
    """What a report of a study is made from, read when it is first asked for."""

    plan: Plan
    spec: Path
    """The study's file."""
    storage: Path
    uri: str
    """Tracking store."""

    @property
    def published(self) -> Path:
        """Folder of the published numbers that its tables may quote."""
        return self.spec.parent / PUBLISHED

    @cached_property
    def frame(self) -> DataFrame:
        """Results frame of all its trials."""
        from harness.results import results_frame

        return results_frame(self.uri, (trial.id for trial in self.plan.trials))

    def require_runs(self) -> None:
        """Refuse a study of which nothing is recorded: its tables would be dashes.

        Raises:
            HarnessError: No trial of the plan has a run.
        """
        if self.frame.empty:
            from harness.results import shown

            num = len(self.plan.trials)
            raise HarnessError(
                f"a trial of study {self.plan.study!r} must have a run to be reported, none of its {num} has one in "
                f"{shown(self.uri)}: {self.spec}, --set or the data is not what was trained, or it was recorded "
                f"elsewhere; run `harness run {self.spec}`, or give --storage or --tracking-uri"
            )

    @cached_property
    def artifacts(self) -> MlflowArtifacts:
        """What its runs left."""
        from harness.artifacts import MlflowArtifacts

        return MlflowArtifacts(self.uri, self.storage)

    @cached_property
    def results(self) -> Results:
        """What tables and figures are made from."""
        from harness.panels import DatasetPanels
        from reports.artifacts import Sources
        from reports.results import Results

        sources = Sources(self.artifacts, DatasetPanels(self.plan.trials[0], self.storage))
        return Results(self.plan, self.frame, sources)

    @property
    def num_complete(self) -> int:
        """Trials of the plan that have a complete run."""
        known = self.results.known
        return sum(t.id in known and known[t.id].state is TrialState.COMPLETE for t in self.plan.trials)

    @cached_property
    def traced(self) -> Results:
        """The same with the origin of every run, whose code is compared with today's."""
        from harness.code_reach import Changes
        from harness.frozen_code import code_files
        from harness.origins import origins

        changes = Changes(code_files(), lambda run_id: self.artifacts.document(run_id, "code.json"))
        return self.results.with_origins(origins(self.results, changes, self.storage))


def recorded(
    spec: Path, overrides: Sequence[str] | None, *, storage: Path | None, tracking_uri: str | None, optuna: str | None
) -> Recorded:
    """The study of a file, without rows that are still to be tuned.

    Raises:
        HarnessError: Nothing has been recorded of it, or no row is left.
    """
    from harness.spec import load_study

    study = load_study(spec, overrides or ())
    folder = storage_path(storage)
    uri = recorded_store(tracking_uri, folder)
    if uri is None and tracking_uri:
        raise no_store(tracking_uri)
    if uri is None:
        raise HarnessError(f"nothing has been recorded in {folder}; run `harness run {spec}` first, or give --storage")
    plan = planned(study, provisional=False, storage=folder, optuna=optuna)[0].settled
    if not plan.trials:
        raise HarnessError(f"no variant has been tuned yet; run `harness run {spec}` first, or give --storage")
    return Recorded(plan, spec, folder, uri)
