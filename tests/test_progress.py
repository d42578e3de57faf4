"""What a study shows while it runs."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from harness.progress import StudyProgress, duration
from harness.records import Fault, Plan, Score, Trial, TrialResult, TrialState
from harness.trial_folder import EpochScores
from tests.tiny import tiny_plan

FOLDER = Path("folder")


class Clock:
    """A clock that a test moves."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Two variants with two replicates."""
    return tiny_plan(tmp_path, ("replicates: 1", "replicates: 2"))


def shown(plan: Plan, *, terminal: bool = False) -> tuple[StudyProgress, Clock, io.StringIO]:
    text = io.StringIO()
    progress = StudyProgress(plan, Console(file=text, force_terminal=terminal, width=120))
    clock = Clock()
    progress.view.clock = clock
    return progress, clock, text


def epoch(number: int, scores: Mapping[str, float]) -> EpochScores:
    return EpochScores(number, scores, 0.0)


def complete(trial: Trial) -> TrialResult:
    return TrialResult(trial.id, TrialState.COMPLETE, (Score("val", "miou", 0.5),), best_epoch=1)


def failed(trial: Trial) -> TrialResult:
    return TrialResult(
        trial.id, TrialState.FAILED, error="Traceback\nValueError: [red]the cause[/red]\n\n", fault=Fault.ERROR
    )


def test_plain_lines_and_counts(plan: Plan) -> None:
    progress, clock, text = shown(plan)
    first, second, third, _ = plan.trials
    progress.already_complete(third.id)
    with progress:
        progress.started(first)
        progress.started(second)
        progress.reported(first, epoch(1, {"train/loss": 1.0, "val/miou": 0.25}))
        assert progress.view.trials[first.id].score == 0.25
        progress.refresh()
        clock.now += 100
        progress.finished(first, complete(first), FOLDER)
        progress.finished(second, failed(second), FOLDER)
    assert text.getvalue().splitlines() == [
        f"started   {first.variant} #0  {first.id}",
        f"started   {second.variant} #1  {second.id}",
        f"complete  {first.variant} #0  val/miou 50.00  (2 min; 2 of 4 done, 1 running, 1 waiting, about 2 min left)",
        f"failed    {second.variant} #1  ValueError: [red]the cause[/red]  "
        "(2 min; 2 of 4 done, 1 waiting, 1 failed, about 2 min left)",
    ]


def test_a_long_trial_says_once_a_minute_how_far_it_is(plan: Plan) -> None:
    progress, clock, text = shown(plan)
    trial = plan.trials[0]
    epochs = trial.train["epochs"]
    with progress:
        progress.started(trial)
        for number, now in ((1, 1030.0), (2, 1061.0), (3, 1090.0), (4, 1122.0)):
            clock.now = now
            progress.reported(trial, epoch(number, {"val/miou": number / 10}))
    lines = [line.split()[-3:] for line in text.getvalue().splitlines() if line.startswith("epoch")]
    assert lines == [[f"2/{epochs}", "val/miou", "20.00"], [f"4/{epochs}", "val/miou", "40.00"]]


def test_time_left(plan: Plan) -> None:
    progress, clock, _ = shown(plan)
    first, second, third, fourth = plan.trials
    assert progress.view.eta_seconds() is None
    progress.already_complete(fourth.id)  # tells nothing about how long a trial takes
    progress.started(first)
    progress.started(second)
    assert progress.view.eta_seconds() is None
    clock.now += 60
    progress.finished(first, complete(first), FOLDER)
    clock.now += 20
    progress.started(third)
    assert progress.view.eta_seconds() == pytest.approx((0 + 60) / 2)
    progress.finished(second, complete(second), FOLDER)
    progress.finished(third, complete(third), FOLDER)
    assert progress.summary() == "4 of 4 done"


def test_live_table(plan: Plan) -> None:
    progress, clock, text = shown(plan, terminal=True)
    first, second, *_ = plan.trials
    with progress:
        progress.started(first)
        progress.started(second)
        progress.reported(second, epoch(2, {"val/miou": 0.125}))
        clock.now += 5
        progress.finished(first, failed(first), FOLDER)
        progress.refresh()
    assert "started " not in text.getvalue(), "a terminal has the table only"
    record = Console(record=True, force_terminal=True, width=120, file=io.StringIO())
    record.print(progress.render())
    lines = record.export_text().splitlines()
    assert "tiny: Does the machinery work?" in lines[0]
    (row,) = [line for line in lines if "RUNNING" in line]
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        *(f"{second.variant} #1", "RUNNING", "2/3", "12.50", "5 s", "")
    ]
    (row,) = [line for line in lines if "FAILED" in line]
    assert "0/3" in row
    assert "the cause" in row
    assert lines[-1] == "0 of 4 done, 1 running, 2 waiting, 1 failed"


def test_live_table_shows_the_last_that_ended(plan: Plan) -> None:
    many = replace(plan, trials=tuple(replace(plan.trials[0], replicate=n) for n in range(9)))
    progress, clock, _ = shown(many, terminal=True)
    for trial in many.trials:
        progress.started(trial)
        clock.now += 1
        progress.finished(trial, complete(trial), FOLDER)
    record = Console(record=True, width=120, file=io.StringIO())
    record.print(progress.render())
    text = record.export_text()
    assert text.count("COMPLETE") == 6
    assert "#2 " not in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (89.4, "89 s"), (90, "2 min"), (3570, "1 h 00 min"), (11_100, "3 h 05 min")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
