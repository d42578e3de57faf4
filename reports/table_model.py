"""A table as values: what every renderer (LaTeX, Markdown, CSV) formats and none of them computes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class CellState(StrEnum):
    """What a cell can say."""

    COMPLETE = "complete"
    """Every expected replicate has a score."""
    PARTIAL = "partial"
    """Some replicates have a score."""
    FAILED = "failed"
    """Every replicate failed."""
    MISSING = "missing"
    """No replicate has a score, and not all of them failed."""
    REFERENCE = "reference"
    """The difference of the reference to itself."""
    PUBLISHED = "published"
    """Quoted from somebody else's publication."""
    NOT_REPORTED = "not reported"
    """A figure that the publication does not give."""
    NOT_RECORDED = "not recorded"
    """A cost that no run has recorded, or that is not quoted."""


class Emphasis(StrEnum):
    """Standing of a cell among our rows of its column."""

    NONE = "none"
    BEST = "best"
    """It cannot be told from the best of its column, and others can."""


class Flag(StrEnum):
    """What a test, or its absence, says of a cell."""

    REPLICATES_ONLY = "replicates only"
    """No per-sample results took part in its interval and tests."""
    BLOCKED = "blocked"
    """Its test samples come in blocks, of which each counts once: tiles of one scene, say."""
    ALL_ALIKE = "all alike"
    """No row of its column can be told from the best."""
    UNTESTED = "better, untested"
    """Its mean is better than that of the best row of its column, with which it was not compared."""
    WORSE = "better, worse"
    """Its mean is better than that of the best row of its column, and worse on the replicates that both have."""
    DIFFERS = "differs"
    """The difference to the reference can be told from 0."""
    NOT_SIGNIFICANT = "not significant"
    """It cannot."""
    STALE = "stale"
    """Code or data that it rests on has changed since its trials ran."""


TEST_MARKS = {Flag.DIFFERS: "*", Flag.NOT_SIGNIFICANT: "n.s."}
"""Marks behind a difference to the reference."""

STALE_MARK = "stale"
"""Mark of a figure, or of a row of them, that is flagged so; numbered where several things have changed."""

FAULTS = {"out of memory": "OOM", "diverged": "diverged", "timed out": "timed out"}
"""Recorded fault -> what stands in a cell whose replicates all failed so; any other is `failed`."""


@dataclass(frozen=True)
class Cell:
    """One figure and where it comes from."""

    split: str
    metric: str
    state: CellState
    is_delta: bool = False
    """Whether the figure is a difference to the reference."""
    value: float | None = None
    """Mean over replicates in the stored unit (a fraction in 0..1 for shares); None when there is no score."""
    std: float | None = None
    """Standard deviation over replicates, stored unit; None for fewer than two."""
    n: int = 0
    """Replicates that have a score."""
    expected_n: int = 0
    """Replicates the plan asks for."""
    figure: str = ""
    """The value as shown, scaled and rounded; empty without a value."""
    spread: str = ""
    """The standard deviation as shown; empty without one."""
    count: str = ""
    """`n=2/3` when this cell is less complete than its row says."""
    emphasis: Emphasis = Emphasis.NONE
    marks: tuple[str, ...] = ()
    """Footnote marks."""
    trial_ids: tuple[str, ...] = ()
    run_ids: tuple[str, ...] = ()
    """MLflow runs: those of the figure, or of the failures where there is none; of a difference, pairs of them."""
    values: tuple[float, ...] = ()
    """Score, or difference, of each replicate that has one, stored unit; as many as runs, or as pairs of them."""
    source: str = ""
    """Source of a published figure."""
    interval: tuple[float, float] | None = None
    """95 % interval of the mean, stored unit; None for fewer than two replicates."""
    p: float | None = None
    """Of a difference to the reference: two-sided, corrected for the differences of the table."""
    flags: tuple[Flag, ...] = ()
    stale: str = ""
    """What has changed since its trials ran; empty where nothing that it rests on is known to have."""
    fault: str = ""
    """How every replicate failed, where all failed alike: one of `FAULTS`."""
    verdict: str = ""
    """Of a published figure: what our replicates of the same method say of it."""

    @property
    def failure(self) -> str:
        """The word for a cell whose replicates failed."""
        return FAULTS.get(self.fault, "failed")


@dataclass(frozen=True)
class Column:
    """What a column of figures shows."""

    head: str
    """For example `P@0.5 ↑`."""
    group: str = ""
    """Head above the head, for example `validation`; empty in tables of one split and in tables of panels."""


@dataclass(frozen=True)
class TableRow:
    """A labelled row of figures."""

    label: str
    cells: tuple[Cell, ...]
    switches: tuple[bool | str, ...] = ()
    """Value of each varied axis, as many as the table has switch heads; empty for published rows."""
    count: str = ""
    """`n=2/3` when that holds for every figure of the row."""
    marks: tuple[str, ...] = ()
    is_published: bool = False


@dataclass(frozen=True)
class Block:
    """Rows that belong together, between two rules."""

    heading: str
    """Plain text; empty for none."""
    rows: tuple[TableRow, ...]
    marks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Footnote:
    """A remark below the table; without mark when it concerns the whole table."""

    mark: str
    text: str
    cite: str = ""
    """Citation key of the source that it names."""


@dataclass(frozen=True)
class TableModel:
    """A finished table."""

    name: str
    caption: str
    stub: str
    """Head of the column of labels."""
    switch_heads: tuple[str, ...]
    columns: tuple[Column, ...]
    blocks: tuple[Block, ...]
    footnotes: tuple[Footnote, ...] = ()

    def cells(self) -> Iterator[tuple[TableRow, Cell]]:
        """Every cell with its row, in reading order."""
        for block in self.blocks:
            for row in block.rows:
                for cell in row.cells:
                    yield row, cell
