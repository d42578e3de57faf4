"""What `harness status` shows: a screen for a terminal, plain lines elsewhere, JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from harness.progress import duration
from harness.records import Fault, Row, TrialState
from harness.study_status import DriverStatus, StudyStatus, TrialStatus, fault_counts
from harness.trial_lookup import label_of

INDENT = 2


@dataclass(frozen=True)
class Section:
    """A heading and rows of cells under it; the first row names the columns where `has_header`."""

    heading: str
    rows: tuple[tuple[str, ...], ...]
    has_header: bool = False


def status_json(status: StudyStatus) -> dict[str, Any]:
    """The status for programs; seconds and hours carry their unit in the name."""
    return {
        "study": status.plan.study,
        "question": status.plan.question,
        "storage": str(status.storage),
        "done": status.is_done,
        "counts": _counts_json(status.trials),
        "tables": [
            {
                "name": table.name,
                "rows": [
                    {
                        **{"label": row.label, "variant": row.variant, "trials": list(row.trial_ids)},
                        **_counts_json(_trials_of(status, row)),
                    }
                    for row in table.rows
                ],
            }
            for table in status.plan.tables
        ],
        "trials": [_trial_json(trial) for trial in status.trials],
        "others_running": status.others_running,
        "drivers": [
            {
                **{"token": d.driver.token, "host": d.host, "pid": d.driver.pid, "started": d.driver.started},
                **{"alive": d.is_alive, "silent_s": d.silent_s},
            }
            for d in status.drivers
        ],
        "records": {"spooled": status.spooled, "refused": status.refused},
        "used": _used(status),
        "left_s": status.left_s,
        "eta_s": status.eta_s,
    }


def _counts_json(trials: Sequence[TrialStatus]) -> dict[str, Any]:
    states = (TrialState.WAITING, TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)
    counts: dict[str, Any] = {state.value.lower(): _count(trials, state) for state in states}
    failed = {fault.value: count for fault, count in fault_counts(trials).items()}
    return {"trials": len(trials), **counts, "failed": failed}


def _trial_json(trial: TrialStatus) -> dict[str, Any]:
    names = ("epoch", "epochs", "epoch_s", "step", "step_s", "score", "cause", "host", "restarts")
    amounts = ("spent_s", "gpu_h", "cpu_h", "left_s")
    return {
        **{"id": trial.trial.id, "variant": trial.trial.variant, "replicate": trial.trial.replicate},
        "state": trial.state.value,
        "fault": trial.fault.value if trial.fault else None,
        **{name: getattr(trial, name) for name in (*names, *amounts)},
        "folder": str(trial.folder),
    }


def _used(status: StudyStatus) -> dict[str, float]:
    return {
        "trial_h": sum(t.spent_s for t in status.trials) / 3600,
        "gpu_h": sum(t.gpu_h for t in status.trials),
        "cpu_h": sum(t.cpu_h for t in status.trials),
    }


def status_lines(status: StudyStatus) -> list[str]:
    """The status as plain text, one thing per line."""
    lines = [f"{status.plan.study}: {status.plan.question}", *status_summary(status)]
    for section in _sections(status):
        widths = [max(map(len, column)) for column in zip(*section.rows, strict=True)]
        padded = ("  ".join(f"{c:{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in section.rows)
        lines += ["", section.heading, *(" " * INDENT + line for line in padded)]
    return [*lines, "", *_notes(status)]


def render_status(status: StudyStatus) -> RenderableType:
    """The status for a terminal."""
    parts: list[RenderableType] = [Text(f"{status.plan.study}: {status.plan.question}", style="bold")]
    parts += [Text(line) for line in status_summary(status)]
    for section in _sections(status):
        grid = Grid(box=None, padding=(0, 2, 0, 0), header_style="dim", show_header=section.has_header)
        for i, name in enumerate(section.rows[0]):
            is_id = i == 0 and not section.has_header
            grid.add_column(name if section.has_header else "", overflow="fold", no_wrap=is_id)
        for row in section.rows[section.has_header :]:
            grid.add_row(*(Text(cell, style=_style(cell)) for cell in row))
        parts += [Text(""), Text(section.heading, style="bold"), Padding(grid, (0, 0, 0, INDENT))]
    return Group(*parts, Text(""), *(Text(line) for line in _notes(status)))


def _style(cell: str) -> str:
    done, slash, whole = cell.partition("/")
    return "green" if slash and done == whole else ""


def status_summary(status: StudyStatus) -> list[str]:
    """Two lines: how many trials stand where; what they took and when the rest may be done."""
    trials = status.trials
    parts = [f"{_count(trials, TrialState.COMPLETE)} of {len(trials)} trials complete"]
    for state in (TrialState.RUNNING, TrialState.WAITING, TrialState.PRUNED):
        if count := _count(trials, state):
            parts.append(f"{count} {state.value.lower()}")
    parts += [f"{count} failed: {fault.value}" for fault, count in fault_counts(trials).items()]
    used = _used(status)
    spent = [f"{duration(used['trial_h'] * 3600)} of trials"]
    spent += [
        f"{_hours(used[key])} {name}" for key, name in (("gpu_h", "GPU-hours"), ("cpu_h", "CPU-hours")) if used[key]
    ]
    return [", ".join(parts), f"used {', '.join(spent)}{_outlook(status)}"]


def _hours(value: float) -> str:
    return f"{value:,.1f}" if value >= 10 else f"{value:.2g}"


def _outlook(status: StudyStatus) -> str:
    if status.is_done:
        return ""
    if status.left_s is None:
        return "; nothing measured yet to tell how long the rest takes"
    if status.eta_s is None:
        return f"; about {duration(status.left_s)} of trials left"
    return f"; about {duration(status.eta_s)} to go"


def _sections(status: StudyStatus) -> list[Section]:
    sections = [_table_section(status, i) for i in range(len(status.plan.tables))]
    running, failed = status.of(TrialState.RUNNING), status.of(TrialState.FAILED)
    waiting = [t for t in status.of(TrialState.WAITING) if t.epoch]
    if running:
        sections.append(Section("running", tuple(_running_row(status, t) for t in running)))
    if waiting:
        rows = tuple((t.trial.id, label_of(t.trial), f"{t.epoch}/{t.epochs} epochs done") for t in waiting)
        sections.append(Section("interrupted, goes on from its last state", rows))
    if failed:
        rows = tuple((t.trial.id, label_of(t.trial), f"{t.fault or Fault.ERROR}: {t.cause}") for t in failed)
        sections.append(Section("failed", rows))
    return sections


def _table_section(status: StudyStatus, index: int) -> Section:
    table = status.plan.tables[index]
    rows: list[tuple[str, ...]] = [("row", "complete", "running", "waiting", "failed")]
    for row in table.rows:
        trials = _trials_of(status, row)
        failed = ", ".join(f"{count} {fault.value}" for fault, count in fault_counts(trials).items())
        numbers = (_count(trials, TrialState.RUNNING), _count(trials, TrialState.WAITING))
        complete = f"{_count(trials, TrialState.COMPLETE)}/{len(trials)}"
        rows.append((row.label, complete, *(str(n or "-") for n in numbers), failed or "-"))
    return Section(table.name, tuple(rows), has_header=True)


def _running_row(status: StudyStatus, trial: TrialStatus) -> tuple[str, ...]:
    parts = [f"epoch {trial.epoch}/{trial.epochs}", *([f"step {trial.step}"] if trial.step else [])]
    parts += [] if trial.score is None else [f"{status.plan.primary_metric} {100 * trial.score:.2f}"]
    parts += [] if trial.epoch_s is None else [f"{_pace(trial.epoch_s)} per epoch"]
    parts += [] if trial.step_s is None else [f"{_pace(trial.step_s)} per step"]
    parts += [] if trial.left_s is None else [f"about {duration(trial.left_s)} left"]
    parts += [f"on {trial.host}"]
    parts += [f"{trial.restarts} restart{'s' * (trial.restarts > 1)}"] if trial.restarts else []
    return (trial.trial.id, label_of(trial.trial), ", ".join(parts))


def _pace(seconds: float) -> str:
    """As `duration`, and finer where it is short."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 10 else duration(seconds)


