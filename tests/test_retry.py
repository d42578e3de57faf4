"""Which failures are tried again, with what, and how often."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import DivergedError
from harness.faults import cause, fault_of
from harness.records import Fault, Resources, Trial, TrialResult, TrialState
from harness.retry import MAX_WITHOUT_PROGRESS, plan_retry, smaller_batches, with_attempts
from harness.trial_folder import EpochScores, append_attempt, append_history
from tests.tiny import tiny_trial


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    return replace(tiny_trial(tmp_path), resources=Resources(workers=2, eval_batch=4))


def failed(trial: Trial, fault: Fault) -> TrialResult:
    return TrialResult(trial.id, TrialState.FAILED, error="Traceback\n  x\nBoomError: what\n\n", fault=fault)


@pytest.mark.parametrize("fault", [Fault.ERROR, Fault.DIVERGED, Fault.TIMEOUT])
def test_a_mistake_a_divergence_and_a_hang_are_not_tried_again(trial: Trial, tmp_path: Path, fault: Fault) -> None:
    assert plan_retry(trial, failed(trial, fault), tmp_path) is None


def test_out_of_memory_halves_what_is_passed_at_once_down_to_one_sample(trial: Trial, tmp_path: Path) -> None:
    assert trial.train["global_batch"] == 4
    line = plan_retry(trial, failed(trial, Fault.MEMORY), tmp_path)
    assert line is not None
    assert line["changes"] == {"micro_batch": 1, "eval_batch": 2}
    assert line["cause"] == "BoomError: what"
    append_attempt(tmp_path, line)
    again = with_attempts(trial, tmp_path)
    assert (again.resources.micro_batch, again.resources.eval_batch) == (1, 2)
    assert again.id == trial.id
    assert smaller_batches(again) == {"micro_batch": 1, "eval_batch": 1}
    last = replace(again, resources=replace(again.resources, eval_batch=1))
    assert plan_retry(last, failed(trial, Fault.MEMORY), tmp_path) is None


def test_a_lost_worker_is_free_as_long_as_the_trial_gets_on(trial: Trial, tmp_path: Path) -> None:
    lost = failed(trial, Fault.INFRASTRUCTURE)
    for epoch in range(1, 12):
        line = plan_retry(trial, lost, tmp_path)
        assert line is not None
        append_attempt(tmp_path, line)
        append_history(tmp_path, EpochScores(epoch, {}, 0.0))
    for _ in range(MAX_WITHOUT_PROGRESS):
        line = plan_retry(trial, lost, tmp_path)
        assert line is not None
        append_attempt(tmp_path, line)
    assert plan_retry(trial, lost, tmp_path) is None
    (tmp_path / "last.pt").write_bytes(b"a new state")
    assert plan_retry(trial, lost, tmp_path) is not None


def test_kinds_of_exceptions() -> None:
    assert fault_of(ValueError("x")) is Fault.ERROR
    assert fault_of(DivergedError("loss is nan")) is Fault.DIVERGED
    assert fault_of(MemoryError()) is Fault.MEMORY
    assert fault_of(ConnectionResetError()) is Fault.INFRASTRUCTURE
    assert fault_of(RuntimeError("[gloo] Connection closed by peer [10.0.0.1]")) is Fault.INFRASTRUCTURE
    assert fault_of(ValueError("the words connection closed by peer")) is Fault.ERROR
    import torch

    assert fault_of(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")) is Fault.MEMORY
    with pytest.raises(RuntimeError, match="can't allocate memory") as caught:
        torch.empty(2**50)
    assert fault_of(caught.value) is Fault.MEMORY


def test_what_caused_an_exception_counts() -> None:
    def wrapped() -> None:
        try:
            raise DivergedError("loss is nan")
        except DivergedError as error:
            raise RuntimeError("worker failed") from error

    with pytest.raises(RuntimeError, match="worker failed") as caught:
        wrapped()
    assert fault_of(caught.value) is Fault.DIVERGED


def test_a_cause_is_the_last_line() -> None:
    assert cause("Traceback\n\nValueError: x\n") == "ValueError: x"
    assert cause("") == ""
