"""What the parts of the harness hand to each other: frozen, validated, JSON in and out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from harness.canonical import digest

if TYPE_CHECKING:
    from harness.tuning import Search

IDENTITY_VERSION = 1
"""Raised when the meaning of a trial's configuration changes, so that old trials are not taken for new ones."""

CONTROL_SUFFIX = "_shuffled"
"""`val_shuffled` is the split `val` in which every sample has the sentence of another one."""

RESERVED = ("tables", "numbers")
"""Files of a report, and so no names of tables."""

BREAKDOWN = "breakdown"
"""What the names of break-downs begin with."""


class TrialState(StrEnum):
    """Where a trial stands; MLflow calls COMPLETE FINISHED and PRUNED KILLED."""

    WAITING = "WAITING"
    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    FAILED = "FAILED"
    SKIPPED = "SKIPPED"


class Fault(StrEnum):
    """Why a trial failed; decides whether it is tried again."""

    ERROR = "error"
    """An exception of the study, the data or the model: never tried again by itself."""
    MEMORY = "out of memory"
    """Tried again with a smaller micro-batch and the same global batch."""
    DIVERGED = "diverged"
    """The loss stopped being a number or exploded: a finding, never tried again by itself."""
    TIMEOUT = "timed out"
    """Longer than `resources.timeout_min`: never tried again by itself."""
    INFRASTRUCTURE = "infrastructure"
    """A node, a worker or the network was lost: tried again from the last checkpoint, free of charge."""


@dataclass(frozen=True)
class Resources:
    """What one trial takes from the cluster."""

    workers: int = 1
    """Processes of the trial's process group, at least 1."""
    gpus_per_worker: float = 0.0
    """GPUs each worker holds; 0 trains on the CPU."""
    cpus_per_worker: float = 1.0
    """CPU cores each worker holds, above 0."""
    data_workers: int = 0
    """Processes that load data for each worker; 0 loads in the worker itself."""
    eval_batch: int = 8
    """Samples per evaluation batch, at least 1; scores do not depend on it."""
    cache_gib: float = 16.0
    """Disk that decoded samples of all trials may take on each node, in GiB; 0 decodes them at every access."""
    micro_batch: int | None = None
    """Most samples that a worker passes through the model at once, at least 1; gradients of the parts of a batch are
    added up. null passes a worker's share of the global batch at once."""
    accelerator: str | None = None
    """Type of GPU that every worker needs, as Ray names it, for example `A100`; null takes any."""
    timeout_min: float | None = None
    """Minutes after which a trial that still runs is ended as timed out, counted anew at each start; null waits."""
    reuse_workers: bool = True
    """Whether a trial of one worker may run in a process that an earlier trial has used; it starts in a fraction of
    the time. Nothing of the earlier trial is left in it."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        for name, least in (("workers", 1), ("gpus_per_worker", 0), ("data_workers", 0), ("eval_batch", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.cpus_per_worker <= 0:
            raise ValueError(f"cpus_per_worker must be above 0, got {self.cpus_per_worker}")
        if self.gpus_per_worker > 1 and self.gpus_per_worker != int(self.gpus_per_worker):
            raise ValueError(f"gpus_per_worker above 1 must be a whole number, got {self.gpus_per_worker}")
        if self.micro_batch is not None and self.micro_batch < 1:
            raise ValueError(f"micro_batch must be null or at least 1, got {self.micro_batch}")
        if self.timeout_min is not None and self.timeout_min <= 0:
            raise ValueError(f"timeout_min must be null or above 0, got {self.timeout_min}")
        if self.accelerator is not None and self.gpus_per_worker == 0:
            raise ValueError(f"accelerator must be null without GPUs, got {self.accelerator!r}; set gpus_per_worker")
        if not 0 <= self.cache_gib < math.inf:
            raise ValueError(f"cache_gib must be a number of GiB, at least 0, got {self.cache_gib}; 0 is no cache")


@dataclass(frozen=True)
class Checkpointing:
    """When a trial saves the state that it can go on from, and where."""

    every_steps: int | None = None
    """Steps between two states inside an epoch, at least 1; null saves at the ends of epochs only."""
    keep: int = 2
    """States kept, at least 1; one that does not load falls back to the one before."""
    mirror: str | None = None
    """Folder or object store (`s3://bucket/path`, `gs://...`, `file:///...`) to which every state is copied and from
    which a trial goes on where its own folder has none; null for none."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if self.every_steps is not None and self.every_steps < 1:
            raise ValueError(f"every_steps must be null or at least 1, got {self.every_steps}")
        if self.keep < 1:
            raise ValueError(f"keep must be at least 1, got {self.keep}")


