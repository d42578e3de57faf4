"""Rows that are tuned: their search as a value, checked before anything runs, and what they are once it is over."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import combinations, product
from typing import Any

from harness.canonical import canonical_json
from harness.errors import SpecError
from harness.records import Trial
from harness.resolve import Edit, Point, Resolved, resolve
from harness.spec import StudySpec
from harness.spec_part import Json
from harness.spec_search import SearchConfig, row_search
from harness.tuning import SEARCH, Search, placed
from harness.yaml_lines import DocPath

VAL_ONLY: Mapping[str, Json] = {
    "referring": {"test": False, "controls": []},
    "semantic": {"test": False, "stress": [], "predictions": False},
}
"""Task -> what makes its protocol one that scores the validation split alone."""


def search_of(study: StudySpec, point: Point, trial: Trial) -> Search | None:
    """How a row is tuned; None where it is not.

    Args:
        study: The study.
        point: The row.
        trial: The row's first trial, as it would be without a search.

    Raises:
        SpecError: A path that the row does not have or sets itself, values that its configuration refuses.
    """
    config = row_search(study.search, point.search)
    if config is None:
        return None
    where: DocPath = (*point.where, "search", "space") if point.search.space is not None else ("search", "space")
    _refuse_overlap(study, point, config)
    for values in _corners(config):
        try:
            resolve(study, with_values(point, values, where))
        except SpecError as error:
            raise SpecError(f"{error} (row {point.label!r}; {_hint(config, str(error))})") from None
    sections: dict[str, Any] = {"model": trial.model, "train": trial.train, "data": trial.data}
    for path in config.space:
        sections = placed(sections, path, None)
    template = replace(
        trial,
        **sections,
        evaluate={**trial.evaluate, **VAL_ONLY[study.task]},
        replicate=config.replicate,
        base_seed=search_seed(study.base_seed),
        kind=SEARCH,
    )
    return Search(
        variant=trial.variant,
        template=template,
        space=config.dimensions,
        trials=config.budget,
        sampler=config.sampler,
        pruner=config.pruner,
        metric=config.metric or trial.train["select"],
        seed=config.seed,
        parallel=config.parallel,
        reason=point.search.reason or "",
    )


def search_seed(base_seed: int) -> int:
    """Base seed of a study's search trials: their random streams are never those of the comparison."""
    text = canonical_json({"purpose": SEARCH, "base_seed": base_seed})
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def with_values(point: Point, values: Mapping[str, Any], where: DocPath) -> Point:
    """The row with the values of its search."""
    edits = (Edit(path, value, (*where, path)) for path, value in values.items())
    return replace(point, edits=(*point.edits, *edits))


def tuned(study: StudySpec, point: Point, search: Search) -> Resolved | None:
    """The row's configuration with the winner's values; None while its search has not ended."""
    if not search.is_done or search.outcome.values is None:
        return None
    return resolve(study, with_values(point, search.outcome.values, ("search", "space")))


def _hint(config: SearchConfig, message: str) -> str:
    floats = [path for path, d in config.dimensions.items() if not d.choices and not d.is_whole]
    if "must be a whole number" in message and any(f"{path}: " in message for path in floats):
        return "`int: true` draws whole numbers"
    return "`search` of a row gives it a space of its own"


def _refuse_overlap(study: StudySpec, point: Point, config: SearchConfig) -> None:
    for edit in point.edits:
        for path in config.space:
            if f"{edit.path}.".startswith(f"{path}.") or f"{path}.".startswith(f"{edit.path}."):
                text = f"{edit.path!r} must not be set where `search` tunes {path!r}; leave one of them out"
                raise study.error(edit.where, text)


def _corners(config: SearchConfig) -> Iterator[Json]:
    """Every pair of extreme values, the rest at their first: fields are checked alone and against each other."""
    bounds = {path: dimension.bounds() for path, dimension in config.dimensions.items()}
    first = {path: values[0] for path, values in bounds.items()}
    if len(bounds) == 1:
        yield from ({path: value} for path, values in bounds.items() for value in values)
    for one, other in combinations(bounds, 2):
        yield from ({**first, one: a, other: b} for a, b in product(bounds[one], bounds[other]))
