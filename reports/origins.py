"""Where the run that counts for a trial comes from; whoever calls the report provides it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Origin:
    """What is recorded of a run beside its scores, and what has changed since."""

    run_id: str = ""
    commit: str = ""
    dirty: bool | None = None
    """Whether the code differed from its commit; the difference is the run's `code.diff`."""
    code_sha: str = ""
    resumed_sha: str = ""
    """Code that went on with it after an interruption, where that was another."""
    data_fingerprint: str = ""
    checkpoint: str = ""
    """Weights: inside the storage folder relative to it."""
    log: str = ""
    """Relative to the storage folder."""
    stale: tuple[str, ...] = ()
    """What of its model or data has changed since it ran."""
    also: tuple[str, ...] = ()
    """What else has: training code, which all rows share; and what is not known."""


def origin_facts(origin: Origin) -> dict[str, str]:
    """Name -> what is recorded, in words; without what is not."""
    dirty = {True: ", changed since (code.diff)", False: "", None: ", not known whether changed"}[origin.dirty]
    resumed = f", resumed with {origin.resumed_sha}" if origin.resumed_sha else ""
    found = {
        "commit": f"{origin.commit}{dirty}" if origin.commit else "",
        "code": f"{origin.code_sha}{resumed}",
        "data": origin.data_fingerprint,
        "weights": origin.checkpoint,
        "log": origin.log,
    }
    return {name: text for name, text in found.items() if text}
