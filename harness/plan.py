"""From a study to its plan: every trial with its id, the tables that show them, and what is skipped and why.

Order of trials: tables of higher priority first, then as the report lists them, rows of a table from top to bottom,
replicates from 0. A configuration
that several rows ask for is one variant and is trained once per replicate; its name is the first label it appears
under, and the reference's is always the reference's label. A variant that is tuned has no trials until its search has
ended (`harness.search`); then it has the winner's values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from pydantic_core import to_jsonable_python

from harness.canonical import canonical_json
from harness.data.base import DATASETS, Dataset
from harness.data.semantic import Division
from harness.data.synthetic import open_dataset, synthetic_fingerprint
from harness.designs import Group, group_of
from harness.errors import DataError, nearest
from harness.plan_search import search_of, tuned
from harness.records import Plan, Row, Skipped, Table, Trial
from harness.resolve import Point, Resolved, reference_point, resolve
from harness.spec import StudySpec
from harness.spec_part import Json
from harness.spec_protocol import SemanticEvaluateConfig
from harness.spec_report import TableConfig
from harness.tuning import Outcome, Search, value_text
from models.base import MODELS

ABSENT = "absent"
"""Fingerprint to plan with while the data is not there; such ids are provisional."""


def expand(
    study: StudySpec, *, fingerprint: str, data_root: str = "", outcomes: Mapping[str, Outcome] | None = None
) -> Plan:
    """Expand a study.

    Args:
        study: A checked study.
        fingerprint: Hash of the samples and splits, `ABSENT` where they are not at hand.
        data_root: Folder of the dataset, handed to the trials; no part of their identity.
        outcomes: Key of a search -> how far it is; rows whose search has ended get the winner's values and trials,
            the others have no trials yet.

    Raises:
        SpecError: A model, field, path or value that does not exist; rows that cannot be told apart.
    """
    planner = _Planner(study, fingerprint, data_root, outcomes or {})
    tables = tuple(planner.table(table) for table in study.report.tables)
    unused = [name for name in study.variants if name not in {t.of for t in study.report.tables}]
    planner.skipped += [Skipped(name, "", "no table of the report shows this entry of variants") for name in unused]
    return Plan(
        study=study.name,
        question=study.question,
        trials=_by_priority(planner.trials.values(), tables, study.report.tables),
        tables=tables,
        skipped=tuple(planner.skipped),
        replicates=study.replicates,
        primary_metric=study.report.primary.metric,
        primary_split=study.report.primary.split,
        figures=study.report.figures,
        breakdowns=study.report.breakdowns,
        siunitx=study.report.siunitx,
        spec_sha=study_sha(study),
        limits=study.schedule,
        data_note=data_note(study),
        searches=tuple(planner.searches.values()),
    )


def _by_priority(trials: Iterable[Trial], tables: Sequence[Table], configs: Sequence[TableConfig]) -> tuple[Trial, ...]:
    highest: dict[str, int] = {}
    for table, config in zip(tables, configs, strict=True):
        for trial_id in (i for row in table.rows for i in row.trial_ids):
            highest[trial_id] = max(highest.get(trial_id, config.priority), config.priority)
    return tuple(sorted(trials, key=lambda trial: -highest[trial.id]))


def study_sha(study: StudySpec) -> str:
    """SHA-256 of the validated study without its folder, which differs between machines."""
    plain = study.model_dump(mode="json")
    del plain["data"]["root"]
    return hashlib.sha256(canonical_json(plain).encode()).hexdigest()


def data_note(study: StudySpec) -> str:
    """What a reader of any number of a semantic study must know: division into splits, protocol, windows."""
    dataset: Any = DATASETS.get(study.data.name)
    protocol = study.evaluate
    if not isinstance(protocol, SemanticEvaluateConfig):
        return ""
    division: Division = dataset.division(study.data.chosen)
    leak = ", LEAKY: neighbouring pixels of one scene are in different splits" if division.leaky else ""
    made = "Generated miniature. " if study.data.synthetic else ""
    return (
        f"{made}Division of {dataset.info.title}: {division.name}{leak}. Protocol {protocol.protocol}; windows overlap "
        f"by {protocol.overlap:.0%}, {protocol.average} averaged."
    )


def fingerprint_of(study: StudySpec) -> tuple[str, str]:
    """Fingerprint of the study's samples, and their folder ("" for synthetic ones).

    Raises:
        DataError: The folder is not there or not in the dataset's layout.
    """
    if study.data.synthetic is not None:
        return synthetic_fingerprint(study.data.name, study.data.synthetic), ""
    root = Path(str(study.data.root))
    if not root.is_dir():
        hint = _sibling_hint(root)
        text = f"must be a folder, {root} is not; {hint}; give another with --set data.root=DIR"
        raise DataError(str(study.error(("data", "root"), text)))
    opened: Dataset = open_dataset(study.data.name, root=root, synthetic=None, options=study.data.options)
    return opened.fingerprint(), str(root)


def _sibling_hint(root: Path) -> str:
    if not root.parent.is_dir():
        return f"{root.parent} is not there either"
    siblings = [p.name for p in root.parent.iterdir() if p.is_dir()]
    return nearest(root.name, siblings) if siblings else f"{root.parent} is empty"


class _Drawn(NamedTuple):
    """A row with its search, if it has one."""

    key: str
    """Equal for equal configurations that are tuned in the same way."""
    flat: Json
    """Dotted path -> value of what the row itself says, without what a search sets."""
    resolved: Resolved | None
    """None while it is still to be tuned."""
    search: Search | None
    exempt: str
    """That it is not tuned, and why, where others are."""


class _Planner:
    """Collects variants and trials while tables are laid out."""

    def __init__(self, study: StudySpec, fingerprint: str, data_root: str, outcomes: Mapping[str, Outcome]) -> None:
        self.study = study
        self.trials: dict[str, Trial] = {}
        self.searches: dict[str, Search] = {}
        self.skipped: list[Skipped] = []
        self._fingerprint = fingerprint
        self._data_root = data_root
        self._outcomes = outcomes
        self._untuned_reference = resolve(study, reference_point(study)).key
        self._reference = self._draw(reference_point(study))
        self._variants: dict[str, tuple[Trial, ...]] = {}
        self._names = {study.reference.label: self._reference.key}
        self._groups: dict[str, Group] = {}

    def table(self, table: TableConfig) -> Table:
        """Lay out one table."""
        group = self._groups.setdefault(table.of, group_of(self.study, table.of))
        self.skipped += [Skipped(x.label, table.name, x.reason) for x in group.excluded]
        rows: list[Row] = []
        seen: dict[str, str] = {}
        for point in group.points:
            drawn = self._draw(point)
            if self._is_repeated_reference(table, drawn, seen):
                self.skipped.append(Skipped(point.label, table.name, "equals the reference, which is a row already"))
                continue
            self._refuse_twins(point, drawn, seen)
            seen[drawn.key] = point.label
            rows.append(self._row(table, point, drawn))
        return Table(
            name=table.name,
            kind=table.kind,
            group=table.of,
            metrics=table.metrics,
            splits=table.splits,
            rows=tuple(rows),
            published=table.published,
            caption=table.caption,
            costs=table.costs,
            design=self.study.variants[table.of].design,
        )

    def _draw(self, point: Point) -> _Drawn:
        resolved = resolve(self.study, point)
        if resolved.key == self._untuned_reference and point.search.is_silent:
            point = replace(point, search=self.study.reference.search)
        search = search_of(self.study, point, self._trials("", resolved)[0])
        if search is None:
            return _Drawn(resolved.key, resolved.flat, resolved, None, self._exemption(point, resolved))
        search = replace(search, outcome=self._outcomes.get(search.key, Outcome()))
        flat = {path: value for path, value in resolved.flat.items() if not _is_tuned(path, search)}
        return _Drawn(search.key, flat, tuned(self.study, point, search), search, "")

    def _exemption(self, point: Point, resolved: Resolved) -> str:
        if self.study.search is None:
            return ""
        kept = ", ".join(f"{p} = {value_text(v)}" for p, v in resolved.flat.items() if p in self.study.search.space)
        return f"Not tuned{f' ({kept})' if kept else ''}: {(point.search.reason or '').rstrip('.')}."

    def _is_repeated_reference(self, table: TableConfig, drawn: _Drawn, seen: dict[str, str]) -> bool:
        one_factor = self.study.variants[table.of].design == "one_factor"
        return one_factor and bool(seen) and drawn.key == self._reference.key

    def _refuse_twins(self, point: Point, drawn: _Drawn, seen: dict[str, str]) -> None:
        where = point.edits[-1].where if point.edits else point.where
        if drawn.key in seen:
            twin = seen[drawn.key]
            raise self.study.error(
                where, f"rows of a table must differ, {twin!r} and {point.label!r} are the same; change or remove one"
            )
        if point.label in seen.values():
            raise self.study.error(where, f"labels of a table must differ, {point.label!r} is given twice")

    def _row(self, table: TableConfig, point: Point, drawn: _Drawn) -> Row:
        name = self._name(table, point, drawn)
        trials = self._trials_of(name, drawn)
        reference = self._reference
        return Row(
            label=point.label,
            variant=trials[0].variant if trials else name,
            changes={
                path: value
                for path, value in drawn.flat.items()
                if not _is_tuned(path, reference.search) and (path, value) not in reference.flat.items()
            },
            trial_ids=tuple(trial.id for trial in trials),
            is_reference=drawn.key == reference.key,
            note=MODELS.get(drawn.flat["model.name"]).info.note,
            tuning=_tuning_note(drawn),
        )

    def _trials_of(self, name: str, drawn: _Drawn) -> tuple[Trial, ...]:
        """The trials of a variant, one per replicate; none while it is still to be tuned.

        A winner may equal a variant that is not tuned, and is then trained with it.
        """
        if drawn.search is not None:
            self.searches.setdefault(drawn.key, drawn.search.named(name))
        if drawn.key not in self._variants:
            made = () if drawn.resolved is None else self._trials(name, drawn.resolved)
            self._variants[drawn.key] = tuple(self.trials.setdefault(trial.id, trial) for trial in made)
        return self._variants[drawn.key]

    def _name(self, table: TableConfig, point: Point, drawn: _Drawn) -> str:
        """The reference's label, else the row's label, with the entry of variants where the label is taken."""
        if drawn.key == self._reference.key:
            return self.study.reference.label
        for name in (point.label, f"{point.label} ({table.of})"):
            if self._names.setdefault(name, drawn.key) == drawn.key:
                return name
        raise self.study.error(
            point.where, f"label {point.label!r} must name one configuration, another has it too; change one"
        )

    def _trials(self, variant: str, resolved: Resolved) -> tuple[Trial, ...]:
        synthetic = self.study.data.model_dump(mode="json")["synthetic"]
        data = {"name": self.study.data.name, **resolved.config["data"], "synthetic": synthetic}
        if (chosen := self.study.data.chosen) is not None:
            data["options"] = to_jsonable_python(chosen)
        return tuple(
            Trial(
                task=self.study.task,
                data=data,
                data_fingerprint=self._fingerprint,
                model=resolved.config["model"],
                train=resolved.config["train"],
                evaluate=resolved.config["evaluate"],
                replicate=replicate,
                base_seed=self.study.base_seed,
                variant=variant,
                data_root=self._data_root,
                resources=resolved.resources,
                checkpoints=self.study.checkpoints,
            )
            for replicate in range(self.study.replicates)
        )


def _is_tuned(path: str, search: Search | None) -> bool:
    """Whether a search sets the value at a path, or a mapping around it."""
    return search is not None and f"{path}.".startswith(tuple(f"{tuned_path}." for tuned_path in search.space))


def _tuning_note(drawn: _Drawn) -> str:
    if drawn.search is not None and drawn.resolved is not None:
        return drawn.search.note()
    return drawn.exempt
