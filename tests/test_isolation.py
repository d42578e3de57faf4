"""What a trial leaves in a process: put back where it can be, named where it cannot."""

from __future__ import annotations

import gc
import logging
import os
import random
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

import harness.metrics
from harness.isolation import Baseline


@pytest.fixture(autouse=True, scope="module")
def frozen() -> Iterator[None]:
    """What other files have left need not be searched in every test."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def baseline() -> Iterator[Baseline]:
    """Restored at the end, whatever a test leaves."""
    found = Baseline()
    yield found
    found.restore()


def test_a_clean_process_is_clean(baseline: Baseline) -> None:
    assert baseline.restore() == []


def test_environment_folder_and_path_are_put_back(baseline: Baseline, tmp_path: Path) -> None:
    def seen() -> tuple[dict[str, str], Path, list[str]]:
        mine = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
        return mine, Path.cwd(), list(sys.path)

    before = seen()
    os.environ["LEFT_BY_A_TRIAL"] = "1"
    del os.environ["PATH"]
    os.chdir(tmp_path)
    sys.path.insert(0, str(tmp_path))
    assert baseline.restore() == []
    assert seen() == before


def test_switches_of_pytorch_are_put_back(baseline: Baseline) -> None:
    def seen() -> tuple[Any, ...]:
        deterministic = torch.are_deterministic_algorithms_enabled()
        benchmark = torch.backends.cudnn.benchmark
        return torch.get_num_threads(), torch.zeros(1).dtype, deterministic, torch.is_grad_enabled(), benchmark

    before = seen()
    torch.set_num_threads(before[0] + 1)
    torch.set_default_dtype(torch.float64)
    torch.use_deterministic_algorithms(not before[2])
    torch.set_grad_enabled(not before[3])
    torch.backends.cudnn.benchmark = not before[4]
    assert not any(a == b for a, b in zip(seen(), before, strict=True))
    assert baseline.restore() == []
    assert seen() == before


def test_random_states_do_not_go_on(baseline: Baseline) -> None:
    """What a trial drew after seeding does not tell what the next one draws unseeded."""

    def draws() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    expected = draws()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    assert baseline.restore() == []
    assert all(a != b for a, b in zip(draws(), expected, strict=True))


def test_a_process_group_is_ended(baseline: Baseline, tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    assert baseline.restore() == []
    assert not dist.is_initialized()


def test_logging_and_warnings_are_put_back(baseline: Baseline) -> None:
    root = logging.getLogger()
    before = root.level, list(root.handlers), list(warnings.filters)
    logging.basicConfig(level=1, force=True)
    warnings.simplefilter("ignore")
    assert baseline.restore() == []
    assert (root.level, list(root.handlers), list(warnings.filters)) == before


def test_a_thread_that_goes_on_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.isolation.PATIENCE_SECONDS", 0.05)
    baseline = Baseline()
    goes_on = threading.Event()
    thread = threading.Thread(target=goes_on.wait, name="left behind")
    thread.start()
    try:
        assert baseline.restore() == ["thread 'left behind' is still running"]
    finally:
        goes_on.set()
        thread.join()
    assert baseline.restore() == []


def test_a_name_bound_anew_is_named(baseline: Baseline, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(harness.metrics, "METRICS", {})
        patch.setattr(harness.metrics, "left_by_a_trial", 3, raising=False)
        assert baseline.restore() == ["harness.metrics has other values of METRICS, left_by_a_trial"]
    assert baseline.restore() == []


def test_a_process_that_keeps_much_memory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.isolation.MAX_GROWTH_MIB", 50)
    baseline = Baseline()
    kept = np.ones((100, 2**17))  # 100 MiB
    (found,) = baseline.restore()
    assert found.startswith("the process has grown by 1")
    del kept


def test_gpu_memory_that_is_still_held_is_named(baseline: Baseline) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    assert baseline.restore() == []
    kept = torch.zeros(2**20, 8, device="cuda")
    assert baseline.restore() == ["32 MiB of GPU memory are still held"]
    del kept
    assert baseline.restore() == []


PRINTS = """
import os, sys
from pathlib import Path
from harness.isolation import output_to
for word in ("first", "second"):
    with output_to(Path(sys.argv[1])):
        print(word)
        sys.stdout.flush()
        os.write(2, b"from C\\n")
print("after")
"""


def test_what_is_printed_goes_to_a_file_also_from_c(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    done = subprocess.run([sys.executable, "-c", PRINTS, path], check=True, capture_output=True, text=True)
    assert path.read_text() == "first\nfrom C\nsecond\nfrom C\n"
    assert (done.stdout, done.stderr) == ("after\n", "")
