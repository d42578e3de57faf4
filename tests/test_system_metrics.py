"""What is written down of the machine while a trial runs, and what the trial says that it took."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import harness.system_metrics
from harness.records import Checkpointing, Resources, TrialState
from harness.system_metrics import HOURS, PROCESSOR_ENERGY, ProcessorEnergy, SystemMetrics
from harness.trial import run_trial
from tests.tiny import Context, tiny_trial

CPU = torch.device("cpu")


def lines(folder: Path) -> list[dict[str, float]]:
    text = (folder / "system.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines() if line]


def counter(root: Path, name: str, microjoules: int) -> Path:
    """A counter of RAPL as the kernel shows it."""
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "max_energy_range_uj").write_text("1000000000\n")
    path = folder / "energy_uj"
    path.write_text(f"{microjoules}\n")
    return path


def test_energy_of_processors(tmp_path: Path) -> None:
    first, second = counter(tmp_path, "intel-rapl:0", 5_000_000), counter(tmp_path, "intel-rapl:1", 999_000_000)
    inside = counter(tmp_path, "intel-rapl:0:0", 1)
    energy = ProcessorEnergy(tmp_path)
    assert energy.joules() == 0.0
    first.write_text("15000000\n")
    second.write_text("2000000\n")  # it has run over
    inside.write_text("900000000\n")  # a part of the first
    assert energy.joules() == pytest.approx(10.0 + 3.0)
    first.write_text("16000000\n")
    assert energy.joules() == pytest.approx(14.0)
    assert ProcessorEnergy(tmp_path / "none").joules() is None


def test_lines_are_written_while_the_trial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.system_metrics, "INTERVAL_SECONDS", 0.05)
    with SystemMetrics(tmp_path, CPU):
        deadline = time.perf_counter() + 10
        while not (tmp_path / "system.jsonl").exists() or len(lines(tmp_path)) < 3:
            assert time.perf_counter() < deadline
            time.sleep(0.02)
    found = lines(tmp_path)
    assert [line["time"] for line in found] == sorted(line["time"] for line in found)
    for line in found:
        assert 0 <= line["system/cpu_utilization_percentage"] <= 100
        assert 0 < line["system/process_memory_usage_megabytes"] < line["system/system_memory_usage_megabytes"] * 2
    count = len(lines(tmp_path))
    time.sleep(0.15)
    assert len(lines(tmp_path)) == count, "the thread has ended"


def test_hours_and_energy_go_on_after_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = counter(tmp_path / "powercap", "intel-rapl:0", 0)
    make = ProcessorEnergy
    monkeypatch.setattr(harness.system_metrics, "ProcessorEnergy", lambda: make(tmp_path / "powercap"))
    for start in range(2):
        with SystemMetrics(tmp_path, CPU) as metrics:
            path.write_text(f"{(start + 1) * 36_000_000}\n")
            found = metrics.energy_kwh()
        assert found == pytest.approx((start + 1) * 1e-5)
        with (tmp_path / "system.jsonl").open("a") as file:
            file.write('\n{"time": 1, "sys')  # a kill in the middle of a line
    last = lines_of_whole(tmp_path)[-1]
    assert last[PROCESSOR_ENERGY] == pytest.approx(2e-5)
    (tmp_path / "system.jsonl").write_text(json.dumps({HOURS: 2.0}))
    assert 2.0 < SystemMetrics(tmp_path, CPU).hours() < 2.01


def lines_of_whole(folder: Path) -> list[dict[str, float]]:
    text = (folder / "system.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def test_a_trial_says_what_it_took_and_how(tmp_path: Path) -> None:
    resources = Resources(workers=1, cpus_per_worker=2.0, micro_batch=2, eval_batch=4)
    trial = replace(tiny_trial(tmp_path, epochs=1), resources=resources)
    trial = replace(trial, checkpoints=Checkpointing(every_steps=1, keep=5, mirror=f"file://{tmp_path}/mirror"))
    context = Context(tmp_path, trial)
    result = run_trial(trial, context)
    assert result.state is TrialState.COMPLETE
    assert dict(result.notes) == {"micro_batch": 2, "batch_norm_of_parts": True}
    hours = lines(context.folder)[-1][HOURS]
    assert 0 < result.cost["cpu_hours"] <= 2 * hours
    assert result.cost["gpu_hours"] == 0.0
    assert "train_memory_mib" not in result.cost
    assert not (context.folder / "memory.json").exists()
    seeds = json.loads((context.folder / "seeds.json").read_text())
    assert set(seeds) == {"init", "order", "augment", "model_noise"}
    assert len(set(seeds.values())) == 4
    states = {"state-0-1.pt", "state-1-2.pt", "best-1.pt"}
    assert states == {path.name for path in context.folder.glob("*.pt")}
    copied = {path.name for path in (tmp_path / "mirror" / trial.id).iterdir()}
    assert {"state-1-2.pt", "best-1.pt"} <= copied <= states
    # start, seeds, two states, four splits and their pictures, description
    assert context.checked == 13
