"""`harness rebuild --retrain`: one trial of an archive trained again, and its scores beside the packed ones."""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from harness.data.base import SyntheticConfig
from harness.data.synthetic import open_dataset, synthetic_fingerprint
from harness.errors import DataError, HarnessError
from harness.executor import Executor, Session
from harness.packed import PackedArtifacts, read_frame, read_plan
from harness.records import Plan, Trial, TrialResult, TrialState
from harness.schedule import FixedSource
from harness.trial_folder import EpochScores, read_result, trial_folder
from harness.trial_lookup import find_trial, label_of
from reports import costs
from reports.evidence import Evidence, collect_evidence

Key = tuple[str, str]
"""Split and metric."""
RANDOM = "random"
SPREADS = 2.0
"""A score that is not the same may be off by so many standard deviations of the packed replicates."""
MACHINE = ("python", "platform", "cpu_threads", "cuda", "driver", "gpus")
"""What of two environments is compared, beside packages."""
PACKAGES = ("torch", "numpy", "timm", "transformers", "pillow")


@dataclass(frozen=True)
class Cell:
    """A trial that can be trained again, and what it is compared with."""

    table: str
    row: str
    trial: Trial
    evidence: Evidence
    """What is packed of it."""
    spreads: Mapping[Key, float]
    """Standard deviation over the row's replicates; without scores that only one replicate has."""
    primary: Key
    """The score that decides in its table."""
    environment: Mapping[str, Any]
    """What the packed run's process ran on."""


@dataclass(frozen=True)
class ScoreAgain:
    """A score, packed and trained again."""

    split: str
    metric: str
    packed: float
    again: float | None
    """None where the trial has no such score any more."""
    spread: float | None
    """Standard deviation over the packed replicates; None where there is one replicate."""
    is_primary: bool

    @property
    def is_equal(self) -> bool:
        """Whether they are the same number."""
        return self.again == self.packed

    @property
    def is_close(self) -> bool:
        """Whether they are the same, or no further apart than replicates are."""
        if self.again is None or self.spread is None:
            return self.is_equal
        return abs(self.again - self.packed) <= SPREADS * self.spread


@dataclass(frozen=True)
class Retrained:
    """How a trial came out when it was trained again."""

    trial_id: str
    variant: str
    replicate: int
    table: str
    row: str
    scores: tuple[ScoreAgain, ...]
    other_environment: tuple[str, ...]
    """What differs between the machine of the packed run and this one."""

    @property
    def is_equal(self) -> bool:
        """Whether every score is the same number."""
        return all(score.is_equal for score in self.scores)

    @property
    def is_reproduced(self) -> bool:
        """Whether every score is equal, or the primary one no further off than replicates are."""
        return self.is_equal or all(score.is_close for score in self.scores if score.is_primary)

    def verdict(self) -> str:
        """One sentence."""
        if self.is_equal:
            return f"all {len(self.scores)} scores are equal to the last bit"
        primary = next(score for score in self.scores if score.is_primary)
        if primary.again is None:
            return f"there is no {primary.split}/{primary.metric} any more"
        off = f"{primary.split}/{primary.metric} is off by {primary.again - primary.packed:+.3g}"
        if primary.spread is None:
            return f"{off}, and one replicate has no spread to judge that by"
        within = "within" if primary.is_close else "more than"
        return f"{off}, {within} {SPREADS:g} standard deviations of the packed replicates ({primary.spread:.3g})"


def choose_cell(folder: Path, which: str, *, seed: int = 0) -> Cell:
    """The trial to train again.

    Args:
        folder: The archive, unpacked and checked.
        which: `random`, an id, the beginning of one, or `variant#replicate`.
        seed: Of the draw among all complete cells, row by replicate.

    Raises:
        HarnessError: No trial, or several, or none that is complete.
    """
    plan, frame = read_plan(folder), read_frame(folder)
    found = collect_evidence(frame, [trial.id for trial in plan.trials])
    done = {i: e for i, e in found.items() if e.state is TrialState.COMPLETE}
    cells = [(t, row, i) for t in plan.tables for row in t.rows for i in row.trial_ids if i in done]
    if which == RANDOM:
        table, row, trial_id = random.Random(seed).choice(cells)
    else:
        wanted = find_trial(which, {trial.id: label_of(trial) for trial in plan.trials})
        if wanted not in done:
            raise HarnessError(f"a trial must be complete to be compared with, {wanted} is not in the archive")
        table, row, trial_id = next(cell for cell in cells if cell[2] == wanted)
    return Cell(
        *(table.name, row.label, _as_packed(plan, trial_id), done[trial_id]),
        spreads=_spreads([done[i] for i in row.trial_ids if i in done]),
        primary=(plan.deciding_split(table), plan.deciding_metric(table)),
        environment=PackedArtifacts(folder).environment(done[trial_id].run_id),
    )


def _as_packed(plan: Plan, trial_id: str) -> Trial:
    try:
        return plan.trial(trial_id)
    except KeyError:
        raise HarnessError(
            f"this harness must give trial {trial_id} its id, it does not: it identifies trials in another way; "
            "use the code in the archive"
        ) from None


