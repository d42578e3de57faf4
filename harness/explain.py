"""Where a figure of a table comes from, and whether what it came from has changed since: `harness explain`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.artifacts import MlflowArtifacts
from harness.code_reach import Changes
from harness.errors import HarnessError, nearest
from harness.origins import origin, run_rows
from harness.records import Plan, Row, Trial
from harness.trial_diff import differences
from harness.trial_log import log_path
from harness.trial_lookup import folder_of
from reports.origins import Origin
from reports.results import Results
from reports.table_model import Cell, TableModel

ARROWS = " ↑↓"
PUBLISHED = " (published)"
"""Behind the label of a quoted row."""
DELTA = "delta_"


@dataclass(frozen=True)
class Request:
    """What an explanation is drawn from."""

    results: Results
    tables: Sequence[TableModel]
    """The tables of its plan, filled."""
    artifacts: MlflowArtifacts
    storage: Path
    files: Mapping[str, Path]
    """Path -> file of the code as it is now."""

    @property
    def plan(self) -> Plan:
        """The study, expanded."""
        return self.results.plan

    @cached_property
    def rows(self) -> dict[str, Mapping[Any, Any]]:
        """Run id -> a row of it in the results frame."""
        return run_rows(self.results.frame)

    @cached_property
    def changes(self) -> Changes:
        """What has changed of the code."""
        return Changes(self.files, lambda run_id: self.artifacts.document(run_id, "code.json"))


@dataclass(frozen=True, kw_only=True)
class Replicate(Origin):
    """One trial behind a figure; paths are those of this machine. What has changed includes its configuration."""

    row: str
    """Label: of a difference, the reference's trials are listed too."""
    replicate: int
    trial_id: str
    state: str
    value: float | None = None
    """Stored unit; None without a score."""
    page: str = ""
    cause: str = ""
    """Why it failed."""
    log_is_here: bool = False


@dataclass(frozen=True)
class Explanation:
    """Where a figure comes from."""

    table: str
    row: str
    split: str
    metric: str
    is_delta: bool
    state: str
    shown: str
    """The figure with its spread, as the table has it; empty without one."""
    n: int
    expected_n: int
    interval: tuple[float, float] | None
    p: float | None
    source: str
    """Publication of a quoted figure."""
    verdict: str
    reference: str
    """Label of the reference; empty where the study has none."""
    changes: Mapping[str, Any]
    """What the row differs from the reference in."""
    replicates: tuple[Replicate, ...]

    @property
    def is_stale(self) -> bool:
        """Whether a replicate rests on a model, data or a configuration that has changed."""
        return any(r.stale for r in self.replicates)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return {**asdict(self), "stale": self.is_stale}


def explain(request: Request, address: str, *, split: str | None = None) -> Explanation:
    """Explain a figure.

    Args:
        request: What is known.
        address: `TABLE:ROW:METRIC`; ROW is a label or a part that only one has, METRIC a name or what the head says.
        split: Split of the figure; by default the study's primary one where the table has it, else the table's first.

    Raises:
        HarnessError: The address names no figure, or several.
        TrackingError: The store cannot be read.
    """
    table, label, cell = find_cell(request, address, split=split)
    planned = next(t for t in request.plan.tables if t.name == table.name)
    reference = request.plan.reference(planned)
    row = None if label.endswith(PUBLISHED) else next((r for r in planned.rows if r.label == label), None)
    behind = [r for r in (row, reference if cell.is_delta else None) if r is not None]
    behind = list({r.trial_ids: r for r in behind}.values())
    spread = f" ± {cell.spread}" if cell.spread else ""
    return Explanation(
        table=table.name,
        row=label,
        split=cell.split,
        metric=cell.metric,
        is_delta=cell.is_delta,
        n=cell.n,
        expected_n=cell.expected_n,
        interval=cell.interval,
        p=cell.p,
        source=cell.source,
        verdict=cell.verdict,
        state=cell.failure if cell.fault else str(cell.state),
        shown=f"{cell.figure}{spread}",
        reference=reference.label if reference else "",
        changes=dict(row.changes) if row else {},
        replicates=tuple(r for of in behind for r in _replicates(request, of, cell)),
    )


