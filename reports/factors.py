"""Which factors the rows of a table vary, and whether they were trained in every combination.

It is read from what the rows are, not from how the study wrote them: a grid, and levels written one by one, are the
same design if they give the same rows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from harness.canonical import canonical_json
from harness.records import Plan, Row, Table
from reports.artifacts import NotDrawn, OtherDesign
from reports.captions import join_words
from reports.factorial import Factorial, Setting
from reports.published import axis_value
from reports.results import Results
from reports.row_scores import RowScore, on_replicates, without_samples

MIN_FACTORS = 2

OFF = frozenset({"false", "null"})
"""Levels of a component that is not there."""


@dataclass(frozen=True)
class Design:
    """A full factorial."""

    factors: Mapping[str, tuple[str, ...]]
    """Factor -> its levels as JSON; an effect is from the first to another: a component is off, then on."""
    rows: Mapping[Setting, Row]
    """Level of each factor -> the row trained with them."""


class Complete(NamedTuple):
    """Scores of rows over the replicates that every one of them has."""

    scores: tuple[RowScore, ...]
    left_out: int
    """Replicates that not every row has."""


def level_text(level: str) -> str:
    """A level as a reader wants it: on, off and none, text without quotes, lists with spaces."""
    words = {"true": "on", "false": "off", "null": "none"}
    if level in words:
        return words[level]
    value = json.loads(level)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def varied(plan: Plan, table: Table) -> dict[str, tuple[str, ...]]:
    """Axis path -> its level in every row as JSON, for the paths in which rows differ.

    Of paths that change together only the first is there: they are one factor.
    """
    found: dict[tuple[int, ...], tuple[str, tuple[str, ...]]] = {}
    for path in dict.fromkeys(path for row in table.rows for path in row.changes):
        levels = tuple(canonical_json(_value(plan, row, path)) for row in table.rows)
        pattern = tuple(levels.index(level) for level in levels)
        if len(set(pattern)) > 1:
            found.setdefault(pattern, (path, levels))
    return dict(found.values())


def full_factorial(plan: Plan, table: Table) -> Design:
    """The design of a table whose rows are every combination of the levels of at least two factors.

    Raises:
        OtherDesign: They are not.
    """
    levels = varied(plan, table)
    names = _names(list(levels))
    if len(levels) < MIN_FACTORS:
        differ = f"differ in {names[next(iter(levels))]} only" if levels else "do not differ"
        raise OtherDesign(f"it takes at least {MIN_FACTORS} factors; the rows {differ}")
    settings = list(zip(*levels.values(), strict=True))
    cells = math.prod(len(set(of)) for of in levels.values())
    if len(set(settings)) < cells:
        differ = join_words(names.values())
        raise OtherDesign(
            f"it takes a row for every combination of levels (design: grid); rows differ in {differ}, and "
            f"{len(set(settings))} of {cells} combinations are there"
        )
    factors = {names[path]: of for path, of in _orders(table, levels).items()}
    return Design(factors, dict(zip(settings, table.rows, strict=True)))


def complete(results: Results, table: Table) -> Complete:
    """The deciding metric of a table's rows, in their order.

    Raises:
        NotDrawn: No replicate is complete in every row.
    """
    split, name = results.plan.deciding_split(table), results.plan.deciding_metric(table)
    found = [score for row in table.rows if (score := results.scores.of(row, split=split, metric_name=name))]
    shared = set(found[0].replicates).intersection(*(s.replicates for s in found)) if found else set()
    if len(found) < len(table.rows) or not shared:
        raise NotDrawn("no replicate is complete in every row")
    left_out = max(len(row.trial_ids) for row in table.rows) - len(shared)
    return Complete(tuple(on_replicates(score, sorted(shared)) for score in found), left_out)


def factorial(design: Design, scores: Sequence[RowScore]) -> Factorial:
    """A design with the scores of its rows; test samples take part where all rows were measured on the same ones."""
    same = len({score.sample_set for score in scores}) == 1
    found = [score.found if same else without_samples(score.found) for score in scores]
    return Factorial(design.factors, dict(zip(design.rows, found, strict=True)))


def _value(plan: Plan, row: Row, path: str) -> Any:
    return row.changes[path] if path in row.changes else axis_value(plan.trial(row.trial_ids[0]), path)


def _names(paths: list[str]) -> dict[str, str]:
    """Path -> its last part in words, or the whole path where two end alike."""
    last = [path.rpartition(".")[2].replace("_", " ") for path in paths]
    return {path: name if last.count(name) == 1 else path for path, name in zip(paths, last, strict=True)}


def _orders(table: Table, levels: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Axis path -> its distinct levels in the order of effects; `levels` are of every row.

    Off comes before on. Of two other levels the reference's comes last, as its parts are what a study asks about; first
    where the reference is the plain method, with everything off that can be.
    """
    of_reference = {path: _of_reference(table, path, of) for path, of in levels.items()}
    switches = {path for path, of in levels.items() if len(set(of)) == 2 and len(OFF.intersection(of)) == 1}
    plain = bool(switches) and all(of_reference[path] in OFF for path in switches)
    found = {}
    for path, of in levels.items():
        distinct, reference = list(dict.fromkeys(of)), of_reference[path]
        if path in switches:
            distinct.sort(key=lambda level: level not in OFF)
        elif len(distinct) == 2 and reference is not None:
            distinct.sort(key=reference.__eq__, reverse=plain)
        found[path] = tuple(distinct)
    return found


def _of_reference(table: Table, path: str, levels: tuple[str, ...]) -> str | None:
    """The level that no row had to be changed to; None for several."""
    changed = {level for row, level in zip(table.rows, levels, strict=True) if path in row.changes}
    kept = set(levels) - changed
    return next(iter(kept)) if len(kept) == 1 else None
