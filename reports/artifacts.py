"""What figures and break-downs need besides scores: per-sample results, masks, maps, curves, pictures.

Whoever calls the report provides these; nothing here reads a store or a dataset.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.records import Plan, Row, Table, TrialState
from reports.evidence import Evidence, collect_evidence
from reports.origins import Origin


class Artifacts(Protocol):
    """What runs left behind."""

    def samples(self, run_id: str, split: str) -> pd.DataFrame | None:
        """One row per sample of a split, the same order in every run; None where the run left none."""
        ...

    def masks(self, run_id: str, split: str, keys: Collection[str]) -> Mapping[str, NDArray[np.bool_]]:
        """Key -> predicted mask `(H, W)`; samples that the run did not keep are left out."""
        ...

    def feature_maps(self, run_id: str) -> Mapping[str, NDArray[Any]]:
        """`keys (B,)`, and a map `(B, H, W)` per point; empty where the run left none."""
        ...

    def curve(self, run_id: str, name: str) -> Mapping[int, float]:
        """Epoch -> value of a learning curve, for example `val/miou`."""
        ...


@dataclass(frozen=True)
class Panel:
    """A sample as pictures."""

    image: NDArray[np.uint8]
    """`(S, S, 3)`, 0..255."""
    truth: NDArray[np.bool_]
    """`(S, S)`."""
    sentence: str


class Panels(Protocol):
    """Opens samples of the dataset."""

    def read(self, split: str, keys: Collection[str], *, size: int) -> Mapping[str, Panel]:
        """Key -> panel of side `size`.

        Raises:
            DataError: The dataset is not at hand, or holds no such sample.
        """
        ...


@dataclass(frozen=True)
class Sources:
    """Where a report gets what scores do not say."""

    artifacts: Artifacts
    panels: Panels
    origins: Mapping[str, Origin] = field(default_factory=dict)
    """Trial id -> where the run that counts for it comes from; without it, nothing is known to be stale."""


class NotDrawn(Exception):  # noqa: N818 -- no error: the report goes on and says so
    """Why a figure or a break-down cannot be made; shown to the user."""


class OtherDesign(NotDrawn):
    """A table of another design than the figure is of; shown only where no table of the study is of that design."""


@dataclass(frozen=True)
class Run:
    """A complete run that speaks for a replicate of a row."""

    trial_id: str
    replicate: int
    run_id: str


@dataclass(frozen=True)
class FigureRequest:
    """What every figure is drawn from."""

    plan: Plan
    frame: pd.DataFrame
    """Results frame."""
    sources: Sources

    def evidence(self, rows: Collection[Row]) -> dict[str, Evidence]:
        """What is recorded of the trials of some rows."""
        return {t: self._known[t] for row in rows for t in row.trial_ids if t in self._known}

    @cached_property
    def _known(self) -> dict[str, Evidence]:
        """Of every row: looking through the frame once for each takes long where there are many."""
        return collect_evidence(self.frame, {t for table in self.plan.tables for r in table.rows for t in r.trial_ids})

    def runs(self, row: Row) -> list[Run]:
        """The complete runs of a row by replicate."""
        found = self.evidence([row])
        done = [found[t] for t in row.trial_ids if t in found and found[t].state is TrialState.COMPLETE]
        return [Run(e.trial_id, e.replicate, e.run_id) for e in done]


def distinct_tables(plan: Plan) -> list[Table]:
    """The tables of a plan; of several with the same rows the first one."""
    found: dict[tuple[str, ...], Table] = {}
    for table in plan.tables:
        found.setdefault(tuple(row.variant for row in table.rows), table)
    return list(found.values())
