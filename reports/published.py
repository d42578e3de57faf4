"""Published numbers: figures quoted from papers, each with its source and, where there is one, its doubt.

A file of `experiments/published/` names the dataset, its splits, its sources and doubts once, and then lists rows.
Figures are written as printed, in per cent. Rows that were not obtained alike belong to different `protocols`: tables
keep them apart, each under a heading that says how they were obtained.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.errors import HarnessError, UnknownNameError, nearest
from harness.metrics import metric
from harness.records import Trial
from harness.spec_errors import problems
from harness.yaml_lines import read_document

WHOLE_ROW = "row"
"""Key of `doubts` for a doubt about every figure of a row."""

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")]
Printed = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]


class Strict(BaseModel):
    """Unknown keys are errors; values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(Strict):
    """Where figures were printed."""

    text: str
    """As a footnote says it."""
    cite: Annotated[str, Field(pattern=r"^[A-Za-z0-9_:-]+$")]
    """Citation key."""
    url: str = ""
    """Empty where none is known."""


class Protocol(Strict):
    """How the figures of some rows were obtained, where rows of one file were not obtained alike."""

    heading: str
    """In a few words, as it stands above the rows: whose split, which mean."""
    text: str
    """As a footnote says it."""
    conditions: dict[str, Any] = {}
    """Like those of the file; empty where it is not known how to do the same."""


class PublishedRow(Strict):
    """One row of a published table on one split."""

    table: Name
    """Which published table it is from; a study's table of that name shows it."""
    label: str
    """As the publication calls it."""
    match: dict[str, Any]
    """Axis path -> value that one of our variants must have to be the same method; empty for methods we do not have."""
    split: Name
    scores: dict[str, Printed]
    """Metric -> figure as printed, per cent."""
    source: Name
    """Source of every figure that `sources` does not list."""
    sources: dict[str, Name] = {}
    """Metric -> source, where it differs."""
    comparable: bool = True
    """Whether it was obtained as the other rows of its protocol, as far as it is known."""
    protocol: str = ""
    """How the figures were obtained, as far as it is known; empty where `under` says all of it."""
    under: Name | None = None
    """Entry of `protocols` that it was obtained under; None in files whose rows can be compared with each other."""
    doubts: dict[str, Name] = {}
    """Metric, or `row` for all -> doubt."""

    def matches(self, trial: Trial) -> bool:
        """Whether the trial's configuration has every value that `match` asks for; it asks for at least one."""
        return bool(self.match) and all(axis_value(trial, path) == value for path, value in self.match.items())


class Published(Strict):
    """One file of published numbers."""

    dataset: str
    task: str = "referring"
    """The task that every metric must belong to."""
    splits: dict[Name, Annotated[int, Field(gt=0)] | None]
    """Split -> number of samples; null where it is not known, or differs between the rows."""
    sources: dict[Name, Source]
    doubts: dict[Name, str]
    """Why a figure may be wrong, as a footnote says it."""
    protocols: dict[Name, Protocol] = {}
    conditions: dict[str, Any] = {}
    """Axis path -> value that a trial of ours must have to be measured as these rows were.

    Empty where that is not known, so that no verdict is given.
    """
    rows: tuple[PublishedRow, ...]

    @model_validator(mode="after")
    def _check_names(self) -> Published:
        seen: set[tuple[str, str, str, str | None]] = set()
        for row in self.rows:
            where = f"row {row.table}/{row.label}/{row.split}"
            _check(row.split in self.splits, where, "split", row.split, self.splits)
            for name in (*row.scores, *row.sources, *(m for m in row.doubts if m != WHOLE_ROW)):
                _check_metric(name, where, self.task)
                if metric(name).threshold is not None and self.splits[row.split] is None:
                    raise ValueError(f"{where}: {name} is a share of samples, so splits.{row.split} must say how many")
            for source in (row.source, *row.sources.values()):
                _check(source in self.sources, where, "source", source, self.sources)
            for doubt in row.doubts.values():
                _check(doubt in self.doubts, where, "doubt", doubt, self.doubts)
            if row.under is not None:
                _check(row.under in self.protocols, where, "protocol", row.under, self.protocols)
            if not row.protocol and row.under is None:
                raise ValueError(f"{where} must say its protocol, or be under one of the file's")
            key = (row.table, row.label, row.split, row.under)
            if key in seen:
                raise ValueError(f"{where} must be given once")
            seen.add(key)
        return self

    def conditions_of(self, row: PublishedRow) -> Mapping[str, Any]:
        """Axis path -> value that a row's figures were obtained with; empty where that is not known."""
        return self.protocols[row.under].conditions if row.under is not None else self.conditions

    def is_comparable(self, row: PublishedRow, trial: Trial) -> bool:
        """Whether a trial was measured as a row was: every condition is known and met."""
        conditions = self.conditions_of(row)
        met = all(axis_value(trial, path) == value for path, value in conditions.items())
        return row.comparable and bool(conditions) and met

    def table(self, *names: str) -> tuple[PublishedRow, ...]:
        """Rows of the first of these tables that the file has.

        Raises:
            HarnessError: The file has none of them.
        """
        known = dict.fromkeys(row.table for row in self.rows)
        for name in names:
            if name in known:
                return tuple(row for row in self.rows if row.table == name)
        raise HarnessError(
            f"published numbers of {self.dataset} have no table {names[0]!r}; {nearest(names[0], known)}"
        )


