"""Designs: how the axes of a `variants` entry become rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from harness.errors import nearest
from harness.resolve import Edit, Point, model_class, reference_point
from harness.spec import (
    CumulativeDesign,
    ExplicitDesign,
    GridDesign,
    LeaveOneOutDesign,
    LevelConfig,
    OneFactorDesign,
    StudySpec,
)
from harness.spec_part import Json
from harness.yaml_lines import DocPath, shown


@dataclass(frozen=True)
class Excluded:
    """A row that is left out, and why."""

    label: str
    reason: str


@dataclass(frozen=True)
class Group:
    """The rows of one entry of `variants`."""

    points: tuple[Point, ...]
    excluded: tuple[Excluded, ...] = ()


def group_of(study: StudySpec, name: str) -> Group:
    """The rows of `variants.<name>`, in the order of the table.

    Raises:
        SpecError: A component that the model does not declare, an exclusion that excludes nothing.
    """
    design, where = study.variants[name], ("variants", name)
    if isinstance(design, ExplicitDesign):
        first = (reference_point(study),) if design.include_reference else ()
        levels = (_level(level, (*where, "levels", i)) for i, level in enumerate(design.levels))
        return Group((*first, *levels))
    if isinstance(design, GridDesign):
        return _grid(study, design, where)
    if isinstance(design, OneFactorDesign):
        return Group((reference_point(study), *_one_factor(design, where)))
    if isinstance(design, LeaveOneOutDesign):
        return Group((reference_point(study), *_leave_one_out(study, design, where)))
    return Group(_cumulative(design, where))


def axis_names(paths: Sequence[str]) -> dict[str, str]:
    """Path -> its last part, or the whole path where two paths end alike."""
    last = [path.rpartition(".")[2] for path in paths]
    return {path: name if last.count(name) == 1 else path for path, name in zip(paths, last, strict=True)}


def value_text(value: Any) -> str:
    """A value as a reader wants it in a label: text without quotes, lists with spaces."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _level(level: LevelConfig, where: DocPath) -> Point:
    sections = {"model": level.model, "train": level.train, "data": level.data, "resources": level.resources}
    given = {name: section for name, section in sections.items() if section}
    return Point(level.label, where, given, _edits(level.set, (*where, "set")), level.search)


def _edits(changes: Json, where: DocPath) -> tuple[Edit, ...]:
    return tuple(Edit(path, value, (*where, path)) for path, value in changes.items())


def _grid(study: StudySpec, design: GridDesign, where: DocPath) -> Group:
    _check_exclusions(study, design, where)
    names = axis_names(list(design.axes))
    points, excluded = [], []
    for chosen in product(*(range(len(values)) for values in design.axes.values())):
        edits = tuple(
            Edit(path, design.axes[path][i], (*where, "axes", path, i))
            for path, i in zip(design.axes, chosen, strict=True)
        )
        label = ", ".join(f"{names[e.path]} = {value_text(e.value)}" for e in edits)
        values = {e.path: e.value for e in edits}
        reason = next((x.reason for x in design.exclude if all(values[p] == v for p, v in x.set.items())), None)
        if reason is None:
            points.append(Point(label, where, {}, edits))
        else:
            excluded.append(Excluded(label, reason))
    if not points:
        raise study.error((*where, "exclude"), "must leave at least one point of the grid, it excludes all; remove one")
    return Group(tuple(points), tuple(excluded))


def _check_exclusions(study: StudySpec, design: GridDesign, where: DocPath) -> None:
    for i, exclusion in enumerate(design.exclude):
        for path, value in exclusion.set.items():
            place: DocPath = (*where, "exclude", i, "set", path)
            if path not in design.axes:
                raise study.error(place, f"unknown axis {path!r}; {nearest(path, design.axes)}")
            if value not in design.axes[path]:
                values = ", ".join(shown(v) for v in design.axes[path])
                raise study.error(place, f"must be a value of that axis, received {shown(value)}; valid: {values}")


def _one_factor(design: OneFactorDesign, where: DocPath) -> list[Point]:
    names = axis_names(list(design.axes))
    return [
        Point(f"{names[path]} = {value_text(value)}", where, {}, (Edit(path, value, (*where, "axes", path, i)),))
        for path, values in design.axes.items()
        for i, value in enumerate(values)
    ]


def _leave_one_out(study: StudySpec, design: LeaveOneOutDesign, where: DocPath) -> list[Point]:
    place: DocPath = (*where, "components")
    declared = _declared(study)
    points = []
    for label, changes in design.components.items():
        if changes is not None:
            points.append(Point(label, where, {}, _edits(changes, (*place, label))))
            continue
        if label not in declared:
            raise study.error((*place, label), f"unknown component {label!r}; {nearest(label, declared)}")
        points.append(Point(f"w/o {label}", where, {}, (Edit(f"model.{label}", declared[label], (*place, label)),)))
    return points


def _declared(study: StudySpec) -> Mapping[str, Any]:
    """Components of the reference's model and the values that switch them off, as plain JSON values."""
    found = model_class(study, study.reference.model["name"], where=("reference", "model", "name"))
    plain: Json = json.loads(json.dumps(dict(found.info.components)))
    return plain


def _cumulative(design: CumulativeDesign, where: DocPath) -> tuple[Point, ...]:
    edits = _edits(design.start.set, (*where, "start", "set"))
    points = [Point(design.start.label, (*where, "start"), {}, edits)]
    for i, step in enumerate(design.steps):
        place: DocPath = (*where, "steps", i)
        edits = (*edits, *_edits(step.set, (*place, "set")))
        points.append(Point(step.label, place, {}, edits))
    return tuple(points)
