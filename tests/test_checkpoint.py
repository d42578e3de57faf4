"""Checkpoints are whole or absent, and the best weights stay until the saved state names others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from harness.checkpoint import (
    Progress,
    best_path,
    clear_drafts,
    load_best,
    load_last,
    save_atomic,
    save_best,
    save_last,
)


def states(value: float) -> dict[str, Any]:
    return {"model": {"weight": torch.full((3,), value)}, "optimizer": {"step": 1}}


def test_round_trip(tmp_path: Path) -> None:
    progress = Progress(epoch=2, step=9, best_epoch=1, best_score=0.25, seconds=1.5)
    assert load_last(tmp_path) is None
    save_last(tmp_path, states(1.0), progress)
    found = load_last(tmp_path)
    assert found is not None
    assert found[1] == progress
    assert torch.equal(found[0]["model"]["weight"], torch.ones(3))


def test_a_crash_while_writing_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_last(tmp_path, states(1.0), Progress(epoch=1))
    save = torch.save

    def stop_midway(value: Any, path: Path) -> None:
        save(value, path)
        path.write_bytes(path.read_bytes()[:100])
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", stop_midway)
    with pytest.raises(OSError, match="no space left"):
        save_last(tmp_path, states(2.0), Progress(epoch=2))
    monkeypatch.undo()
    found = load_last(tmp_path)
    assert found is not None
    assert found[1].epoch == 1
    assert torch.equal(found[0]["model"]["weight"], torch.ones(3))
    assert len(list(tmp_path.glob("*.tmp"))) == 1
    clear_drafts(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_drafts_of_two_processes_do_not_collide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drafts = []
    save = torch.save
    monkeypatch.setattr(torch, "save", lambda value, path: (drafts.append(path.name), save(value, path)))
    for pid in (1, 2):
        monkeypatch.setattr("os.getpid", lambda pid=pid: pid)
        save_atomic({"pid": pid}, tmp_path / "last.pt")
    assert drafts == ["last.pt.1.tmp", "last.pt.2.tmp"]


def test_best_weights_are_kept_until_the_state_names_others(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    first = Progress(epoch=1, best_epoch=1, best_score=0.1)
    save_best(tmp_path, model, 1)
    save_last(tmp_path, states(1.0), first)
    with torch.no_grad():
        model.weight.fill_(7.0)
    save_best(tmp_path, model, 2)  # a crash here leaves a state that names epoch 1
    assert best_path(tmp_path, 1).exists()
    assert not torch.equal(load_best(tmp_path, 1)["weight"], model.weight)
    save_last(tmp_path, states(2.0), replace(first, epoch=2, best_epoch=2))
    assert sorted(p.name for p in tmp_path.glob("best-*")) == ["best-2.pt"]
    assert torch.equal(load_best(tmp_path, 2)["weight"], model.weight)
    save_last(tmp_path, states(3.0), replace(first, epoch=3, best_epoch=2))
    assert best_path(tmp_path, 2).exists()


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    torch.save({"progress": Path("x")}, tmp_path / "last.pt")
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        load_last(tmp_path)
