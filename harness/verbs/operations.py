"""`harness status`, `logs`, `stop`, `retry` and `diff`: what one does while and after trials run."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.errors import HarnessError, TrackingError, nearest
from harness.records import Fault, Trial, TrialState
from harness.verbs.options import (
    AsJson,
    Overrides,
    Spec,
    Storage,
    TrackingUri,
    Yes,
    confirmed,
    existing_storage,
    no_store,
    out,
    planned,
    print_json,
    recorded_store,
    run_command,
    say,
    warn,
)

if TYPE_CHECKING:
    from harness.claims import Driver, Liveness
    from harness.records import Plan
    from harness.study_status import StatusReader

app = typer.Typer()

STORE_SECONDS = 5.0
"""How long the tracking store may take to say what it has."""
LIVE_SECONDS = 2.0
"""Between two looks at the storage folder."""

StudyOption = Annotated[
    Path | None, typer.Option("--study", metavar="SPEC", help="Study file; trials can then be named variant#replicate.")
]


@app.command()
def status(
    spec: Spec,
    overrides: Overrides = None,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
    live: Annotated[bool, typer.Option("--live", help="Go on showing it until every trial has ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show how a study stands: per table and trial, what it took, what failed and why, when it will be done."""
    from harness.status_view import render_status, status_json, status_lines
    from harness.study_status import StatusReader

    if live and as_json:
        raise HarnessError("--json prints one document and --live many screens, received both; leave one out")
    found, folder = _study(spec, overrides, storage)
    recorded = _recorded(found, folder, tracking_uri)
    reader = StatusReader(found, folder, recorded=recorded)
    if live:
        _show_live(reader)
    elif as_json:
        print_json(status_json(reader.read()))
    elif out.is_terminal:
        out.print(render_status(reader.read()))
    else:
        for line in status_lines(reader.read()):
            say(line)


def _study(spec: Path, overrides: list[str] | None, storage: Path | None) -> tuple[Plan, Path]:
    """The plan whose ids the storage folder knows, and that folder."""
    from harness.spec import load_study

    study = load_study(spec, overrides or ())
    folder = existing_storage(storage)
    return planned(study, provisional=False, storage=folder)[0], folder


def _recorded(found: Plan, folder: Path, uri: str | None) -> frozenset[str]:
    """Trials without a result here that are COMPLETE in the tracking store, if that says so within seconds."""
    from harness.trial_lookup import folder_of

    missing = [t.id for t in found.trials if not (folder_of(folder, t.id) / "result.json").exists()]
    place = recorded_store(uri, folder)
    if missing and place is None and uri:
        warn(f"note: there is no store at {uri} yet; trials recorded elsewhere are shown as waiting")
    if not missing or place is None:
        return frozenset()
    from harness.results import complete_trials

    answer: list[frozenset[str]] = []

    def ask() -> None:
        try:
            answer.append(complete_trials(place, missing))
        except TrackingError as error:
            warn(f"note: {error}; trials recorded only there are shown as waiting")
            answer.append(frozenset())

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(STORE_SECONDS)
    if not answer:
        warn(f"note: the tracking store did not answer within {STORE_SECONDS:.0f} s; trials recorded only there wait")
    return answer[0] if answer else frozenset()


def _show_live(reader: StatusReader) -> None:
    """Show the status until the study is done or Ctrl-C; off a terminal, a line whenever something has changed."""
    from rich.live import Live

    from harness.status_view import render_status, status_summary

    found, said = reader.read(), ""
    view = Live(render_status(found), console=out, auto_refresh=False) if out.is_terminal else None
    try:
        if view:
            view.start(refresh=True)
        while True:
            counts = status_summary(found)[0]
            if view:
                view.update(render_status(found), refresh=True)
            elif counts != said:
                say("; ".join(status_summary(found)))
            said = counts
            if found.is_done:
                return
            time.sleep(LIVE_SECONDS)
            found = reader.read()
    except KeyboardInterrupt:
        return
    finally:
        if view:
            view.stop()


