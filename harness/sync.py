"""Delivers the records that drivers left behind: `harness sync`, and whoever opens a study."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.courier import deliver_all
from harness.delivery import Delivery
from harness.errors import TrackingError
from harness.results import shown
from harness.spool import Owner, Spool, is_abandoned, reason_of, spools, wait_until_known


@dataclass(frozen=True)
class Synced:
    """What has become of one spool."""

    study: str
    folder: Path
    uri: str
    """The store that the records are for, without its password."""
    delivered: int
    waiting: int
    """Records that are still to be delivered."""
    refused: tuple[str, ...] = ()
    """Why the store does not take certain records."""
    note: str = ""
    """Why nothing was tried, or what stopped it."""
    is_alive: bool = False
    """Whether the driver lives and delivers by itself."""


def deliver_leftovers(storage: Path, delivery: Delivery, *, say: Callable[[str], None]) -> None:
    """Deliver what drivers that are gone left for this store, before anything new.

    Raises:
        Exception: Whatever the store raises while it is away.
    """
    for spool in spools(storage):
        owner = spool.owner
        if owner is None or owner.uri != shown(delivery.uri) or not is_abandoned(spool, storage):
            continue
        with spool.delivering() as is_mine:
            if not is_mine:
                continue
            delivered, reasons = deliver_all(spool, delivery)
            spool.remove_if_empty()
        if delivered:
            say(f"{delivered} records that an earlier driver of {owner.study} left are in the tracking store now")
        for reason in reasons:
            say(f"warning: the tracking store refused a record, kept in {spool.folder}/refused: {reason}")


def sync(storage: Path, uri: str | None = None, *, study: str | None = None, refused: bool = False) -> list[Synced]:
    """Deliver what drivers that are gone left behind.

    Args:
        storage: Folder of the studies' runs.
        uri: Deliver what is for this store only; needed where the store wants a password. None takes each record's own.
        study: Of this study only.
        refused: Try again what the store has refused.

    Returns:
        One entry per spool that had records or has them still.
    """
    found = []
    for spool in spools(storage):
        owner = spool.owner
        if owner is None or (study is not None and owner.study != study):
            continue
        if spool.waiting() or spool.refused():
            found.append(_sync_one(spool, owner, storage, uri=uri, refused=refused))
        elif is_abandoned(spool, storage):
            spool.remove_if_empty()
    return found


def _sync_one(spool: Spool, owner: Owner, storage: Path, *, uri: str | None, refused: bool) -> Synced:
    note, is_alive, delivered = "", False, 0
    if uri is not None and shown(uri) != owner.uri:
        note = f"they are for {owner.uri}"
    elif not (is_abandoned(spool, storage) or wait_until_known(spool, storage)):
        note, is_alive = "their driver lives and delivers them", True
    else:
        if refused:
            spool.ask_again()
        before = len(spool.waiting()) + len(spool.refused())
        note = _deliver(spool, uri or owner.uri.replace(":***@", "@"), storage)
        delivered = before - len(spool.waiting()) - len(spool.refused())
    waiting, reasons = len(spool.waiting()), tuple(reason_of(path) for path in spool.refused())
    if not is_alive:
        spool.remove_if_empty()
    return Synced(owner.study, spool.folder, owner.uri, delivered, waiting, reasons, note, is_alive)


def _deliver(spool: Spool, uri: str, storage: Path) -> str:
    """Deliver what waits; what stopped it."""
    with spool.delivering() as is_mine:
        if not is_mine:
            return "another process delivers them"
        try:
            deliver_all(spool, Delivery(uri, storage))
        except TrackingError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 -- whatever the store says is for the user to read
            return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return ""


def lines_of(found: list[Synced]) -> list[str]:
    """What to print."""
    lines = []
    for one in found:
        head = f"{one.study}: {one.delivered} records delivered to {one.uri}"
        if one.waiting:
            head += f", {one.waiting} wait in {one.folder}"
        lines.append(head + (f": {one.note}" if one.note else ""))
        lines += [f"  refused, kept in {one.folder / 'refused'}: {reason}" for reason in one.refused]
    return lines or ["nothing is waiting"]
