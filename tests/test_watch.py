"""When a loss ends a trial, and how often it is looked at."""

from __future__ import annotations

import itertools

import pytest

import harness.watch
from harness.errors import DivergedError
from harness.watch import EXPLODED, NUM_FIRST, PATIENCE, LossWatch, Pace


def test_the_first_loss_that_is_no_number_is_named() -> None:
    watch = LossWatch()
    watch.see([1.0, 2.0], last_step=2, epoch=1)
    with pytest.raises(DivergedError, match="must stay finite, got inf at step 4, in epoch 2: diverged; lower train"):
        watch.see([1.0, float("inf"), float("nan")], last_step=5, epoch=2)


def test_an_exploded_loss_ends_the_trial_and_a_spike_does_not() -> None:
    watch = LossWatch()
    watch.see([0.5, 0.7] * (NUM_FIRST // 2), last_step=NUM_FIRST, epoch=1)
    large = 1.01 * EXPLODED * 0.6
    watch.see([large] * (PATIENCE - 1) + [1.0] + [large] * (PATIENCE - 1), last_step=300, epoch=2)
    with pytest.raises(
        DivergedError, match=r"must stay below 60, 100 times .* got more for 100 steps, 60.6 at step 301"
    ):
        watch.see([large], last_step=301, epoch=2)


def test_a_restart_changes_nothing() -> None:
    watch = LossWatch()
    watch.see([0.6] * NUM_FIRST + [1e9] * (PATIENCE - 1), last_step=NUM_FIRST + PATIENCE - 1, epoch=1)
    again = LossWatch(watch.first, watch.above)
    with pytest.raises(DivergedError, match="exploded"):
        again.see([1e9], last_step=NUM_FIRST + PATIENCE, epoch=1)


@pytest.mark.parametrize("first", [0.0, -1.0])
def test_a_loss_that_starts_at_zero_or_below_cannot_explode(first: float) -> None:
    watch = LossWatch()
    watch.see([first] * NUM_FIRST + [1e6] * 2 * PATIENCE, last_step=1000, epoch=1)


def test_looks_are_two_seconds_apart_whatever_a_step_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(harness.watch.time, "perf_counter", lambda: now)
    pace, steps, looks = Pace(), 0, []
    while now < 60:
        now += 0.05 if now < 30 else 0.4  # slower from then on
        steps += 1
        if pace.step():
            looks.append((steps, now))
            pace.restart(pace.wanted(steps - (looks[-2][0] if len(looks) > 1 else 0)))
    assert [step for step, _ in looks[:5]] == [1, 3, 7, 15, 31]
    gaps = [b[1] - a[1] for a, b in itertools.pairwise(looks[6:])]
    assert max(gaps) < 17, "the one look that was set before steps became slow"
    assert all(1.5 <= gap <= 2.1 for gap in [*gaps[:8], *gaps[-8:]])


def test_a_pause_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(harness.watch.time, "perf_counter", lambda: now)
    pace = Pace()
    pace.restart(8)
    now = 1000.0
    pace.pause()
    now += 1.0
    assert pace.wanted(10) == 16
