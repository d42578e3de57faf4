"""Checkpoints are whole or absent, damage is noticed, and best weights stay as long as a kept state may name them."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from harness.checkpoint import (
    Place,
    Progress,
    best_path,
    clear_drafts,
    explain_full_storage,
    is_intact,
    load_best,
    load_state,
    outdated,
    save_atomic,
    save_best,
    save_state,
    state_path,
)
from harness.errors import TrialError


def states(value: float) -> dict[str, Any]:
    return {"model": {"weight": torch.full((3000,), value)}, "optimizer": {"step": 1}}


def kept(folder: Path, *steps: int, keep: int = 9) -> list[Path]:
    """States of these steps, the weights of each being its step."""
    return [save_state(folder, states(float(step)), Progress(step=step), keep=keep) for step in steps]


def loaded_step(folder: Path) -> int | None:
    found = load_state(folder)
    if found is None:
        return None
    assert torch.equal(found.states["model"]["weight"], torch.full((3000,), float(found.progress.step)))
    return found.progress.step


def test_round_trip(tmp_path: Path) -> None:
    progress = Progress(epoch=2, step=9, best_score=0.25, seconds=1.5, summed=(0.1, 2.0), first_losses=(3.0,))
    assert load_state(tmp_path) is None
    path = save_state(tmp_path, states(1.0), progress, keep=1)
    assert path.name == "state-2-9.pt"
    found = load_state(tmp_path)
    assert found is not None
    assert found.progress == progress
    assert torch.equal(found.states["model"]["weight"], torch.ones(3000))


def test_the_newest_states_are_kept(tmp_path: Path) -> None:
    kept(tmp_path, 2, 4, 8, 16, 100, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["state-0-100.pt", "state-0-16.pt"]
    assert loaded_step(tmp_path) == 100


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "flipped":
        content[len(content) // 2] ^= 1
    path.write_bytes(b"" if how == "empty" else content[:-100] if how == "truncated" else content)


@pytest.mark.parametrize("how", ["flipped", "truncated", "empty"])
def test_a_damaged_state_falls_back_to_the_one_before(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    *_, last = kept(tmp_path, 1, 2, 3)
    damage(last, how)
    with caplog.at_level(logging.WARNING):
        assert loaded_step(tmp_path) == 2
    [record] = caplog.records
    assert str(last) in record.getMessage()
    assert "\n" not in record.getMessage()
    assert not last.exists(), "or it would be taken for newer than what comes next"
    damage(tmp_path / "state-0-2.pt", how)
    damage(tmp_path / "state-0-1.pt", how)
    assert loaded_step(tmp_path) is None


def test_no_damage_is_missed(tmp_path: Path) -> None:
    """A flipped bit anywhere is noticed, unless it is in padding and the content is the same."""
    path = tmp_path / "state-0-1.pt"
    state = {"weight": torch.arange(50.0), "progress": {"step": 1}}
    save_atomic(state, path)
    whole = path.read_bytes()
    noticed = 0
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        found = load_state(tmp_path)
        noticed += found is None
        assert found is None or torch.equal(found.states["weight"], torch.arange(50.0))
    assert noticed > len(whole) // 28
    for length in range(0, len(whole), 31):
        path.write_bytes(whole[:length])
        assert not is_intact(path)


def test_a_state_without_its_best_weights_is_passed_over(tmp_path: Path) -> None:
    first = Progress(epoch=1, step=5, best_epoch=1, best_score=0.1)
    save_best(tmp_path, nn.Linear(2, 1), 1)
    save_state(tmp_path, states(5.0), first, keep=2)
    save_best(tmp_path, nn.Linear(2, 1), 2)
    save_state(tmp_path, states(10.0), replace(first, epoch=2, step=10, best_epoch=2), keep=2)
    damage(best_path(tmp_path, 2), "truncated")
    assert loaded_step(tmp_path) == 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best-1.pt", "state-1-5.pt"]


def test_memory_that_runs_out_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept(tmp_path, 1)

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        load_state(tmp_path)
    monkeypatch.undo()
    assert loaded_step(tmp_path) == 1


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"progress": Payload()}, tmp_path / "state-0-1.pt")
    assert load_state(tmp_path) is None
    assert not (tmp_path / "ran").exists()


# Best weights


def test_best_weights_are_kept_until_no_state_names_them(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    first = Progress(epoch=1, step=5, best_epoch=1, best_score=0.1)
    save_best(tmp_path, model, 1)
    save_state(tmp_path, states(5.0), first, keep=2)
    with torch.no_grad():
        model.weight.fill_(7.0)
    save_best(tmp_path, model, 2)  # a crash here leaves a state that names epoch 1
    assert best_path(tmp_path, 1).exists()
    assert not torch.equal(load_best(tmp_path, 1)["weight"], model.weight)
    second = replace(first, epoch=2, step=10, best_epoch=2)
    save_state(tmp_path, states(10.0), second, keep=2)
    assert best_path(tmp_path, 1).exists(), "the state before names it"
    save_state(tmp_path, states(15.0), replace(second, epoch=3, step=15), keep=2)
    assert sorted(p.name for p in tmp_path.glob("best-*")) == ["best-2.pt"]
    assert torch.equal(load_best(tmp_path, 2)["weight"], model.weight)


def test_what_is_outdated() -> None:
    names = ["state-1-5.pt", "state-1-7.pt", "state-2-10.pt", "state-3-10.pt", "state-4-20.pt", "result.json"]
    names += ["best-1.pt", "best-2.pt", "best-3.pt", "best-5.pt", "state-2-10.pt.7.tmp"]
    found = outdated(names, Place(10, 3), best_epoch=3, keep=3)
    assert found == ["state-1-5.pt", "state-4-20.pt", "best-5.pt"]
    found = outdated(names, Place(10, 3), best_epoch=2, keep=1)
    assert {"state-2-10.pt", "best-1.pt", "best-3.pt"} < set(found)
    assert "best-2.pt" not in found


# Storage that fails


def test_a_crash_while_writing_leaves_the_old_state(tmp_path: Path) -> None:
    kept(tmp_path, 1)
    whole = (tmp_path / "state-0-1.pt").read_bytes()
    (tmp_path / "state-0-2.pt.7.tmp").write_bytes(whole[:100])
    clear_drafts(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["state-0-1.pt"]
    assert loaded_step(tmp_path) == 1


def test_drafts_of_two_processes_do_not_collide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drafts = []
    save = torch.save
    monkeypatch.setattr(torch, "save", lambda value, file: (drafts.append(Path(file.name).name), save(value, file)))
    for pid in (1, 2):
        monkeypatch.setattr("os.getpid", lambda pid=pid: pid)
        save_atomic({"pid": pid}, tmp_path / "best-1.pt")
    assert drafts == ["best-1.pt.1.tmp", "best-1.pt.2.tmp"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a file system is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_clear_line_and_keeps_the_old_state(small_disk: Path) -> None:
    kept(small_disk, 1)
    large = {"model": {"weight": torch.zeros(100_000)}}
    with pytest.raises(TrialError, match="no space is left there; free some, then run the same command") as found:
        save_state(small_disk, large, Progress(step=2), keep=1)
    assert str(small_disk) in str(found.value)
    assert "\n" not in str(found.value)
    assert [p.name for p in small_disk.iterdir()] == ["state-0-1.pt"]
    assert loaded_step(small_disk) == 1
    with pytest.raises(TrialError, match="no space is left there"), explain_full_storage(small_disk):
        (small_disk / "environment.json").write_text("x" * 100_000)


def test_a_read_only_disk_is_one_clear_line_and_keeps_the_old_state(small_disk: Path) -> None:
    kept(small_disk, 1)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(TrialError, match=r"must be writable, it is not \(Read-only file system\); make it so") as found:
        save_state(small_disk, states(2.0), Progress(step=2), keep=1)
    assert "\n" not in str(found.value)
    assert [p.name for p in small_disk.iterdir()] == ["state-0-1.pt"]
    assert loaded_step(small_disk) == 1


def test_another_error_of_the_storage_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No such file"):
        save_state(tmp_path / "gone", states(1.0), Progress(), keep=1)
    assert state_path(tmp_path, Progress(epoch=1, step=2)).name == "state-1-2.pt"
