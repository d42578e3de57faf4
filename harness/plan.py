"""From a study to its plan: every trial with its id, the tables that show them, and what is skipped and why.

Order of trials: tables of higher priority first, then as the report lists them, rows of a table from top to bottom,
replicates from 0. A configuration
that several rows ask for is one variant and is trained once per replicate; its name is the first label it appears
under, and the reference's is always the reference's label.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from harness.data.base import DATASETS, Dataset
from harness.data.semantic import Division
from harness.data.synthetic import open_dataset, synthetic_fingerprint
from harness.designs import Group, group_of
from harness.errors import DataError, nearest
from harness.records import Plan, Row, Skipped, Table, Trial, canonical_json
from harness.resolve import Point, Resolved, reference_point, resolve
from harness.spec import StudySpec
from harness.spec_protocol import SemanticEvaluateConfig
from harness.spec_report import TableConfig
from models.base import MODELS

ABSENT = "absent"
"""Fingerprint to plan with while the data is not there; such ids are provisional."""


def expand(study: StudySpec, *, fingerprint: str, data_root: str = "") -> Plan:
    """Expand a study.

    Args:
        study: A checked study.
        fingerprint: Hash of the samples and splits, `ABSENT` where they are not at hand.
        data_root: Folder of the dataset, handed to the trials; no part of their identity.

    Raises:
        SpecError: A model, field, path or value that does not exist; rows that cannot be told apart.
    """
    planner = _Planner(study, fingerprint, data_root)
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
        spec_sha=study_sha(study),
        limits=study.schedule,
        data_note=data_note(study),
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


class _Planner:
    """Collects variants and trials while tables are laid out."""

    def __init__(self, study: StudySpec, fingerprint: str, data_root: str) -> None:
        self.study = study
        self.trials: dict[str, Trial] = {}
        self.skipped: list[Skipped] = []
        self._fingerprint = fingerprint
        self._data_root = data_root
        self._reference = resolve(study, reference_point(study))
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
            resolved = resolve(self.study, point)
            if self._is_repeated_reference(table, resolved, seen):
                self.skipped.append(Skipped(point.label, table.name, "equals the reference, which is a row already"))
                continue
            self._refuse_twins(point, resolved, seen)
            seen[resolved.key] = point.label
            rows.append(self._row(table, point, resolved))
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
        )

    def _is_repeated_reference(self, table: TableConfig, resolved: Resolved, seen: dict[str, str]) -> bool:
        one_factor = self.study.variants[table.of].design == "one_factor"
        return one_factor and bool(seen) and resolved.key == self._reference.key

    def _refuse_twins(self, point: Point, resolved: Resolved, seen: dict[str, str]) -> None:
        where = point.edits[-1].where if point.edits else point.where
        if resolved.key in seen:
            twin = seen[resolved.key]
            raise self.study.error(
                where, f"rows of a table must differ, {twin!r} and {point.label!r} are the same; change or remove one"
            )
        if point.label in seen.values():
            raise self.study.error(where, f"labels of a table must differ, {point.label!r} is given twice")

    def _row(self, table: TableConfig, point: Point, resolved: Resolved) -> Row:
        if resolved.key not in self._variants:
            self._variants[resolved.key] = self._trials(self._name(table, point, resolved), resolved)
        trials = self._variants[resolved.key]
        self.trials.update({trial.id: trial for trial in trials})
        reference = self._reference.flat
        return Row(
            label=point.label,
            variant=trials[0].variant,
            changes={p: v for p, v in resolved.flat.items() if p not in reference or reference[p] != v},
            trial_ids=tuple(trial.id for trial in trials),
            is_reference=resolved.key == self._reference.key,
            note=MODELS.get(resolved.config["model"]["name"]).info.note,
        )

    def _name(self, table: TableConfig, point: Point, resolved: Resolved) -> str:
        """The reference's label, else the row's label, with the entry of variants where the label is taken."""
        if resolved.key == self._reference.key:
            return self.study.reference.label
        for name in (point.label, f"{point.label} ({table.of})"):
            if self._names.setdefault(name, resolved.key) == resolved.key:
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
