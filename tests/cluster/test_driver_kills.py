"""A study whose driver is killed again and again, on a real Ray."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.driver_kills import outlive

pytestmark = pytest.mark.cluster


def test_three_kills_lose_nothing_and_repeat_nothing_finished(tmp_path: Path) -> None:
    found = outlive(tmp_path, kills=3, trials=24, seed=1)
    assert (found.complete, found.repeated) == (24, 0)
    assert found.kills == 3, "the study must not be over before the last kill"
