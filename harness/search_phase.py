"""The first of a study's two phases: every variant that has a search is tuned, all at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.executor import Executor, Listener, Relay, Session
from harness.records import Plan, Trial, TrialResult
from harness.search import SearchSource
from harness.search_view import SearchProgress
from harness.trial_folder import trial_folder


class SearchObserver(Relay):
    """Passes what an executor tells on: to the record, to the screen, and last to the searches, which count it.

    Args:
        record: Where trials are written down.
        progress: Shows them.
        source: The searches.
        storage: Folder of the study's runs.
    """

    def __init__(self, record: Listener, progress: SearchProgress, source: SearchSource, storage: Path) -> None:
        super().__init__(record, progress, source)
        self._progress, self._source, self._storage = progress, source, storage

    def retried(self, trial: Trial, attempt: Mapping[str, Any]) -> None:
        """The trial is tried again."""
        self._progress.notice(f"{trial.variant} {trial.id} is tried again after {attempt['fault']}: {attempt['cause']}")

    def ended_elsewhere(self, trial: Trial, result: TrialResult) -> None:
        """Another driver has run the trial and recorded it."""
        folder = trial_folder(self._storage, trial)
        self._progress.finished(trial, result, folder)
        self._source.finished(trial, result, folder)

    def notice(self, text: str) -> None:
        """Something that the user should know."""
        self._progress.notice(text)

    def refresh(self) -> None:
        """Nothing: what happens is said as it comes."""


def search_plan(plan: Plan) -> Plan:
    """What is recorded of a study's searches: one variant per search that has not ended, no tables."""
    waiting = tuple(search for search in plan.searches if not search.is_done)
    return replace(plan, trials=tuple(search.template for search in waiting), tables=(), skipped=(), searches=waiting)


def run_searches(
    source: SearchSource, *, executor: Executor, session: Session, record: Listener, progress: SearchProgress
) -> None:
    """Tune variants.

    Args:
        source: The searches of a `search_plan`.
        executor: Runs their trials.
        session: This driver.
        record: Opened for that plan.
        progress: Shows the searches.

    Raises:
        HarnessError: A search has spent its budget without a complete trial; the others have ended too.
    """
    executor.run(source, session, SearchObserver(record, progress, source, session.storage))
    source.require_winners()
