"""The `report:` section of a study: which score decides, and which tables, figures and break-downs the paper needs."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from harness.spec_part import Part, Slug

COMPARING = ("delta", "cost", "ranks", "interaction", "waterfall", "shapley")
"""Figures of scores and costs, the same for every task."""

FIGURES: Mapping[str, tuple[str, ...]] = {
    "referring": (*COMPARING, "precision_curve", "learning_curves", "qualitative", "feature_maps"),
    "semantic": (*COMPARING, "class_bars", "learning_curves", "robustness"),
}
"""Task -> figures that its studies can ask for."""

BREAKDOWNS: Mapping[str, tuple[str, ...]] = {
    "referring": ("category", "size", "length", "cost"),
    "semantic": ("class", "cost"),
}
"""Task -> break-downs that its studies can ask for."""


class PrimaryConfig(Part):
    """The score that decides."""

    metric: str
    split: str = "val"


class TableConfig(Part):
    """A table of the paper."""

    name: Slug
    """File name of the table."""
    of: str
    """Entry of `variants` whose rows it shows."""
    kind: Literal["comparison", "ablation"]
    metrics: Annotated[tuple[str, ...], Field(min_length=1)]
    splits: Annotated[tuple[str, ...], Field(min_length=1)] = ("val",)
    published: str | None = None
    """File of `experiments/published/`, without suffix, whose rows stand beside ours."""
    caption: str | None = None
    costs: bool = True
    """Whether it shows parameters and multiply-adds."""
    priority: int = 0
    """Trials of tables with a higher one are started first; of equal ones, those of the table listed first."""


class ReportConfig(Part):
    """What the paper needs."""

    primary: PrimaryConfig
    tables: Annotated[tuple[TableConfig, ...], Field(min_length=1)]
    figures: tuple[str, ...] = ()
    """Some of `FIGURES` of the study's task."""
    breakdowns: tuple[str, ...] = ()
    """Scores of every table and split by some of `BREAKDOWNS` of the study's task."""
    siunitx: Annotated[bool, Field(exclude_if=operator.not_)] = False
    """Whether LaTeX tables align figures at their decimal marks by the package siunitx. Left out of the study's hash
    where false."""