def _notes(status: StudyStatus) -> list[str]:
    lines = [_driver_line(d) for d in status.drivers if d.is_alive]
    dead = sum(not d.is_alive for d in status.drivers)
    if dead:
        lines.append(f"{dead} driver{'s' * (dead > 1)} ended without saying goodbye (harness gc removes the traces)")
    if not status.is_driven and not status.is_done:
        lines.append("nobody runs it now; harness run goes on with what is missing")
    if status.others_running:
        lines.append(f"{status.others_running} more trials run for it that no table shows")
    if failed := status.of(TrialState.FAILED):
        lines.append(f"the whole story of a failure: harness logs {failed[0].trial.id}")
    if status.spooled:
        lines.append(f"{status.spooled} records are not in MLflow yet (harness sync delivers them)")
    if status.refused:
        lines.append(f"{status.refused} records were refused by MLflow, see {status.storage / 'spool'}")
    return [*lines, f"storage {status.storage}"]


def _driver_line(driver: DriverStatus) -> str:
    signs = f"for {duration(driver.age_s)}, last sign of life {duration(driver.silent_s)} ago"
    return f"driven by process {driver.driver.pid} on {driver.host} {signs}"


def _trials_of(status: StudyStatus, row: Row) -> list[TrialStatus]:
    wanted = set(row.trial_ids)
    return [trial for trial in status.trials if trial.trial.id in wanted]


def _count(trials: Sequence[TrialStatus], state: TrialState) -> int:
    return sum(trial.state is state for trial in trials)
