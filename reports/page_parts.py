"""What a report's page says beside tables and figures: runs, the plan, failures, the code they came from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from harness.records import Plan, Trial, TrialState
from reports.captions import join_words
from reports.evidence import Evidence
from reports.results import Results

MAX_TRACEBACKS = 20
"""Different failures whose tracebacks a page shows; each is fetched by itself."""

MAX_CODES = 8
"""States of the code whose versions a page shows."""


def _no_url(run_id: str) -> str | None:  # noqa: ARG001
    return None


def _no_text(run_id: str) -> str:  # noqa: ARG001
    return ""


def _no_versions(run_id: str) -> Mapping[str, str]:  # noqa: ARG001
    return {}


@dataclass(frozen=True)
class Background:
    """What a page needs besides the results; whoever calls the report provides it, and any of it may be left out."""

    run_url: Callable[[str], str | None] = _no_url
    """Run id -> its page; None where no server shows it."""
    traceback: Callable[[str], str] = _no_text
    """Run id -> the traceback that it left; empty for none."""
    versions: Callable[[str], Mapping[str, str]] = _no_versions
    """Run id -> package -> version that it ran with."""
    study_text: str = ""
    """The study's file."""
    looks: Collection[tuple[str, str]] = ()
    """Study and id of every trial that was scored on the test split of the study's data."""


class RunLink(NamedTuple):
    """A run, and where it can be looked at."""

    run_id: str
    url: str | None
    trial_id: str
    """Empty where the results frame does not have the run."""
    variant: str
    replicate: int | None


class PlanLine(NamedTuple):
    """A trial and how it stands."""

    trial: Trial
    state: TrialState
    run: RunLink | None
    attempts: int
    """Runs that the trial has had."""


@dataclass(frozen=True)
class Failure:
    """Trials that failed for the same reason."""

    fault: str
    note: str
    runs: tuple[RunLink, ...]
    traceback: str = ""
    """Of the first run."""


@dataclass(frozen=True)
class CodeState:
    """A state of the code, and what ran from it."""

    commit: str
    code_sha: str
    runs: int
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of one of the runs."""


class Runs:
    """The runs of a study.

    Args:
        results: The study.
        background: Where runs can be looked at, and what else they left.
    """

    def __init__(self, results: Results, background: Background) -> None:
        plan, frame = results.plan, results.frame
        self._plan = plan
        self._background = background
        self._links: dict[str, RunLink] = {}
        self._variants = {trial.id: trial.variant for trial in plan.trials}
        mine = frame[frame["trial_id"].isin(list(self._variants))]
        self._attempts = mine.groupby("trial_id")["run_id"].nunique().to_dict()
        self._known = {str(row["run_id"]): row for row in mine.drop_duplicates("run_id").to_dict("records")}
        self._evidence = {t: results.known[t] for t in self._variants if t in results.known}

    def link(self, run_id: str) -> RunLink:
        """A run by its id."""
        if run_id not in self._links:
            self._links[run_id] = self._link(run_id)
        return self._links[run_id]

    def _link(self, run_id: str) -> RunLink:
        url = self._background.run_url(run_id)
        safe = url if url is not None and url.startswith(("http://", "https://")) else None
        row = self._known.get(run_id)
        if row is None:
            return RunLink(run_id, safe, "", "", None)
        trial_id = str(row["trial_id"])
        return RunLink(run_id, safe, trial_id, self._variants[trial_id], int(row["replicate"]))

    def trial(self, trial_id: str) -> Evidence | None:
        """What is recorded of a trial; None where it never started."""
        return self._evidence.get(trial_id)

    def lines(self) -> list[PlanLine]:
        """Every trial of the plan."""
        return [self._line(trial, self._evidence.get(trial.id)) for trial in self._plan.trials]

    def _line(self, trial: Trial, found: Evidence | None) -> PlanLine:
        if found is None:
            return PlanLine(trial, TrialState.WAITING, None, 0)
        return PlanLine(trial, found.state, self.link(found.run_id), int(self._attempts[trial.id]))

    def failures(self) -> list[Failure]:
        """Trials whose last word is a failure, by reason; those that a later attempt mended are not among them."""
        causes: dict[tuple[str, str], list[RunLink]] = {}
        for trial in self._plan.trials:
            found = self._evidence.get(trial.id)
            if found is not None and found.state is TrialState.FAILED:
                causes.setdefault((found.fault, found.note), []).append(self.link(found.run_id))
        return [
            Failure(fault, note, tuple(runs), self._background.traceback(runs[0].run_id) if i < MAX_TRACEBACKS else "")
            for i, ((fault, note), runs) in enumerate(causes.items())
        ]

    def codes(self) -> list[CodeState]:
        """States of the code that the counted runs came from, the one of most runs first."""
        origins: dict[tuple[str, str], list[str]] = {}
        for found in self._evidence.values():
            row = self._known[found.run_id]
            origins.setdefault((_text(row.get("commit")), _text(row.get("code_sha"))), []).append(found.run_id)
        ordered = sorted(origins.items(), key=lambda item: (-len(item[1]), item[0]))
        return [
            CodeState(*code, len(ids), self._background.versions(min(ids)) if i < MAX_CODES else {})
            for i, (code, ids) in enumerate(ordered)
        ]


def count_states(lines: Iterable[PlanLine]) -> dict[TrialState, int]:
    """State -> trials in it, in the order of `TrialState`, without states that none is in."""
    states = [line.state for line in lines]
    return {state: states.count(state) for state in TrialState if state in states}


def looks_words(plan: Plan, looks: Collection[tuple[str, str]]) -> str:
    """How often the test split of a study's data has been looked at, each time with a trial; empty for never."""
    if not looks:
        return ""
    ids = {trial.id for trial in plan.trials}
    mine = {trial_id for _, trial_id in looks if trial_id in ids}
    others = {trial_id: study for study, trial_id in looks if trial_id not in ids}
    studies = join_words(f"“{study}”" for study in sorted(set(others.values())))
    rest = f"{len(others)} on the same data that {'is' if len(others) == 1 else 'are'} not (study {studies})"
    count = f"{len(mine)} trial{'s' * (len(mine) != 1)} of the plan"
    return f"{count}, and {rest if others else 'no other on the same data'}"


def fingerprints(trials: Sequence[Trial]) -> list[tuple[str, str]]:
    """Each dataset with the fingerprint of its samples."""
    return list(dict.fromkeys((str(t.data.get("name", "data")), t.data_fingerprint) for t in trials))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
