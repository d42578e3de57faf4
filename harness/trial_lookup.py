"""Which trial of a storage folder a user means: by id, by the beginning of one, or as `variant#replicate`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from harness.errors import HarnessError, nearest
from harness.records import Trial

MAX_NAMED = 5


def folder_of(storage: Path, trial_id: str) -> Path:
    """Where the trial of that id keeps its files, whether it is there or not."""
    return storage / "trials" / trial_id


def label_of(trial: Trial) -> str:
    """For example `MAFN #0`."""
    return f"{trial.variant} #{trial.replicate}"


def read_trial(folder: Path) -> Trial | None:
    """The trial that a folder belongs to; None where the folder does not say."""
    try:
        return Trial.from_json(json.loads((folder / "trial.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def known_trials(storage: Path, trials: Iterable[Trial] = ()) -> dict[str, str]:
    """Id -> label of `trials` and of every trial in the storage folder; a label is "" where nothing tells it."""
    planned = {trial.id: label_of(trial) for trial in trials}
    stored = (path.name for path in (storage / "trials").glob("*") if path.is_dir())
    found = {name: planned.get(name) or _stored_label(storage, name) for name in sorted(stored)}
    return {**planned, **found}


def _stored_label(storage: Path, trial_id: str) -> str:
    trial = read_trial(folder_of(storage, trial_id))
    return label_of(trial) if trial else ""


def find_trial(text: str, known: Mapping[str, str]) -> str:
    """The id that `text` stands for.

    Args:
        text: An id, the beginning of one, or `variant#replicate`, with or without spaces around the `#`.
        known: Id -> label of every trial that can be meant.

    Raises:
        HarnessError: It stands for no trial, or for several.
    """
    wanted = _plain(text)
    found = [i for i in known if i == text] or [
        i for i, label in known.items() if (text and i.startswith(text)) or (label and _plain(label) == wanted)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        more = ", ..." if len(found) > MAX_NAMED else ""
        named = ", ".join(f"{i} ({known[i]})" if known[i] else i for i in found[:MAX_NAMED])
        raise HarnessError(f"TRIAL must stand for one trial, {text!r} stands for {len(found)}: {named}{more}")
    if not known:
        raise HarnessError(f"TRIAL must be a trial of this storage, got {text!r}; nothing has run there, see --storage")
    raise HarnessError(
        f"TRIAL must be an id, the beginning of one, or variant#replicate, got {text!r}; {_near(text, known)}"
    )


def _near(text: str, known: Mapping[str, str]) -> str:
    if "#" in text and "" in known.values():
        return "some trials here do not say their variant: name their study with --study"
    names = list(known.values()) if "#" in text else list(known)
    hint = nearest(text, names)
    return hint if hint.startswith("did") or len(known) <= MAX_NAMED else f"{len(known)} are there, see harness status"


def _plain(label: str) -> str:
    variant, _, replicate = label.rpartition("#")
    return f"{variant.strip()}#{replicate.strip()}"
