"""Editing the code while a study runs does not reach its trials."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.records import TrialState
from harness.trial_folder import read_result, trial_folder
from tests.cluster.nodes import wait_until
from tests.conftest import ROOT
from tests.tiny import tiny_plan

pytestmark = pytest.mark.cluster

ONE_BY_ONE = (
    "replicates: 1",
    "replicates: 1\nresources: {cpus_per_worker: 1, reuse_workers: false}\nschedule: {max_running: 1}",
)


def test_trials_run_the_code_that_was_submitted(tmp_path: Path) -> None:
    here = tmp_path / "checkout"
    for package in ("harness", "models", "reports"):
        shutil.copytree(ROOT / package, here / package, ignore=shutil.ignore_patterns("__pycache__"))
    first, second = tiny_plan(tmp_path, ONE_BY_ONE, ("epochs: 3", "epochs: 1")).trials
    storage = tmp_path / "runs"
    words = [sys.executable, "-m", "harness", "run", str(tmp_path / "tiny.yaml"), "--storage", str(storage)]
    with (tmp_path / "driver.log").open("w") as log:
        driver = subprocess.Popen(words, cwd=here, stdout=log, stderr=log)
        try:
            begun = trial_folder(storage, first) / "log-0.txt"
            wait_until("the first trial", lambda: begun.exists() or driver.poll() is not None)
            broken = here / "models" / "mafn.py"
            broken.write_text("raise RuntimeError('edited while the study ran')\n" + broken.read_text())
            assert driver.wait(timeout=300) == 0, (tmp_path / "driver.log").read_text()
        finally:
            driver.kill()
    for trial in (first, second):
        result = read_result(trial_folder(storage, trial))
        assert result is not None
        assert result.state is TrialState.COMPLETE
