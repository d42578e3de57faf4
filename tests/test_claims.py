"""Which driver runs a trial: one at a time, whatever happens to the drivers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from harness import claims as module
from harness.claims import CLAIM, Claims, Driver, Liveness, abandoned, claimed_by, read_drivers, ticket_of

DIES = """
import os, sys
from pathlib import Path
from harness.claims import Claims
claims = Claims(Path(sys.argv[1]), "other")
assert claims.take(Path(sys.argv[2]))
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "trials" / "one"
    found.mkdir(parents=True)
    return found


def far_away(storage: Path, token: str) -> Driver:
    """A driver on another machine."""
    driver = Driver(token, "other", "elsewhere", 1, "1", 0.0)
    (storage / "drivers").mkdir(exist_ok=True)
    (storage / "drivers" / f"{token}.json").write_text(json.dumps(asdict(driver)))
    return driver


def test_one_of_two_drivers_gets_a_trial(tmp_path: Path, folder: Path) -> None:
    with Claims(tmp_path, "study") as first, Claims(tmp_path, "study") as second:
        assert first.take(folder)
        assert first.take(folder), "again"
        assert not second.take(folder)
        assert (first.owns(folder), second.owns(folder)) == (True, False)
        second.release(folder)
        assert first.owns(folder), "who does not have it cannot give it back"
        first.release(folder)
        assert second.take(folder)
    assert claimed_by(folder) is None
    assert read_drivers(tmp_path) == []


def test_of_many_at_once_one_gets_it(tmp_path: Path, folder: Path) -> None:
    drivers = [Claims(tmp_path, "study") for _ in range(8)]
    for _ in range(20):
        got: list[Claims] = []
        together = threading.Barrier(len(drivers))

        def race(driver: Claims, got: list[Claims] = got, together: threading.Barrier = together) -> None:
            together.wait()
            if driver.take(folder):
                got.append(driver)

        threads = [threading.Thread(target=race, args=(d,)) for d in drivers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (winner,) = got
        winner.release(folder)
    for driver in drivers:
        driver.__exit__()


def test_the_claim_of_a_killed_driver_is_taken_over_at_once(tmp_path: Path, folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", DIES, tmp_path, folder], check=False)
    assert done.returncode == -9
    (dead,) = read_drivers(tmp_path)
    assert claimed_by(folder) == dead.token
    assert list(abandoned(tmp_path)) == [tmp_path / "drivers" / f"{dead.token}.json"]
    with Claims(tmp_path, "study") as driver:
        assert driver.take(folder)
        assert sorted(p.name for p in folder.iterdir()) == [CLAIM]


def test_a_driver_elsewhere_is_dead_after_its_file_was_still_for_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    far_away(tmp_path, "abc")
    liveness = Liveness(tmp_path)
    path = tmp_path / "drivers" / "abc.json"
    for _ in range(4):
        assert liveness.is_alive("abc")
        now[0] += 50
        os.utime(path, (now[0], now[0]))
    assert liveness.is_alive("abc")
    now[0] += 59
    assert liveness.is_alive("abc")
    now[0] += 2
    assert not liveness.is_alive("abc")
    assert not liveness.is_alive("never heard of")


def test_a_clock_that_jumps_makes_nobody_look_dead(tmp_path: Path, folder: Path) -> None:
    far_away(tmp_path, "abc")
    (folder / CLAIM).write_text('{"token": "abc"}')
    os.utime(tmp_path / "drivers" / "abc.json", (0, 0))
    os.utime(folder / CLAIM, (0, 0))
    with Claims(tmp_path, "study") as driver:
        assert not driver.take(folder)


def test_a_process_of_the_same_number_is_another_driver(tmp_path: Path) -> None:
    with Claims(tmp_path, "study") as driver:
        liveness = Liveness(tmp_path)
        assert liveness.is_alive(driver.driver.token)
        path = tmp_path / "drivers" / f"{driver.driver.token}.json"
        path.write_text(json.dumps(asdict(replace(driver.driver, born="1"))))
        assert not liveness.is_alive(driver.driver.token)


def test_a_driver_that_slept_knows_that_it_lost_a_trial(tmp_path: Path, folder: Path) -> None:
    with Claims(tmp_path, "study") as sleeper, Claims(tmp_path, "study") as other:
        assert sleeper.take(folder)
        (tmp_path / "drivers" / f"{sleeper.driver.token}.json").unlink()
        assert other.take(folder)
        assert not sleeper.owns(folder)
        sleeper.release(folder)
        assert other.owns(folder)


def test_a_new_attempt_takes_the_ticket_of_the_one_before(tmp_path: Path, folder: Path) -> None:
    with Claims(tmp_path, "study") as driver:
        assert driver.take(folder)
        assert ticket_of(folder) is None
        first = driver.new_ticket(folder)
        assert ticket_of(folder) == first
        assert driver.new_ticket(folder) != first
        assert ticket_of(folder) != first
        assert driver.owns(folder)
