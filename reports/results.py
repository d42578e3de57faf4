"""What is known of a study: its plan, what is recorded of every trial, and what the runs left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import pandas as pd

from harness.records import Plan, Row, Table, TrialState
from reports.artifacts import NOTHING, Sources
from reports.evidence import Evidence, collect_evidence, values_of
from reports.origins import Origin
from reports.row_scores import RowScores
from reports.sample_tables import SampleTables


@dataclass(frozen=True)
class Results:
    """What tables and figures are made from. What several of them need is computed once."""

    plan: Plan
    frame: pd.DataFrame
    """Results frame; trials of other studies in it do not count, unless the plan shares them."""
    sources: Sources = NOTHING

    @cached_property
    def known(self) -> dict[str, Evidence]:
        """Trial id -> what is recorded of it; trials that never started are left out."""
        rows = (row for table in self.plan.tables for row in table.rows)
        return collect_evidence(
            self.frame, {*(trial.id for trial in self.plan.trials), *(t for row in rows for t in row.trial_ids)}
        )

    def with_origins(self, origins: Mapping[str, Origin]) -> Results:
        """The same with where every run comes from; what is known is not collected again."""
        made = replace(self, sources=replace(self.sources, origins=origins))
        vars(made)["known"] = self.known
        return made

    def evidence(self, rows: Iterable[Row]) -> dict[str, Evidence]:
        """What is recorded of the trials of some rows."""
        return {t: self.known[t] for row in rows for t in row.trial_ids if t in self.known}

    def runs(self, row: Row) -> list[Evidence]:
        """The complete runs of a row by replicate."""
        found = self.evidence([row])
        return [found[t] for t in row.trial_ids if t in found and found[t].state is TrialState.COMPLETE]

    def run_ids(self, rows: Iterable[Row]) -> tuple[str, ...]:
        """Ids of the complete runs of some rows, each once."""
        return tuple(dict.fromkeys(run.run_id for row in rows for run in self.runs(row)))

    def values(self, row: Row, *, split: str, metric_name: str) -> list[float]:
        """A score of a row, stored unit, one per replicate that has it."""
        return values_of(row.trial_ids, self.known, split=split, metric_name=metric_name)

    @cached_property
    def samples(self) -> SampleTables:
        """Per-sample results of its runs."""
        return SampleTables(self.plan, self.sources.artifacts)

    @cached_property
    def scores(self) -> RowScores:
        """Scores of its rows by replicate, on resampled test samples where there are some."""
        return RowScores(self.known, self.samples)


def distinct_tables(plan: Plan) -> list[Table]:
    """The tables of a plan; of several with the same rows the first one."""
    found: dict[tuple[str, ...], Table] = {}
    for table in plan.tables:
        found.setdefault(tuple(row.variant for row in table.rows), table)
    return list(found.values())