@app.command()
def logs(
    trial: Annotated[str, typer.Argument(help="Id, beginning of one, or variant#replicate.", show_default=False)],
    study: StudyOption = None,
    storage: Storage = None,
    rank: Annotated[int, typer.Option(help="Worker whose log is printed.", min=0)] = 0,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on printing until the trial has ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print what a trial printed and, if it failed, the traceback."""
    from harness.claims import Liveness
    from harness.trial_folder import read_result
    from harness.trial_log import follow_log, log_path, ranks, read_log

    if follow and as_json:
        raise HarnessError("--json prints one document and --follow goes on, received both; leave one out")
    root = existing_storage(storage)
    known = _known(root, study)
    name, folder = _find(root, trial, known)
    liveness = Liveness(root)
    if follow:
        try:
            for piece in follow_log(folder, rank, is_running=lambda: _is_running(folder, liveness)):
                out.file.write(piece)
                out.file.flush()
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
    result = read_result(folder)
    error = (result.error or "") if result else ""
    state = result.state.value if result else "RUNNING" if _is_running(folder, liveness) else "WAITING"
    text = read_log(folder, rank)
    if as_json:
        print_json(
            {
                **{"id": name, "label": known[name], "state": state, "rank": rank, "ranks": ranks(folder)},
                **{"path": str(log_path(folder, rank)), "log": text, "error": error or None},
            }
        )
        return
    if not follow:
        out.file.write(text)
    if error:
        say(error.rstrip())
    if not text and not error:
        _say_why_empty(folder, rank, ranks(folder), state)


def _say_why_empty(folder: Path, rank: int, others: list[int], state: str) -> None:
    if others and rank not in others:
        raise HarnessError(f"--rank must be one of {', '.join(map(str, others))}, got {rank}")
    warn(f"no log of worker {rank}: the trial is {state}, its files are in {folder}")


def _known(root: Path, study: Path | None) -> dict[str, str]:
    from harness.spec import load_study
    from harness.trial_lookup import known_trials

    trials = planned(load_study(study), provisional=False, storage=root)[0].trials if study else ()
    return known_trials(root, trials)


def _find(root: Path, text: str, known: dict[str, str]) -> tuple[str, Path]:
    from harness.trial_lookup import find_trial, folder_of

    name = find_trial(text, known)
    return name, folder_of(root, name)


def _is_running(folder: Path, liveness: Liveness) -> bool:
    """Whether a driver that is alive has claimed the trial and the trial has not ended."""
    return liveness.is_held(folder) and not (folder / "result.json").exists()


@app.command()
def stop(
    spec: Spec,
    overrides: Overrides = None,
    storage: Storage = None,
    now: Annotated[bool, typer.Option("--now", help="End running trials at once, without saving their state.")] = False,
    wait: Annotated[float, typer.Option(metavar="SECONDS", help="How long to wait for the end.", min=0)] = 120.0,
    as_json: AsJson = False,
) -> None:
    """Ask whatever runs the study to stop: running trials save their state, and `harness run` goes on later.

    Exits with 0 when nothing runs the study any more, with 1 when something still does after the wait.
    """
    from harness.claims import DRIVERS, Liveness, read_drivers
    from harness.spec import load_study

    name = load_study(spec, overrides or ()).name
    root = existing_storage(storage)
    liveness = Liveness(root)
    asked = [d for d in read_drivers(root) if d.study == name and liveness.is_alive(d.token)]
    for driver in asked:
        (root / DRIVERS / f"{driver.token}.stop").write_text("now" if now else "", encoding="utf-8")
    left = _wait_for(asked, liveness, seconds=wait, quiet=as_json)
    if as_json:
        fields = [{"token": d.token, "host": d.host.partition(" ")[0], "pid": d.pid} for d in asked]
        print_json({"study": name, "storage": str(root), "asked": fields, "left": [d.token for d in left]})
    elif not asked:
        say(f"nobody runs {name} in {root}")
    elif not left:
        say(f"{name} has stopped; it goes on with: {run_command(spec, overrides, storage)}")
    if left:
        warn(f"{name} still runs after {wait:g} s and stops when it can; --now ends its trials without saving")
        raise typer.Exit(1)


def _wait_for(asked: list[Driver], liveness: Liveness, *, seconds: float, quiet: bool) -> list[Driver]:
    """Those of the drivers that are still there after the wait."""
    for driver in asked if not quiet else ():
        say(f"asked process {driver.pid} on {driver.host.partition(' ')[0]} to stop; its trials save their state")
    deadline = time.monotonic() + seconds
    left = asked
    while (left := [d for d in left if liveness.is_alive(d.token)]) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


@app.command()
def retry(
    spec: Spec,
    trials: Annotated[list[str] | None, typer.Argument(metavar="[TRIAL]...", help="Default: all that failed.")] = None,
    overrides: Overrides = None,
    storage: Storage = None,
    failed: Annotated[bool, typer.Option("--failed", help="Every failed trial.")] = False,
    fault: Annotated[
        str | None, typer.Option(help=f"Only those that failed in this way: {', '.join(Fault)}.", show_default=False)
    ] = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Also remove their states, so that they train from the first step.")
    ] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Forget failures, so that the next `harness run` tries those trials again from their last state."""
    found, root = _study(spec, overrides, storage)
    if not failed and not trials and fault is None:
        raise HarnessError("retry must know which trials, got none; say --failed for all that failed, or name trials")
    kinds = [kind.value for kind in Fault]
    if fault is not None and fault not in kinds:
        raise HarnessError(f"--fault must be a kind of failure, got {fault!r}; {nearest(fault, kinds)}")
    chosen = _failures(found, root, trials or [], fault)
    question = f"remove the states of {len(chosen)} trials? They train from the first step again"
    if from_scratch and chosen and not confirmed(question, yes=yes):
        raise typer.Exit(1)
    from harness.trial_folder import clear_failure, forget_progress
    from harness.trial_lookup import folder_of, label_of

    for trial, _ in chosen:
        clear_failure(folder_of(root, trial.id))
        if from_scratch:
            forget_progress(folder_of(root, trial.id))
    if as_json:
        rows = [{"id": t.id, "variant": t.variant, "replicate": t.replicate, "fault": str(f)} for t, f in chosen]
        print_json({"study": found.study, "cleared": rows, "from_scratch": from_scratch})
        return
    for trial, why in chosen:
        say(f"{trial.id}  {label_of(trial)}  {why}")
    if not chosen:
        say("no trial failed" + (f" with {fault!r}" if fault else ""))
        return
    again = run_command(spec, overrides, storage)
    say(f"{len(chosen)} to try again{' from nothing' * from_scratch}: {again}")
    if from_scratch and any(trial.checkpoints.mirror for trial, _ in chosen):
        warn("note: states in checkpoints.mirror are still there, and a trial without its own goes on from them")


def _failures(found: Plan, root: Path, named: list[str], fault: str | None) -> list[tuple[Trial, Fault]]:
    """The failed trials among those named, or all that failed, with the kind of their failure."""
    from harness.trial_folder import read_result
    from harness.trial_lookup import find_trial, folder_of, label_of

    known = {trial.id: label_of(trial) for trial in found.trials}
    wanted = [found.trial(find_trial(text, known)) for text in named] or list(found.trials)
    chosen: dict[str, tuple[Trial, Fault]] = {}
    for trial in wanted:
        result = read_result(folder_of(root, trial.id))
        if result is None or result.state is not TrialState.FAILED:
            if named:
                state = result.state.value if result else "without a result"
                raise HarnessError(f"retry takes trials that failed, {trial.id} ({label_of(trial)}) is {state}")
            continue
        if fault in (None, result.fault):
            chosen[trial.id] = (trial, result.fault or Fault.ERROR)
    return list(chosen.values())


@app.command()
def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="Id, beginning of one, or variant#replicate.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The trial to compare with.")],
    study: StudyOption = None,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Show what two trials differ in: configuration, data, resources, code, versions; nothing else."""
    from harness.spec import load_study
    from harness.trial_diff import diff_trials, environment_of, render_diff
    from harness.trial_lookup import find_trial, folder_of, known_trials, read_trial

    root = existing_storage(storage)
    listed = planned(load_study(study), provisional=False, storage=root)[0].trials if study else ()
    planned_trials = {t.id: t for t in listed}
    known = known_trials(root, planned_trials.values())
    ids = [find_trial(text, known) for text in (first, second)]
    found = [planned_trials.get(i) or read_trial(folder_of(root, i)) for i in ids]
    for i, trial in zip(ids, found, strict=True):
        if trial is None:
            raise HarnessError(f"{folder_of(root, i)} must hold trial.json, it does not; name its study with --study")
    commits = _commits(root, tracking_uri, ids)
    about = [{**environment_of(folder_of(root, i)), **commits.get(i, {})} for i in ids]
    one, other = (trial for trial in found if trial is not None)
    made = diff_trials(one, other, about=(about[0], about[1]))
    if as_json:
        print_json({"first": ids[0], "second": ids[1], **made.to_json()})
    else:
        out.print(render_diff(made, (f"{ids[0]} {known[ids[0]]}", f"{ids[1]} {known[ids[1]]}")))


def _commits(root: Path, uri: str | None, ids: list[str]) -> dict[str, dict[str, Any]]:
    """Trial -> the commit that its last run was made with, where the tracking store knows."""
    place = recorded_store(uri, root)
    if place is None and uri:
        raise no_store(uri)
    if place is None:
        return {}
    from harness.results import results_frame

    try:
        frame = results_frame(place, ids)
    except TrackingError as error:
        warn(f"note: {error}; commits are not compared")
        return {}
    last = frame.drop_duplicates("trial_id", keep="last").set_index("trial_id")
    columns = [name for name in ("commit", "code_sha") if name in last]
    return {str(i): {name: str(row[name]) for name in columns} for i, row in last.iterrows()}