def _spreads(found: Sequence[Evidence]) -> dict[Key, float]:
    keys = {key for evidence in found for key in evidence.scores}
    values = {key: [e.scores[key] for e in found if key in e.scores] for key in keys}
    return {key: statistics.stdev(each) for key, each in values.items() if len(each) > 1}


def with_data(trial: Trial, root: Path | None) -> Trial:
    """The trial with the folder of its dataset, whose samples are those that it was trained on.

    Args:
        trial: As it was packed.
        root: Folder of the dataset; None where it is generated.

    Raises:
        DataError: The folder is missing, or holds other samples or splits.
    """
    name, made = trial.data["name"], trial.data.get("synthetic")
    if made is not None:
        found = synthetic_fingerprint(name, SyntheticConfig(**made))
    elif root is None or not root.is_dir():
        raise DataError(f"the archive holds no data: --data-root must be the folder of {name}, got {root}")
    else:
        opened = open_dataset(name, root=root, synthetic=None, options=trial.data.get("options"))
        found = opened.fingerprint()
    if found != trial.data_fingerprint:
        where = "this harness generates" if made is not None else f"{root} has"
        raise DataError(
            f"the data must be what the trial was trained on, {name} with fingerprint {trial.data_fingerprint}; "
            f"{where} {found}: other samples or another division of them"
        )
    return trial if made is not None else replace(trial, data_root=str(root))


def retrain(
    cell: Cell, executor: Executor, *, storage: Path, data_root: Path | None, say: Callable[[str], None]
) -> Retrained:
    """Train a trial again and compare.

    Args:
        cell: Which.
        executor: Runs it.
        storage: A folder in which it has not been trained yet.
        data_root: Folder of the dataset; None where it is generated.
        say: Told what happens, line by line.

    Raises:
        DataError: The dataset is missing or another one.
        HarnessError: The storage has the trial already, or it failed.
    """
    trial = with_data(cell.trial, data_root)
    if (storage / "trials" / trial.id).exists():
        raise HarnessError(f"{storage} must be fresh, and trial {trial.id} is in it; remove it or give another --out")
    try:
        storage.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HarnessError(f"--out must be a folder that can be written to, got {storage}: {error.strerror}") from None
    folder = trial_folder(storage, trial)
    torch.set_num_threads(cell.environment.get("cpu_threads", torch.get_num_threads()))  # sums depend on it
    with Session.opened(storage, "retrain") as session, session.stop.listening():
        executor.run(FixedSource([trial]), session, _Teller(say))
    result = read_result(folder)
    if result is None or result.state is not TrialState.COMPLETE:
        why = "was stopped" if result is None else f"failed, {result.fault}"
        raise HarnessError(f"trial {trial.id} must end to be compared, it {why}; its files are in {folder}")
    environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    return compared(cell, result, environment)


class _Teller:
    """Tells what happens to the trial; an `Observer`."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def started(self, trial: Trial) -> None:
        self._say(f"training {label_of(trial)}, {trial.id}")

    def reported(self, trial: Trial, epoch: EpochScores) -> None:
        scores = "  ".join(f"{name} {value:.4f}" for name, value in epoch.scores.items() if name.startswith("val/m"))
        self._say(f"epoch {epoch.epoch} of {trial.train.get('epochs', '?')}  {scores}")

    def finished(self, trial: Trial, result: TrialResult, folder: Path) -> None:
        del trial, folder
        self._say(f"{result.state}")

    def stopped(self, trial: Trial) -> None:
        self._say(f"{trial.id} was stopped")

    def retried(self, trial: Trial, attempt: Mapping[str, Any]) -> None:
        self._say(f"{trial.id} is tried again: {attempt['cause']}")

    def ended_elsewhere(self, trial: Trial, result: TrialResult) -> None:
        self.finished(trial, result, Path())

    def notice(self, text: str) -> None:
        self._say(text)

    def refresh(self) -> None:
        """Nothing is drawn."""


def compared(cell: Cell, result: TrialResult, environment: Mapping[str, Any]) -> Retrained:
    """The packed scores beside those of a result, and what its environment has that the packed one had not."""
    again = {(score.split, score.metric): score.value for score in result.scores}
    packed = {key: value for key, value in cell.evidence.scores.items() if key[0] != costs.SPLIT}
    primary = cell.primary if cell.primary in packed else next(iter(packed))
    return Retrained(
        trial_id=cell.trial.id,
        variant=cell.trial.variant,
        replicate=cell.trial.replicate,
        table=cell.table,
        row=cell.row,
        scores=tuple(
            ScoreAgain(*key, value, again.get(key), cell.spreads.get(key), key == primary)
            for key, value in packed.items()
        ),
        other_environment=tuple(_differences(cell.environment, environment)),
    )


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What could explain that numbers are not the same to the last bit."""
    old, new = ({k.lower(): v for k, v in e.get("packages", {}).items()} for e in (before, now))
    pairs = [(name, before.get(name), now.get(name)) for name in MACHINE]
    pairs += [(name, old.get(name), new.get(name)) for name in PACKAGES]
    return (f"{name} {then}, here {here}" for name, then, here in pairs if then != here)
