"""Unequal treatment: what the trials of a row were given that those of other rows were not, as footnotes say it.

What a table varies is its subject and no unfairness: a path in which two rows of the same model differ, in an ablation
or in a comparison of one model with itself. Values that a search sets are said by the row's note on its tuning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from harness.canonical import canonical_json, flatten
from harness.records import Plan, Row, Table, Trial
from reports.captions import join_words
from reports.published import axis_value

WORDS: Mapping[str, str] = {
    "data.name": "the dataset {}",
    "data.fingerprint": "samples of fingerprint {}",
    "data.options": "data options {}",
    "data.image_size": "input size {}",
    "train.epochs": "{} epochs",
    "train.global_batch": "global batch {}",
    "train.optimizer": "optimiser {}",
    "train.lr": "learning rate {}",
    "train.schedule": "schedule {}",
    "train.power": "power {} of the schedule",
    "train.end_lr": "last learning rate {}",
    "train.warmup_steps": "{} warm-up steps",
    "train.weight_decay": "weight decay {}",
    "train.clip_norm": "gradient norms up to {}",
    "train.precision": "precision {}",
    "train.black_boxes": "black boxes {}",
    "train.crops": "crops {}",
    "train.loss": "a loss of its own",
    "pretrained": "initial weights {}",
    "tuning": "a search of {} trials",
    "evaluate.protocol": "protocol {}",
}
"""Path, or start of paths, that rows are compared in -> how a value is said, in the order of footnotes; behind the
start of paths stands the rest, for example `crops flip 0.5`. Anything else of `SECTIONS` is said by its path."""

WHOLE = ("train.loss",)
"""Sections whose values are part of a method: that they differ is said, not how."""

SECTIONS = ("data", "train", "evaluate")
"""Parts of a trial's configuration that every row of a fair table shares."""

PRETRAINED = ("pretrained", "glove")
"""Keys of a model's configuration that name initial weights."""
CONVERTED, SUFFIXES = "weights", (".pt", ".pth", ".safetensors")
"""A key that does where it names such a file."""

MAX_OTHERS = 3
"""Values of other rows that a footnote lists."""

Values = Mapping[str, Any]


class _Given(NamedTuple):
    """What the trials of a row were given."""

    variant: str
    model: str
    """The model without its initial weights, equal for equal ones."""
    name: str
    """Of the model."""
    values: Values
    """Path -> value."""


def unfairness(plan: Plan, table: Table) -> dict[str, str]:
    """Variant -> what its row was given and most others were not; rows that were treated like most are left out.

    Where two values are equally common, the reference's is the usual one.
    """
    trials = {trial.id: trial for trial in plan.trials}
    first = {row.variant: trials[t] for row in table.rows for t in row.trial_ids[:1] if t in trials}
    ordered = sorted(table.rows, key=lambda row: not row.is_reference)
    rows = [_given(plan, row, first[row.variant]) for row in ordered if row.variant in first]
    tuned = {path for search in plan.searches for path in search.space}
    subjects = _subjects(rows) if table.kind == "ablation" or len({row.name for row in rows}) == 1 else set()
    found: dict[str, list[tuple[int, str]]] = {}
    for path in dict.fromkeys(path for row in rows for path in row.values):
        if path in subjects or f"{path}.".startswith(tuple(f"{t}." for t in tuned)):
            continue
        for variant, text in _deviations(path, rows):
            found.setdefault(variant, []).append((_place(path), text))
    return {variant: f"Trained with {'; '.join(t for _, t in sorted(said))}." for variant, said in found.items()}


def unmet(conditions: Mapping[str, Any], trials: Sequence[Trial]) -> str:
    """How published figures were obtained where none of our trials was; empty where one was, or nothing is known.

    Args:
        conditions: Axis path -> value that the figures were obtained with.
        trials: Ours that they stand beside.
    """
    said = []
    for path, value in conditions.items():
        ours = list(dict.fromkeys(_words(axis_value(trial, path)) for trial in trials))
        if ours and _words(value) not in ours:
            said.append(f"{_said(path, _words(value))} ({_listed('ours', ours)})")
    return f"Obtained with {'; '.join(said)}." if said else ""


def _given(plan: Plan, row: Row, trial: Trial) -> _Given:
    weights = dict(_weights(trial.model))
    rest = {path: value for path, value in flatten(trial.model).items() if path not in weights}
    values = {path: value for name in SECTIONS for path, value in flatten(getattr(trial, name), f"{name}.").items()}
    for whole in WHOLE:
        inside = {path: values.pop(path) for path in list(values) if path.startswith(f"{whole}.")}
        values[whole] = canonical_json(inside)
    named = [PurePath(str(value)).name for value in weights.values() if value is not None]
    values |= {"data.fingerprint": trial.data_fingerprint, "pretrained": join_words(sorted(set(named))) or None}
    search = next((s for s in plan.searches if row.tuning and s.note() == row.tuning), None)
    values["tuning"] = search.outcome.spent.trials if search else 0
    return _Given(row.variant, canonical_json(rest), str(trial.model.get("name")), values)


def _weights(model: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for path, value in flatten(model).items():
        key = path.rpartition(".")[2]
        if key in PRETRAINED or (key == CONVERTED and (value is None or str(value).endswith(SUFFIXES))):
            yield path, value


def _subjects(rows: Sequence[_Given]) -> set[str]:
    """The paths in which rows of the same model differ."""
    groups: dict[str, list[Values]] = {}
    for row in rows:
        groups.setdefault(row.model, []).append(row.values)
    return {
        path
        for group in groups.values()
        for path in dict.fromkeys(path for values in group for path in values)
        if len({_words(values.get(path)) for values in group}) > 1
    }


def _deviations(path: str, rows: Sequence[_Given]) -> Iterator[tuple[str, str]]:
    """Variant -> its value and those of other rows, for rows that have not the most common one."""
    texts = [_words(row.values.get(path)) for row in rows]
    usual = Counter(texts).most_common(1)[0][0]
    for row, text in zip(rows, texts, strict=True):
        if text != usual:
            others = list(dict.fromkeys(t for t in (usual, *texts) if t != text))
            yield row.variant, _said(path, text) + ("" if path in WHOLE else f" ({_listed('others', others)})")


def _listed(who: str, values: Sequence[str]) -> str:
    return f"{who} {' or '.join(values)}" if len(values) <= MAX_OTHERS else f"{who} {len(values)} other values"


def _prefix(path: str) -> str:
    return next((known for known in WORDS if f"{path}.".startswith(f"{known}.")), path)


def _place(path: str) -> int:
    known = _prefix(path)
    return list(WORDS).index(known) if known in WORDS else len(WORDS)


def _said(path: str, text: str) -> str:
    known = _prefix(path)
    rest = path[len(known) + 1 :].replace("_", " ").replace(".", " ")
    return WORDS.get(known, f"{path} {{}}").format(f"{rest} {text}" if rest else text)


def _words(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else canonical_json(value)
