"""`harness doctor`, `gc` and `sync`: whether everything works here, what can be thrown away, what was not delivered."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.errors import HarnessError, TrackingError
from harness.verbs.options import (
    AsJson,
    Overrides,
    Storage,
    TrackingUri,
    Yes,
    confirmed,
    existing_storage,
    out,
    planned,
    print_json,
    recorded_store,
    say,
    storage_path,
    store_uri,
    warn,
)

if TYPE_CHECKING:
    from harness.doctor import Finding
    from harness.garbage import Garbage

app = typer.Typer()

STYLES = {"ok": "green", "warn": "yellow", "FAIL": "bold red"}


@app.command()
def doctor(
    spec: Annotated[Path | None, typer.Argument(help="Study whose needs are looked at, too.")] = None,
    overrides: Overrides = None,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
    address: Annotated[str | None, typer.Option(envvar="RAY_ADDRESS", help="Ray cluster to use.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check Ray, GPUs, MLflow, storage, TeX and versions: each ok, or what to do. Exits with 1 if one fails."""
    folder = storage_path(storage)
    is_new = not folder.exists()
    found: list[Finding] = []
    try:
        for finding in _findings(spec, overrides, folder, store_uri(tracking_uri, folder), address):
            found.append(finding)
            if not as_json:
                _show(finding)
    finally:
        if is_new:
            with contextlib.suppress(OSError):  # there from before, or in use by now
                folder.rmdir()
    failed = [f for f in found if f.level == "FAIL"]
    if as_json:
        print_json({"ok": not failed, "findings": [asdict(f) for f in found]})
    if failed:
        raise typer.Exit(1)


def _findings(
    spec: Path | None, overrides: list[str] | None, folder: Path, uri: str, address: str | None
) -> Iterator[Finding]:
    from harness import doctor as checks

    yield from checks.check_versions()
    yield from checks.check_storage(folder)
    yield from checks.check_tex()
    yield from checks.check_gpus()
    yield from checks.check_tracking(uri, folder)
    ray, cluster = checks.check_ray(folder, address)
    yield from ray
    if spec is None:
        return
    from harness.spec import load_study

    try:
        found, _ = planned(load_study(spec, overrides or ()), provisional=False, storage=folder)
    except HarnessError as error:
        yield checks.Finding("study", checks.Level.FAIL, str(error), "harness plan shows what a study would run")
        return
    yield from checks.check_study(found, folder, cluster)


def _show(finding: Finding) -> None:
    from rich.padding import Padding
    from rich.text import Text

    level = Text(f"{finding.level.value:5}", style=STYLES[finding.level.value])
    out.print(level + Text(f"{finding.subject:10} {finding.text}"), soft_wrap=True)
    if finding.remedy:
        out.print(Padding(Text(finding.remedy, style="dim"), (0, 0, 0, 16)), soft_wrap=True)


@app.command()
def gc(
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
    best: Annotated[bool, typer.Option("--best", help="Also the best weights of complete trials.")] = False,
    spool: Annotated[
        bool, typer.Option("--spool", help="Also records of dead drivers that MLflow does not have: they are lost.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """List what nobody needs any more, ask, and delete it; results, samples and logs always stay.

    With --json nothing is deleted unless --yes is given, too.
    """
    from harness.garbage import Limits, find_garbage, remove

    folder = existing_storage(storage)
    limits = Limits(best, spool, _recorded(folder, tracking_uri))
    found = find_garbage(folder, limits)
    if not as_json:
        _list(found, folder)
    question = f"delete {len(found)} files and folders, {_size(sum(g.size for g in found))}?"
    wants = bool(found) and not dry_run and (yes or (not as_json and confirmed(question, yes=yes)))
    still = {g.path for g in find_garbage(folder, limits)} if wants else set()  # a driver may have started meanwhile
    removed = [g for g in found if g.path in still]
    for garbage in removed:
        remove(garbage)
    if as_json:
        listed = [{**asdict(g), "path": str(g.path), "removed": g in removed} for g in found]
        print_json({"storage": str(folder), "bytes": sum(g.size for g in found), "garbage": listed})
    elif removed:
        say(f"deleted {len(removed)}, {_size(sum(g.size for g in removed))}")


def _recorded(folder: Path, uri: str | None) -> frozenset[str] | None:
    """Ids of all trials in the tracking store; None where it cannot be told which store belongs to the folder."""
    place = recorded_store(uri, folder)
    if place is None and uri:
        warn(f"note: there is no store at {uri}; folders of trials that no study has are not looked for")
    if place is None:
        return None
    from harness.results import connect, find_runs, store_errors

    try:
        client = connect(place)
        with store_errors(place):
            ids = frozenset(run.data.tags.get("harness.trial_id", "") for run in find_runs(client, ""))
    except TrackingError as error:
        warn(f"note: {error}; folders of trials that no study has are not looked for")
        return None
    here = {path.name for path in (folder / "trials").glob("*")}
    if here and not here & ids:
        warn(f"note: {place} knows no trial of {folder}, so it is not asked which of them belong to a study")
        return None
    return ids


def _list(found: list[Garbage], storage: Path) -> None:
    from rich.table import Table
    from rich.text import Text

    if not found:
        say("nothing to delete")
        return
    say(f"in {storage}")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("size", justify="right", no_wrap=True)
    for name in ("what", "why"):
        table.add_column(name, overflow="fold")
    for garbage in found:
        table.add_row(_size(garbage.size), Text(str(garbage.path.relative_to(storage))), Text(garbage.reason))
    out.print(table)


def _size(num_bytes: int) -> str:
    from rich.filesize import decimal

    return decimal(num_bytes)


@app.command()
def sync(
    study: Annotated[
        str | None, typer.Argument(help="Name or file of a study; default: all.", show_default=False)
    ] = None,
    storage: Storage = None,
    tracking_uri: Annotated[
        str | None, typer.Option(envvar="MLFLOW_TRACKING_URI", help="Deliver what is for this store only.")
    ] = None,
    refused: Annotated[bool, typer.Option("--refused", help="Also try again what the store has refused.")] = False,
    as_json: AsJson = False,
) -> None:
    """Deliver to MLflow what drivers that are gone left behind while it was away.

    Exits with 1 if records are left that no living driver delivers.
    """
    from harness.spec import load_study
    from harness.sync import lines_of
    from harness.sync import sync as deliver

    name = load_study(study).name if study is not None and Path(study).is_file() else study
    found = deliver(existing_storage(storage), tracking_uri, study=name, refused=refused)
    if as_json:
        print_json([{**asdict(one), "folder": str(one.folder)} for one in found])
    else:
        for line in lines_of(found):
            say(line)
    if any(one.waiting or one.refused for one in found if not one.is_alive):
        raise typer.Exit(1)
