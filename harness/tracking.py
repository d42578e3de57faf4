"""MLflow as the record of every study: one experiment per study, a parent run per variant, a child run per trial.

What happens is first written to disk (`harness.spool`) and delivered from there by a thread (`harness.courier`): trials
never wait for the tracking server, and nothing is lost while it is away. Only drivers write. A child run's metrics are
its final scores (`val/miou`, `test/oiou`, `cost/gmacs`) and, under `epoch/`, its learning curves; the parent's are the
means over the replicates finished so far.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.courier import Courier, say_on_stderr
from harness.delivery import Delivery, RefusedError
from harness.environment import VERSION, code_diff, code_state, versions
from harness.errors import TrackingError
from harness.faults import cause
from harness.records import Plan, Trial, TrialResult, TrialState
from harness.results import complete_trials, moved_from, shown, store_errors
from harness.run_views import view_tags
from harness.spool import Spool
from harness.sync import deliver_leftovers
from harness.trial_folder import EpochScores, read_result, trial_folder, write_json
from harness.tuning import SEARCH

PATIENCE_S = 60.0
"""Seconds without progress after which the end of a study no longer waits for the store."""
RUN = "run.json"
"""File of a trial's folder that names its run, so that whoever goes on with the trial goes on with the run."""


def default_uri(storage: Path) -> str:
    """The sqlite store of a storage folder."""
    return f"sqlite:///{storage / 'mlflow.db'}"


