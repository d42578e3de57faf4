"""A driver for tests: a process that claims a trial, writes epochs into its folder and stops when asked to.

`python -m tests.driver STORAGE STUDY TRIAL_ID` prints a line when the first epoch is there.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from harness.claims import Claims
from harness.trial_folder import EpochScores, append_history

DEADLINE_SECONDS = 60.0


def drive(storage: Path, study: str, trial_id: str) -> None:
    folder = storage / "trials" / trial_id
    folder.mkdir(parents=True, exist_ok=True)
    with Claims(storage, study) as claims:
        assert claims.take(folder)
        append_history(folder, EpochScores(1, {"val/miou": 0.25}, time.time()))
        log = folder / "log-0.txt"
        log.write_text("first epoch\n", encoding="utf-8")
        sys.stdout.write("driving\n")
        sys.stdout.flush()
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not claims.stop_file.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        with log.open("a", encoding="utf-8") as file:
            file.write(f"asked to stop: {claims.stop_file.read_text(encoding='utf-8')!r}\n")


if __name__ == "__main__":
    drive(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
