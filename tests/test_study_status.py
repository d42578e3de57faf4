"""How a study stands, from folders made by hand."""

from __future__ import annotations

import io
import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest
from rich.console import Console

from harness.claims import CLAIM, DRIVERS, Claims, Driver
from harness.errors import HarnessError
from harness.records import Fault, Plan, Score, Trial, TrialResult, TrialState
from harness.status_view import render_status, status_lines
from harness.study_status import StatusReader, StudyStatus, busy_seconds
from harness.trial_folder import EpochScores, append_history, trial_folder, write_json, write_result
from harness.trial_log import follow_log
from harness.trial_lookup import find_trial
from tests.tiny import tiny_plan

NOW = 1_800_000_000.0


def stamp(path: Path, when: float) -> None:
    os.utime(path, (when, when))


def epochs(folder: Path, *times: float) -> None:
    """Write epochs that were done at these times."""
    for number, when in enumerate(times, start=1):
        append_history(folder, EpochScores(number, {"val/miou": number / 10}, when))


def start(storage: Path, trial: Trial, when: float) -> Path:
    """Write down that a trial was started."""
    folder = trial_folder(storage, trial)
    write_json(folder / "trial.json", trial.to_json())
    stamp(folder / "trial.json", when)
    return folder


def complete(storage: Path, trial: Trial, *, began: float, ended: float, **cost: float) -> None:
    """Let a trial have run from one time to another."""
    folder = start(storage, trial, began)
    score = Score("val", "miou", 0.5)
    write_result(folder, TrialResult(trial.id, TrialState.COMPLETE, (score,), best_epoch=1, cost=cost))
    stamp(folder / "result.json", ended)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Two variants, three replicates."""
    return tiny_plan(tmp_path, ("replicates: 1", "replicates: 3"))


def read(plan: Plan, storage: Path, now: float = NOW) -> StudyStatus:
    return StatusReader(plan, storage, clock=lambda: now).read()


def test_nothing_has_run(plan: Plan, tmp_path: Path) -> None:
    status = read(plan, tmp_path)
    assert {t.state for t in status.trials} == {TrialState.WAITING}
    assert (status.left_s, status.eta_s, status.is_driven, status.is_done) == (None, None, False, False)
    assert "nothing measured yet to tell how long the rest takes" in "\n".join(status_lines(status))
    assert not (tmp_path / "trials").exists()


def test_time_left_is_that_of_the_variants_finished_trials(plan: Plan, tmp_path: Path) -> None:
    arc, mafn = (plan.trials[:3], plan.trials[3:])
    complete(tmp_path, arc[0], began=NOW - 500, ended=NOW - 400)
    complete(tmp_path, mafn[0], began=NOW - 400, ended=NOW - 100)
    with Claims(tmp_path, plan.study) as claims:
        folder = start(tmp_path, mafn[1], NOW - 100)
        assert claims.take(folder)
        status = read(plan, tmp_path)
        assert [t.left_s for t in status.trials] == [0, 100, 100, 0, 200, 300]
        assert (status.left_s, status.eta_s) == (700, 700)
        epochs(folder, NOW - 60, NOW - 10)
        assert read(plan, tmp_path).trial(mafn[1].id).left_s == 50  # one epoch of 50 s
    interrupted = read(plan, tmp_path)
    assert interrupted.trial(mafn[1].id).left_s == pytest.approx(100)  # one of three epochs of a trial of 300 s
    assert interrupted.eta_s is None
    assert "about 10 min of trials left" in "\n".join(status_lines(interrupted))


def test_hours_are_measured_or_what_was_held(plan: Plan, tmp_path: Path) -> None:
    complete(tmp_path, plan.trials[0], began=NOW - 3600, ended=NOW)
    complete(tmp_path, plan.trials[1], began=NOW - 3600, ended=NOW, gpu_hours=7.5)
    first, second = read(plan, tmp_path).trials[:2]
    assert (first.gpu_h, first.cpu_h, second.gpu_h) == (0, 1, 7.5)


@pytest.mark.parametrize(
    ("starts", "epoch_times", "ends", "seconds"),
    [
        ([], [], [], 0),
        ([0], [], [], 0),
        ([0], [10, 20, 30], [35], 35),
        ([0], [10, 20, 30], [500], 500),  # a long evaluation
        ([0], [10, 20, 9030, 9040], [9045], 45),  # a night between two epochs
        ([9000], [10, 20, 9010, 9020], [9025], 10 + 10 + 10 + 25),  # the first start is forgotten
        ([0, 9000], [10, 20, 9010], [9015], 10 + 10 + 10 + 15),
    ],
)
def test_pauses_do_not_count(starts: list[float], epoch_times: list[float], ends: list[float], seconds: float) -> None:
    assert busy_seconds(starts, epoch_times, ends) == seconds


def test_a_dead_driver_runs_nothing_and_another_studys_driver_does_not_count(plan: Plan, tmp_path: Path) -> None:
    folder = start(tmp_path, plan.trials[0], NOW)
    epochs(folder, NOW + 1)
    with Claims(tmp_path, "another"):
        dead = Driver("feed", plan.study, Claims(tmp_path, "third").driver.host, 2**22 + 1, "1", NOW)
        (tmp_path / DRIVERS / "feed.json").write_text(json.dumps(asdict(dead)))
        (folder / CLAIM).write_text('{"token": "feed"}')
        status = read(plan, tmp_path)
    assert [d.is_alive for d in status.drivers] == [False]
    assert status.trials[0].state is TrialState.WAITING
    text = "\n".join(status_lines(status))
    assert "interrupted, goes on from its last state" in text
    assert "1 driver ended without saying goodbye" in text


def test_records_that_wait_and_trials_beside_the_tables(plan: Plan, tmp_path: Path) -> None:
    spool = tmp_path / "spool" / plan.study / "token"
    (spool / "refused").mkdir(parents=True)
    for path in (spool / "1.json", spool / "2.json", spool / "refused" / "0.json", spool / "owner.json"):
        path.write_text("{}")
    other = tmp_path / "trials" / "0123456789ab"
    other.mkdir(parents=True)
    with Claims(tmp_path, plan.study) as claims:
        assert claims.take(other)
        status = read(plan, tmp_path)
    assert (status.spooled, status.refused, status.others_running) == (2, 1, 1)
    text = "\n".join(status_lines(status))
    assert "2 records are not in MLflow yet (harness sync delivers them)" in text
    assert "1 more trials run for it that no table shows" in text


def test_a_narrow_terminal_shows_everything(plan: Plan, tmp_path: Path) -> None:
    folder = start(tmp_path, plan.trials[0], NOW - 100)
    cause = "HarnessError: train.global_batch must be at most the number of training samples, got 11 for 10; lower it"
    write_result(folder, TrialResult(plan.trials[0].id, TrialState.FAILED, error=f"x\n{cause}", fault=Fault.ERROR))
    stamp(folder / "result.json", NOW - 40)
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    with Claims(tmp_path, plan.study) as claims:
        running = start(tmp_path, plan.trials[1], NOW - 100)
        assert claims.take(running)
        epochs(running, NOW - 60, NOW - 10)
        for state in ("state-1-100.pt", "state-2-200.pt"):
            (running / state).write_text("")
        console.print(render_status(read(plan, tmp_path)))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, shown.splitlines())) <= 80
    for trial in plan.trials[:2]:
        assert f"  {trial.id}  " in shown
    squeezed = " ".join(shown.split())
    for words in ("1 failed: error", "epoch 2/3, step 200, miou 20.00,", "500 ms per step"):
        assert words in squeezed
    for word in cause.split():
        assert word in squeezed


def test_trials_are_found_by_what_is_unique() -> None:
    known = {"abc1": "MAFN #0", "abd2": "MAFN #1", "abc": ""}
    assert [find_trial(t, known) for t in ("abd", "abc", "MAFN#1", " MAFN  # 0")] == ["abd2", "abc", "abd2", "abc1"]
    with pytest.raises(HarnessError, match=r"'ab' stands for 3: abc1 \(MAFN #0\), abd2 \(MAFN #1\), abc$"):
        find_trial("ab", known)
    with pytest.raises(HarnessError, match="name their study with --study"):
        find_trial("MAFN #2", known)
    with pytest.raises(HarnessError, match="nothing has run there"):
        find_trial("ab", {})


def test_a_log_is_followed_through_a_new_attempt(tmp_path: Path) -> None:
    log, looks = tmp_path / "log-0.txt", 0
    word = "größer\n".encode()
    pieces = [word * 2, word[:3], word[:3] + word[3:]]  # cut inside a letter; the second is a new attempt's

    def is_running() -> bool:
        nonlocal looks
        log.write_bytes(pieces[looks])
        looks += 1
        return looks < len(pieces)

    assert "".join(follow_log(tmp_path, 0, is_running=is_running)) == "größer\n" * 3