def _check(ok: bool, where: str, kind: str, name: str, known: Mapping[str, Any]) -> None:
    if not ok:
        raise ValueError(f"{where}: unknown {kind} {name!r}; {nearest(name, known)}")


def _check_metric(name: str, where: str, task: str) -> None:
    try:
        tasks = metric(name).tasks
    except UnknownNameError as error:
        raise ValueError(f"{where}: {error}") from None
    if task not in tasks:
        raise ValueError(f"{where}: metric {name!r} must belong to the task {task!r}, it is for {' and '.join(tasks)}")


def load_published(name: str, *, folder: Path) -> Published:
    """Read `folder/name.yaml`.

    Raises:
        HarnessError: No such file, not YAML, or not what this module describes; with the line.
    """
    path = folder / f"{name}.yaml"
    if not os.path.lexists(path):
        known = [p.stem for p in folder.glob("*.yaml")]
        raise HarnessError(f"{folder}: no published numbers named {name!r}; {nearest(name, known)}")
    document = read_document(path, {}, what="a file of published numbers")
    try:
        return Published.model_validate(document.value)
    except ValidationError as error:
        raise document.first_error(problems(error, Published)) from None


def axis_value(trial: Trial, path: str) -> Any:
    """Value of an axis path such as `model.kernels` in a trial's configuration; None where it has none."""
    section, *keys = path.split(".")
    value: Any = {"model": trial.model, "train": trial.train, "data": trial.data, "evaluate": trial.evaluate}.get(
        section
    )
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return list(value) if isinstance(value, tuple) else value


def on_grid(printed: float, num_samples: int) -> bool:
    """Whether a share of samples, in per cent with two decimals, is k / `num_samples` rounded for an integer k."""
    middle = round(printed * num_samples / 100)
    return any(abs(100 * k / num_samples - printed) <= 0.005 + 1e-9 for k in range(middle - 1, middle + 2))


@dataclass(frozen=True)
class GranularityProblem:
    """A share of samples that no count of samples gives."""

    table: str
    label: str
    split: str
    metric: str
    printed: float

    def __str__(self) -> str:
        where = f"{self.table}/{self.label}/{self.split}/{self.metric}"
        return f"{where}: {self.printed:.2f} % must be a whole number of samples of the split, rounded"


def granularity_problems(published: Published) -> tuple[GranularityProblem, ...]:
    """Every published P@X that is not k/N after rounding to two decimals, N being the split's number of samples."""
    return tuple(
        GranularityProblem(row.table, row.label, row.split, name, printed)
        for row in published.rows
        for name, printed in row.scores.items()
        if metric(name).threshold is not None and not on_grid(printed, published.splits[row.split] or 0)
    )
