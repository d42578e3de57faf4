"""How a variant is tuned, as a value: space, budget, what the search has spent, and what it has found."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from harness.canonical import canonical_json, digest
from harness.records import Trial

SEARCH = "search"
"""Kind of the trials of a search."""


@dataclass(frozen=True)
class Dimension:
    """Values that one path of the configuration may take: `choices`, or everything from `low` to `high`."""

    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    """Whether values are drawn evenly on a logarithmic scale."""
    step: float | None = None
    """Distance between neighbouring values, counted from `low`."""
    is_whole: bool = False
    """Whether values are whole numbers."""

    def each(self) -> tuple[Any, ...] | None:
        """Every value in order; None where there is no end of them."""
        if self.choices:
            return self.choices
        step = self.step or (1 if self.is_whole and not self.log else None)
        if step is None:
            return None
        return tuple(self.typed(self.low + i * step) for i in range(round((self.high - self.low) / step) + 1))

    def bounds(self) -> tuple[Any, ...]:
        """The values that a study is checked with before anything runs."""
        return self.choices or (self.typed(self.low), self.typed(self.high))

    def typed(self, number: float) -> Any:
        """A drawn number as the configuration wants it; a free one is rounded to four digits, as a paper states it."""
        if self.is_whole:
            return round(number)
        return min(max(float(f"{number:.{12 if self.step else 4}g}"), self.low), self.high)

    def text(self) -> str:
        """For example `1e-05 to 0.001 (log)` or `64, 128`."""
        if self.choices:
            return ", ".join(value_text(v) for v in self.choices)
        details = (["log"] if self.log else []) + ([f"step {self.step:g}"] if self.step else [])
        return f"{self.low:g} to {self.high:g}" + (f" ({', '.join(details)})" if details else "")


@dataclass(frozen=True)
class Spent:
    """What a search has used of its budget."""

    complete: int = 0
    pruned: int = 0
    failed: int = 0
    repeated: int = 0
    """Of those, configurations drawn again, which were not trained again."""
    hours: float = 0.0
    """Wall time of its trials, added up."""
    gpu_hours: float = 0.0

    @property
    def trials(self) -> int:
        """Trials that have ended."""
        return self.complete + self.pruned + self.failed

    def text(self) -> str:
        """For example `14 complete, 5 pruned, 1 failed; 3.2 GPU-hours`, or without GPUs the time of all trials."""
        parts = [f"{self.complete} complete"]
        for count, word in ((self.pruned, "pruned"), (self.failed, "failed"), (self.repeated, "drawn twice")):
            parts += [f"{count} {word}"] if count else []
        time = f"{self.hours:.1f} h" if self.hours >= 1 else f"{60 * self.hours:.0f} min"
        return f"{', '.join(parts)}; {f'{self.gpu_hours:.1f} GPU-hours' if self.gpu_hours else time}"


@dataclass(frozen=True)
class Outcome:
    """How far a search is."""

    spent: Spent = field(default_factory=Spent)
    values: Mapping[str, Any] | None = None
    """Path -> value of the best complete trial; None before there is one."""
    score: float | None = None
    """Its score on the validation split."""
    cause: str = ""
    """Why the last trial failed, where none is complete."""


@dataclass(frozen=True)
class Search:
    """How one variant is tuned before it is trained for the comparison."""

    variant: str
    template: Trial
    """Its trials, with null where the search sets a value; scored on the validation split only."""
    space: Mapping[str, Dimension]
    """Path -> values."""
    trials: int
    """Budget: trials that may end, in whatever way."""
    sampler: str
    pruner: str
    metric: str
    """Validation metric that decides."""
    seed: int = 0
    parallel: int | None = None
    """Most trials at once; None for as many as fit."""
    reason: str = ""
    """Why it is tuned in another way than the other variants."""
    outcome: Outcome = field(default_factory=Outcome)

    @property
    def key(self) -> str:
        """Digest of everything that decides which trials it makes, the budget excepted: that can be raised."""
        space = {path: asdict(dimension) for path, dimension in self.space.items()}
        drawn = {"space": space, "sampler": self.sampler, "pruner": self.pruner, "seed": self.seed}
        return digest({"template": self.template.identity, "metric": self.metric, **drawn})

    def named(self, variant: str) -> Search:
        """The search of the variant of that name; its trials are recorded under one of their own."""
        return replace(self, variant=variant, template=replace(self.template, variant=f"{variant} (search)"))

    @property
    def is_done(self) -> bool:
        """Whether the budget is spent and there is a winner."""
        return self.outcome.spent.trials >= self.trials and self.outcome.values is not None

    def trial(self, values: Mapping[str, Any]) -> Trial:
        """The trial with these values."""
        sections = {name: getattr(self.template, name) for name in ("model", "train", "data")}
        for path, value in values.items():
            sections = placed(sections, path, value)
        return replace(self.template, **sections)

    def drawn(self, trial: Trial) -> dict[str, str]:
        """Path -> value that one of its trials has, as text."""
        sections = {name: getattr(trial, name) for name in ("model", "train", "data")}
        return {path: value_text(value_at(sections, path)) for path in self.space}

    def found(self) -> dict[str, str]:
        """Path -> value of the best trial, as text."""
        return {path: value_text(value) for path, value in (self.outcome.values or {}).items()}

    def text(self) -> str:
        """For example `20 trials (tpe, asha; oiou on val): train.lr 1e-05 to 0.001 (log); model.hidden 64, 128`."""
        pruner = "" if self.pruner == "none" else f", {self.pruner}"
        space = "; ".join(f"{path} {dimension.text()}" for path, dimension in self.space.items())
        return f"{self.trials} trials ({self.sampler}{pruner}; {self.metric} on val): {space}"

    def note(self) -> str:
        """What a reader of the tuned variant's numbers must know: the budget spent, and what it found."""
        found = ", ".join(f"{path} = {text}" for path, text in self.found().items())
        why = f" Budget: {self.reason}." if self.reason else ""
        spent = self.outcome.spent
        return f"Tuned on the validation split in {spent.trials} trials ({spent.text()}): {found}.{why}"


def placed(value: Mapping[str, Any], path: str, new: Any) -> dict[str, Any]:
    """A copy of nested mappings with another value at a dotted path."""
    key, _, rest = path.partition(".")
    return {**value, key: placed(value[key], rest, new) if rest else new}


def value_at(value: Mapping[str, Any], path: str) -> Any:
    """What stands at a dotted path of nested mappings."""
    key, _, rest = path.partition(".")
    return value_at(value[key], rest) if rest else value[key]


def value_text(value: Any) -> str:
    """A value as a reader wants it: text without quotes, numbers as short as they can be."""
    if isinstance(value, str):
        return value
    return f"{value:g}" if isinstance(value, float) else canonical_json(value)


def num_points(space: Mapping[str, Dimension]) -> float:
    """How many configurations a space holds."""
    return math.prod(math.inf if (each := d.each()) is None else len(each) for d in space.values())


def points(space: Mapping[str, Dimension]) -> list[dict[str, Any]]:
    """Every configuration of a finite space, the last path varying fastest."""
    return [
        dict(zip(space, values, strict=True)) for values in itertools.product(*(d.each() or () for d in space.values()))
    ]
