"""The `search:` section of a study: how variants are tuned before they are compared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from harness.spec_errors import problems, refuse
from harness.spec_part import Count, Part, Positive, Text
from harness.tuning import Dimension, num_points
from harness.yaml_lines import DocPath

NotNegativeInt = Annotated[int, Field(ge=0)]
FIXED = ("evaluate.", "model.name", "train.select")
"""How paths begin that must not be tuned: what judges a variant, and what it is."""


class DimensionConfig(Part):
    """Values that one path may take: `choices`, or a range from `low` to `high`."""

    choices: Annotated[list[Any], Field(min_length=1)] | None = None
    """The values themselves; lists too."""
    low: float | None = None
    high: float | None = None
    """The last value, which may be taken."""
    log: bool = False
    """Whether values are drawn evenly on a logarithmic scale."""
    step: Positive | None = None
    """Distance between neighbouring values, counted from `low`."""
    int: bool = False
    """Whether values are whole numbers."""

    @model_validator(mode="after")
    def _is_one_kind(self) -> DimensionConfig:
        if self.choices is not None:
            extra = sorted(self.model_fields_set - {"choices"})
            if extra:
                raise refuse((extra[0],), "must not be given with choices; remove one of them")
            if any(a == b for a, b in combinations(self.choices, 2)):
                raise refuse(("choices",), "must differ, one is given twice; remove one")
            return self
        if self.low is None or self.high is None:
            raise refuse((), "must have choices, or low and high; add what is missing")
        self._check_range(self.low, self.high)
        return self

    def _check_range(self, low: float, high: float) -> None:
        if not low < high:
            raise refuse(("high",), f"must be above low = {low:g}, received {high:g}")
        if self.log and low <= 0:
            raise refuse(("low",), f"must be above 0 on a logarithmic scale, received {low:g}")
        if self.log and self.step is not None:
            raise refuse(("step",), "must not be given with log; remove one of them")
        for name in ("low", "high", "step"):
            value = getattr(self, name)
            if self.int and value is not None and value != round(value):
                raise refuse((name,), f"must be a whole number where int is true, received {value:g}")
        steps = (high - low) / self.step if self.step else 0.0
        if not math.isclose(steps, round(steps), abs_tol=1e-9):
            raise refuse(("high",), f"must be low plus a multiple of step = {self.step:g}, received {high:g}")

    @property
    def dimension(self) -> Dimension:
        """The same as a value."""
        if self.choices is not None:
            return Dimension(choices=tuple(self.choices))
        assert self.low is not None
        assert self.high is not None
        return Dimension(low=self.low, high=self.high, log=self.log, step=self.step, is_whole=self.int)


Space = Annotated[dict[str, DimensionConfig], Field(min_length=1)]


def _may_be_tuned(space: dict[str, DimensionConfig] | None) -> dict[str, DimensionConfig] | None:
    for path in space or ():
        if path.startswith(FIXED):
            raise refuse((path,), "must not be tuned: it is what variants are judged by; choose another path")
    return space


class SearchConfig(Part):
    """How every variant is tuned that says nothing else."""

    space: Space
    """Dotted path into the configuration -> the values it may take."""
    trials: Count | None = None
    """Budget of every variant; null for a grid, which tries each point of the space once."""
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """`tpe`: tree-structured Parzen estimator, which learns from the trials before; `grid`: every point once."""
    pruner: Literal["asha", "median", "none"] = "none"
    """What ends trials early: `asha` keeps the best third at a ninth and at a third of the epochs; `median` ends a
    trial whose best score so far is below the median of the others at the same epoch."""
    metric: str | None = None
    """Validation metric that decides; null for the variant's `train.select`."""
    replicate: NotNegativeInt = 0
    """Replicate whose random streams the trials use; they are never those of the comparison."""
    seed: NotNegativeInt = 0
    """Seed of what is drawn from the space."""
    parallel: Count | None = None
    """Most trials of one variant at once; null for as many as fit."""

    _paths = field_validator("space")(_may_be_tuned)

    @model_validator(mode="after")
    def _budget_fits(self) -> SearchConfig:
        size = num_points(self.dimensions)
        if self.sampler == "grid" and math.isinf(size):
            endless = next(p for p, d in self.dimensions.items() if d.each() is None)
            raise refuse(
                ("space", endless), "must have choices or a step for a grid; add `step` or choose another sampler"
            )
        if self.sampler == "grid" and self.trials is not None:
            raise refuse(("trials",), f"must be left out for a grid, which has {size:g} points")
        if self.sampler != "grid" and self.trials is None:
            raise refuse((), "'trials' must be given, it is missing")
        if self.trials is not None and self.trials > size:
            raise refuse(
                ("trials",),
                f"must be at most the {size:g} configurations of the space, received {self.trials}; "
                "`sampler: grid` tries each once",
            )
        if "train.epochs" in self.space and self.pruner != "none":
            raise refuse(("space", "train.epochs"), "must not be tuned with a pruner, which compares equal epochs")
        return self

    @property
    def dimensions(self) -> Mapping[str, Dimension]:
        """Path -> values."""
        return {path: config.dimension for path, config in self.space.items()}

    @property
    def budget(self) -> int:
        """Trials of every variant."""
        return int(num_points(self.dimensions)) if self.trials is None else self.trials