class MlflowTracker:
    """Records a study; a `Listener` of its trials.

    The run of a search's trial has the kind `search` and counts in no table.

    Args:
        uri: Tracking server or store.
        storage: Folder of the study's runs; holds the spool, and the artifacts of a local store.
        token: Of this process as a driver (`harness.claims`), if it is one.
        code: What is known of the frozen code: `code_sha`, and `files` (path -> SHA-256).
        say: Told in one line what a user should know: the store is away, or back, or refuses something.
    """

    def __init__(
        self,
        uri: str,
        storage: Path,
        *,
        token: str | None = None,
        code: Mapping[str, Any] | None = None,
        say: Callable[[str], None] = say_on_stderr,
    ) -> None:
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # one traceback per try while it is away
        self.uri, self._storage, self._token, self._say = uri, storage, token, say
        self._code = dict(code or {})
        self._delivery = Delivery(uri, storage)
        self._plan: Plan | None = None
        self._groups: dict[str, _Group] = {}
        self._spool: Spool | None = None
        self._courier: Courier | None = None
        self._code_tags: dict[str, str] = {}
        self._code_files: dict[str, str] = {}
        self._versions: dict[str, str] = {}
        self._runs: dict[str, str] = {}
        self._logged: dict[str, int] = {}

    def open(self, plan: Plan, study_text: str) -> None:
        """Deliver what earlier drivers left, then create what is missing: the experiment, a parent run per variant.

        A study that goes on with another plan opens that one as well.

        Raises:
            TrackingError: The store cannot be reached, or keeps the study's files in a folder that this one was moved
                or copied from.
        """
        self._require_place(plan.study)
        self._plan, self._groups = plan, _groups(plan)
        with store_errors(self.uri):
            deliver_leftovers(self._storage, self._delivery, say=self._say)
            try:
                self._delivery.open_study(self._opening(plan, study_text))
            except RefusedError as error:
                raise TrackingError(str(error)) from None
        self._start(plan.study)

    def _require_place(self, study: str) -> None:
        old, new = moved_from(self.uri, self._storage, study), self._storage.absolute()
        if old is not None:
            raise TrackingError(
                f"a storage folder must be where MLflow has recorded its files, {old}; it is {new} now: move it back "
                f"or link it (ln -s {new} {old})"
            )

    def _opening(self, plan: Plan, study_text: str) -> dict[str, Any]:
        variants = [
            {"name": name, "id": group.id, "rows": group.rows, "trial": group.first.to_json()}
            for name, group in self._groups.items()
        ]
        return {**_head("opened", plan), "text": study_text, "variants": variants}

    def _start(self, study: str) -> None:
        """Begin to deliver; the code that runs is described once."""
        if self._courier is not None:
            return
        self._spool = Spool.create(self._storage, study=study, uri=shown(self.uri), token=self._token)
        code = code_state()
        tags = {"harness.git_commit": code.commit, "harness.dirty": str(code.dirty).lower()}
        if self._code:
            tags["harness.code_sha"] = str(self._code["code_sha"])
            write_json(self._spool.folder / "code", self._code)
            self._code_files["code.json"] = str(self._spool.folder / "code")
        if code.dirty:
            (self._spool.folder / "diff").write_text(code_diff(), encoding="utf-8")
            self._code_files["code.diff"] = str(self._spool.folder / "diff")
        self._code_tags = tags
        self._versions = {f"{VERSION}{name}": version for name, version in versions().items()}
        self._courier = Courier(self._spool, self._delivery, say=self._say)

    def complete(self, trial_ids: Iterable[str]) -> frozenset[str]:
        """Those of `trial_ids` that are COMPLETE in this store, in whatever study."""
        return complete_trials(self.uri, trial_ids)

    def _add(self, record: Mapping[str, Any]) -> None:
        assert self._spool is not None, "the tracker must be open"
        assert self._courier is not None
        self._spool.add(record)
        self._courier.wake()

    def _about(self, event: str, trial: Trial, at: float) -> dict[str, Any]:
        assert self._plan is not None
        folder = trial_folder(self._storage, trial)
        return {
            **{"event": event, "time": at, "study": self._plan.study, "run": self._runs[trial.id]},
            **{"trial_id": trial.id, "folder": str(folder)},
        }

    def started(self, trial: Trial) -> None:
        """Record that the trial is under way, in a run of its own or the one that an interrupted driver left open."""
        assert self._plan is not None
        folder = trial_folder(self._storage, trial)
        run = _read_run(folder)
        resumed = {}
        if run is None or run["study"] != self._plan.study:
            run = {"key": uuid.uuid4().hex, "study": self._plan.study, "code": self._code_tags, "time": time.time()}
            write_json(folder / RUN, run)
        elif run["code"] != self._code_tags and read_result(folder) is None:
            resumed = {name.replace("harness.", "harness.resumed."): tag for name, tag in self._code_tags.items()}
        self._runs[trial.id], self._logged[trial.id] = run["key"], 0
        tags = {
            "harness.kind": trial.kind,
            "harness.study": self._plan.study,
            "harness.trial_id": trial.id,
            "harness.variant": trial.variant,
            "harness.variant_id": trial.variant_id,
            "harness.replicate": str(trial.replicate),
            "harness.spec_sha": self._plan.spec_sha,
            "harness.data_fingerprint": trial.data_fingerprint,
            **run["code"],
            **self._versions,
        }
        record = {"kind": trial.kind, "variant_id": self._parent_of(trial), "tags": tags, "resumed": resumed}
        files = self._code_files if run["code"] == self._code_tags else {}
        about = self._about("started", trial, run["time"])
        self._add({**about, **record, "trial": trial.to_json(), "code_files": files})

    def _parent_of(self, trial: Trial) -> str:
        """The id of the variant under which a trial's run stands; for one of a search, that of its variant's plan."""
        group = self._groups.get(trial.variant)
        return trial.variant_id if group is None else group.id

    def reported(self, trial: Trial, epoch: EpochScores) -> None:
        """Record an epoch's scores, unless that epoch has been told already."""
        if epoch.epoch <= self._logged[trial.id]:
            return
        self._logged[trial.id] = epoch.epoch
        about = self._about("reported", trial, epoch.time)
        self._add({**about, "epoch": epoch.epoch, "scores": dict(epoch.scores)})

    def finished(self, trial: Trial, result: TrialResult, folder: Path) -> None:
        """Record how the trial ended; its files are read from `folder` when the record is delivered."""
        assert self._plan is not None
        siblings = self._groups[trial.variant].trial_ids if trial.kind != SEARCH else []
        record = {"trial": trial.to_json(), "result": result.to_json(), "cause": cause(result.error or "")}
        record["split"] = self._plan.primary_split
        about = {**self._about("finished", trial, time.time()), "folder": str(folder)}
        self._add({**about, **record, "variant_id": self._parent_of(trial), "siblings": siblings})
        if result.state is not TrialState.COMPLETE:
            (trial_folder(self._storage, trial) / RUN).unlink(missing_ok=True)  # the next attempt has its own run

    def stopped(self, trial: Trial) -> None:
        """Record that the trial waits, with what it has reported; its run stays open."""
        self._add(self._about("stopped", trial, time.time()))

    def flush(self, patience_s: float = PATIENCE_S) -> int:
        """Wait until the store has everything, or has taken nothing for so long; how many records are left."""
        return 0 if self._courier is None else self._courier.flush(patience_s)

    def close(self, patience_s: float = PATIENCE_S) -> None:
        """Mark every variant's run by how its trials stand, and say what the store does not have yet."""
        if self._plan is None or self._spool is None:
            return
        variants = {group.id: group.trial_ids for group in self._groups.values()}
        self._add({**_head("closed", self._plan), "variants": variants})
        self._end(patience_s)

    def _end(self, patience_s: float) -> int:
        """Deliver what is left, end the thread, and say what remains; how many records do."""
        if self._courier is None or self._spool is None:
            return 0
        left = self._courier.flush(patience_s)
        self._courier.stop()
        refused = len(self._spool.refused())
        if left:
            where = shown(self.uri)
            self._say(
                f"warning: {left} records are not in the tracking store {where} yet; `harness sync` delivers them"
            )
        if refused:
            self._say(f"warning: the tracking store refused {refused} records: `harness sync` says why")
        self._spool.remove_if_empty()
        self._courier, self._spool = None, None
        return left + refused

    def log_report(self, plan: Plan, files: Iterable[Path], folder: Path) -> None:
        """Record a report's files, which lie under `folder`, in the run `report` of the study's experiment.

        Raises:
            TrackingError: The store has not taken them; they wait in the spool. Or as for `open`.
        """
        self._require_place(plan.study)
        if self._courier is None:
            self._spool = Spool.create(self._storage, study=plan.study, uri=shown(self.uri))
            self._courier = Courier(self._spool, self._delivery, say=lambda _: None)
        where = {"folder": str(folder.absolute()), "files": [str(path.absolute()) for path in files]}
        self._add({**_head("report", plan), **where, "spec_sha": plan.spec_sha})
        if left := self._end(20.0):
            raise TrackingError(f"{left} records wait in {self._storage / 'spool'}; `harness sync` delivers them")


def _head(event: str, plan: Plan) -> dict[str, Any]:
    tags = {"harness.spec_sha": plan.spec_sha, "mlflow.note.content": plan.question, **view_tags(plan)}
    return {"event": event, "time": time.time(), "study": plan.study, "experiment_tags": tags}


def _read_run(folder: Path) -> dict[str, Any] | None:
    """What `run.json` says; None where there is none, or a crash of the machine damaged it."""
    try:
        run = json.loads((folder / RUN).read_text(encoding="utf-8"))
        return run if {"key", "study", "code", "time"} <= run.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


@dataclass(frozen=True)
class _Group:
    """A variant's part of the plan."""

    id: str
    first: Trial
    trial_ids: list[str]
    rows: list[str]
    """The rows it fills, as `table: label`."""


def _groups(plan: Plan) -> dict[str, _Group]:
    found: dict[str, _Group] = {}
    for trial in plan.trials:
        if trial.variant not in found:
            found[trial.variant] = _Group(trial.variant_id, trial, [], [])
        if trial.kind != SEARCH:
            found[trial.variant].trial_ids.append(trial.id)
    for table in plan.tables:
        for row in table.rows:
            found[row.variant].rows.append(f"{table.name}: {row.label}")
    return found