def find_cell(request: Request, address: str, *, split: str | None = None) -> tuple[TableModel, str, Cell]:
    """The table, the label of the row and the cell that an address means.

    Raises:
        HarnessError: It means none, or several.
    """
    name, _, rest = address.partition(":")
    wanted_row, _, wanted_metric = rest.rpartition(":")
    if not (name and wanted_row and wanted_metric):
        raise HarnessError(f"a figure is named TABLE:ROW:METRIC, got {address!r}; for example components:+ MSRC:miou")
    table = next((t for t in request.tables if t.name == name), None)
    if table is None:
        raise HarnessError(
            f"TABLE must be one of the study's, got {name!r}; {nearest(name, (t.name for t in request.tables))}"
        )
    label = _find_row(wanted_row, list(dict.fromkeys(label for label, _, _ in _cells(table))))
    cells = [(head, cell) for row, head, cell in _cells(table) if row == label]
    named = [cell for head, cell in cells if wanted_metric.strip(ARROWS).casefold() in _aliases(head, cell)]
    if not named:
        hint = nearest(wanted_metric.casefold(), (_name(cell) for _, cell in cells))
        raise HarnessError(f"METRIC must be one of table {name!r}, got {wanted_metric!r}; {hint}")
    splits = {cell.split: cell for cell in named}
    if split is not None and split not in splits:
        raise HarnessError(f"--split must be one of this figure's, got {split!r}; {nearest(split, splits)}")
    return table, label, splits.get(split or request.plan.primary_split, named[0])


def _cells(table: TableModel) -> Iterator[tuple[str, str, Cell]]:
    """Label of the row, head of the column, cell."""
    for block in table.blocks:
        for row in block.rows:
            label = f"{row.label}{PUBLISHED}" if row.is_published else row.label
            for column, cell in zip(table.columns, row.cells, strict=True):
                yield label, column.head, cell


def _aliases(head: str, cell: Cell) -> set[str]:
    """What a user may call a metric."""
    plain = head.strip(ARROWS).casefold()
    if cell.is_delta:
        return {plain, plain.replace("δ ", "delta "), _name(cell)}
    return {plain, plain.partition(" (")[0], _name(cell)}


def _name(cell: Cell) -> str:
    return f"{DELTA if cell.is_delta else ''}{cell.metric}"


def _find_row(wanted: str, labels: Sequence[str]) -> str:
    """The label that a text means: itself, or the only one it is a part of; quoted rows where no row of ours is."""
    text = wanted.strip().casefold()
    exact = [label for label in labels if label.casefold() == text]
    part = [label for label in labels if text in label.casefold()]
    ours = [label for label in part if not label.endswith(PUBLISHED)]
    found = exact or ours or part
    if len(found) == 1:
        return found[0]
    if found:
        raise HarnessError(f"ROW must stand for one row, {wanted!r} stands for {len(found)}: {', '.join(found)}")
    raise HarnessError(f"ROW must be a row's label or a part of it, got {wanted!r}; {nearest(wanted, labels)}")


def _replicates(request: Request, row: Row, cell: Cell) -> Iterator[Replicate]:
    for trial in map(request.plan.trial, row.trial_ids):
        place = folder_of(request.storage, trial.id)
        log = log_path(place, 0)
        about: dict[str, Any] = {"row": row.label, "replicate": trial.replicate, "trial_id": trial.id}
        found = request.results.known.get(trial.id)
        if found is None:
            yield Replicate(**about, state="no run", checkpoint=_weights(place, ""), stale=_since(request, trial))
            continue
        come = origin(trial, request.rows[found.run_id], request.changes, request.storage)
        weights = str(request.storage / come.checkpoint) if come.checkpoint else ""
        yield Replicate(
            **about,
            **{**asdict(come), "log": str(log), "checkpoint": _weights(place, weights)},
            log_is_here=log.is_file(),
            state=str(found.state),
            value=found.scores.get((cell.split, cell.metric)),
            page=request.artifacts.record(found.run_id).page,
            cause=found.note,
        )


def _weights(folder: Path, recorded: str) -> str:
    """Where the weights are: as the run says, else in the trial's folder."""
    return recorded or next((str(path) for path in sorted(folder.glob("best-*.pt"), reverse=True)), "")


def _since(request: Request, trial: Trial) -> tuple[str, ...]:
    """What has changed since this replicate of the variant last ran, for a trial that has not."""
    last = request.artifacts.last_of(request.plan.study, trial)
    if last is None:
        return ()
    run_id, before = last
    return tuple(f"{text} (run {run_id})" for text in _config_changes(before, trial))


def _config_changes(before: Trial, now: Trial) -> list[str]:
    return [f"{d.path}: ran with {d.first}, now {d.second}" for d in differences(before.identity, now.identity)]