class OwnSearchConfig(Part):
    """What one row does differently; whatever is left out is as in the study's `search`."""

    space: Space | None = None
    """Instead of the study's, as a whole."""
    trials: NotNegativeInt | None = None
    """0 exempts the row: it is trained as it is written."""
    sampler: Literal["tpe", "random", "grid"] | None = None
    pruner: Literal["asha", "median", "none"] | None = None
    metric: str | None = None
    parallel: Count | None = None
    reason: Text | None = None
    """Why its budget differs, shown wherever its numbers are."""

    _paths = field_validator("space")(_may_be_tuned)

    @model_validator(mode="before")
    @classmethod
    def _is_not_null(cls, value: Any) -> Any:
        if value is None:
            raise refuse((), "must be a mapping, received null; to exempt the row write {trials: 0, reason: ...}")
        return value

    @property
    def is_exempt(self) -> bool:
        """Whether the row is not tuned."""
        return self.trials == 0

    @property
    def is_silent(self) -> bool:
        """Whether the row says nothing."""
        return self == OwnSearchConfig()


def row_search(common: SearchConfig | None, own: OwnSearchConfig) -> SearchConfig | None:
    """How a row is tuned; None where it is not.

    Raises:
        PydanticCustomError: What is left does not make a search, or its budget differs without a reason.
    """
    found = None if own.is_exempt else _overlaid(common, own)
    if _budget(found) != _budget(common) and own.reason is None:
        raise refuse(
            (),
            f"must give a reason where the budget differs, {_budget(found)} trials instead of {_budget(common)}; "
            "add `reason: ...`",
        )
    return found


def _overlaid(common: SearchConfig | None, own: OwnSearchConfig) -> SearchConfig | None:
    changes = {name: value for name, value in dict(own).items() if name != "reason" and value is not None}
    if not changes:
        return common
    base = {} if common is None else {name: getattr(common, name) for name in SearchConfig.model_fields}
    if common is None and own.space is None:
        raise refuse((), "'space' must be given, it is missing, and the study has no search to take it from")
    if "grid" in (base.get("sampler"), changes.get("sampler")) and base.get("sampler") != changes.get("sampler"):
        base.pop("trials", None)  # a grid's budget is its size
    try:
        return SearchConfig.model_validate({**base, **changes})
    except ValidationError as error:
        first = problems(error, SearchConfig)[0]
        raise refuse(first.path, first.text) from None


def check_searches(common: SearchConfig | None, rows: Mapping[DocPath, OwnSearchConfig]) -> None:
    """Check what rows say about their search.

    Args:
        common: The study's search.
        rows: Path of the row's `search` -> what it says.

    Raises:
        PydanticCustomError: As `row_search`, at the path of the row.
    """
    for path, own in rows.items():
        try:
            row_search(common, own)
        except PydanticCustomError as error:
            context = error.context or {}
            raise refuse((*path, *context["path"]), context["text"]) from None


def _budget(search: SearchConfig | None) -> int:
    return 0 if search is None else search.budget