@dataclass(frozen=True)
class Limits:
    """How much of the cluster a study may take; a budget that is used up starts no more trials and ends none."""

    max_running: int | None = None
    """Trials at once, at least 1; null for as many as fit."""
    hours: float | None = None
    """Hours after which no trial is started, counted anew by every `harness run`; null for no limit."""
    gpu_hours: float | None = None
    """GPU-hours of the trials started by this `harness run` after which no other is started; null for no limit."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if self.max_running is not None and self.max_running < 1:
            raise ValueError(f"max_running must be null or at least 1, got {self.max_running}")
        for name in ("hours", "gpu_hours"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name} must be null or a number of at least 0, got {value}")


@dataclass(frozen=True)
class Trial:
    """One training and evaluation of one variant on one replicate."""

    task: str
    """`referring` or `semantic`."""
    data: Mapping[str, Any]
    """Dataset name and every option that changes what the model sees; no path."""
    data_fingerprint: str
    """Hash of the samples and their splits."""
    model: Mapping[str, Any]
    """Model name and its full resolved configuration."""
    train: Mapping[str, Any]
    """Full resolved recipe."""
    evaluate: Mapping[str, Any]
    """Full resolved evaluation protocol."""
    replicate: int
    """Repetition index from 0; moves every random stream."""
    base_seed: int = 0
    """Seed all streams derive from."""
    variant: str = ""
    """Name of the variant in the plan that made this trial; not part of the identity."""
    data_root: str = ""
    """Folder of the dataset; not part of the identity."""
    resources: Resources = field(default_factory=Resources)
    """Not part of the identity."""
    checkpoints: Checkpointing = field(default_factory=Checkpointing)
    """Not part of the identity."""
    kind: str = "trial"
    """`trial`, or `search`: one that tunes a variant and enters no comparison; not part of the identity."""

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that can change the result, and nothing else."""
        skip = {"variant", "data_root", "resources", "checkpoints", "kind"}
        found = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in skip}
        return {"version": IDENTITY_VERSION, **found}

    @cached_property
    def id(self) -> str:
        """Digest of `identity`: 12 hex digits."""
        return digest(self.identity)

    @cached_property
    def variant_id(self) -> str:
        """Digest of what the replicates of a variant share; a label may come to mean another configuration."""
        return digest({key: value for key, value in self.identity.items() if key != "replicate"})

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict that `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Trial:
        """The trial that `to_json` wrote."""
        checkpoints = Checkpointing(**value.get("checkpoints", {}))
        return cls(**{**value, "resources": Resources(**value["resources"]), "checkpoints": checkpoints})


@dataclass(frozen=True)
class Stress:
    """A disturbance of one modality at test time; its scores stand under a split of their own."""

    kind: str
    """`shift`: moved to the right, pixels; `drop`: replaced by its mean; `noise`: Gaussian noise added."""
    modality: str
    level: float = 0.0
    """Pixels of a `shift`; standard deviations of the modality for `noise`; 0 for `drop`."""

    @property
    def split(self) -> str:
        """`test-shift-sar-4`, `test-noise-sar-0.5` or `test-drop-sar`."""
        level = "" if self.kind == "drop" else f"-{self.level:g}"
        return f"test-{self.kind}-{self.modality}{level}"

    @classmethod
    def of_split(cls, split: str) -> Stress | None:
        """The stress that a split stands for; None for a plain one."""
        parts = split.split("-", 3)
        if len(parts) < 3:
            return None
        return cls(parts[1], parts[2], float(parts[3]) if len(parts) > 3 else 0.0)


@dataclass(frozen=True)
class Skipped:
    """A variant that the plan leaves out, and why."""

    variant: str
    table: str
    reason: str


@dataclass(frozen=True)
class Row:
    """One row of a table: a variant under the label this table gives it."""

    label: str
    variant: str
    changes: Mapping[str, Any]
    """Axis path -> value, for everything that differs from the reference."""
    trial_ids: tuple[str, ...]
    """One per replicate, in replicate order; none while the variant is still to be tuned."""
    is_reference: bool = False
    note: str = ""
    """What a reader of the row's numbers must know of its model, for example that it is a re-implementation."""
    tuning: str = ""
    """How the variant was tuned, where variants of the study were."""


@dataclass(frozen=True)
class Table:
    """A table that the study asks for, and the trials that fill it."""

    name: str
    kind: str
    """`comparison` or `ablation`."""
    group: str
    """The entry of `variants:` whose rows it shows."""
    metrics: tuple[str, ...]
    splits: tuple[str, ...]
    rows: tuple[Row, ...]
    published: str | None = None
    """File name, without suffix, of published numbers shown beside ours."""
    caption: str | None = None
    costs: bool = True
    """Whether it shows parameters and multiply-adds."""
    design: str = ""
    """How its rows were made: `explicit`, `grid`, `one_factor`, `leave_one_out` or `cumulative`."""


@dataclass(frozen=True)
class Plan:
    """A study expanded: what will be trained and which table shows it."""

    study: str
    question: str
    trials: tuple[Trial, ...]
    tables: tuple[Table, ...]
    skipped: tuple[Skipped, ...] = ()
    replicates: int = 1
    primary_metric: str = "miou"
    primary_split: str = "val"
    figures: tuple[str, ...] = ()
    """Figures that the report draws."""
    breakdowns: tuple[str, ...] = ()
    """What the report groups samples by: `category`, `size`, `length`, `class`."""
    siunitx: bool = False
    """Whether LaTeX tables align figures at their decimal marks by that package."""
    spec_sha: str = ""
    """SHA-256 of the validated study."""
    limits: Limits = field(default_factory=Limits)
    """How much of the cluster it may take."""
    data_note: str = ""
    """What a reader of any number must know of the data and protocol: the division into splits, whether it leaks."""
    searches: tuple[Search, ...] = ()
    """One per variant that is tuned."""

    def trial(self, trial_id: str) -> Trial:
        """The trial of that id; KeyError if the plan has none."""
        return self._by_id[trial_id]

    @cached_property
    def _by_id(self) -> dict[str, Trial]:
        return {trial.id: trial for trial in self.trials}

    def reference(self, table: Table | None = None) -> Row | None:
        """The row of the full method, under the label that a table gives it if that table has it."""
        tables = (*([table] if table else []), *self.tables)
        return next((row for of in tables for row in of.rows if row.is_reference), None)

    def deciding_metric(self, table: Table) -> str:
        """The primary metric where a table shows it, else the table's last."""
        return self.primary_metric if self.primary_metric in table.metrics else table.metrics[-1]

    def deciding_split(self, table: Table) -> str:
        """The primary split where a table shows it, else the table's first."""
        return self.primary_split if self.primary_split in table.splits else table.splits[0]

    @property
    def settled(self) -> Plan:
        """The plan without rows that are still to be tuned; they count as skipped."""
        tables = [replace(t, rows=tuple(r for r in t.rows if r.trial_ids)) for t in self.tables]
        waiting = [
            Skipped(row.label, table.name, "still to be tuned, its search has not ended")
            for table in self.tables
            for row in table.rows
            if not row.trial_ids
        ]
        return replace(self, tables=tuple(t for t in tables if t.rows), skipped=(*self.skipped, *waiting))


@dataclass(frozen=True)
class Score:
    """The value a metric took on a split."""

    split: str
    metric: str
    value: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"score {self.split}/{self.metric} must be finite, got {self.value}")


@dataclass(frozen=True)
class TrialResult:
    """How a trial ended. A COMPLETE result has scores and no error; a FAILED one has an error and a fault."""

    trial_id: str
    state: TrialState
    scores: tuple[Score, ...] = ()
    best_epoch: int | None = None
    """Epoch, from 1, whose weights were evaluated."""
    cost: Mapping[str, float] = field(default_factory=dict)
    """Parameters, multiply-adds, seconds, memory; names carry their unit."""
    checkpoint: str | None = None
    """Where the evaluated weights are."""
    error: str | None = None
    """Traceback, for a trial that failed."""
    fault: Fault | None = None
    """Why it failed, for a trial that did."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What happened on the way and does not show in the scores: `micro_batch`, `restarts`, ..."""

    def __post_init__(self) -> None:
        if self.state not in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED):
            raise ValueError(f"a result's state must be COMPLETE, PRUNED or FAILED, got {self.state}")
        if self.state is TrialState.COMPLETE and (not self.scores or self.error is not None):
            raise ValueError("a COMPLETE result must have scores and no error")
        if self.state is TrialState.FAILED and not (self.error and self.fault):
            raise ValueError("a FAILED result must say its error and its fault")

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict that `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TrialResult:
        """The result that `to_json` wrote."""
        scores = tuple(Score(**s) for s in value["scores"])
        fault = Fault(value["fault"]) if value.get("fault") else None
        return cls(**{**value, "state": TrialState(value["state"]), "scores": scores, "fault": fault})
