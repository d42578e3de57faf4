"""`harness plan` and `run`: a study before and while its trials run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.console import Console

from harness.errors import HarnessError
from harness.verbs.options import (
    AsJson,
    OptunaStorage,
    Overrides,
    Spec,
    Storage,
    TrackingUri,
    optuna_url,
    out,
    planned,
    print_json,
    recorded_store,
    say,
    screen,
    storage_folder,
    storage_path,
    store_uri,
    warn,
)
from harness.verbs.paper import make_report
from harness.verbs.recorded import PUBLISHED, Recorded

if TYPE_CHECKING:
    from harness.executor import Executor, Session
    from harness.frozen_code import FrozenCode
    from harness.records import Plan
    from harness.spec import StudySpec
    from harness.study import Outcome
    from harness.tracking import MlflowTracker

app = typer.Typer()

PATIENCE_S = 5.0
"""For the last records of a study that was interrupted; what is left waits on disk."""


class Work(NamedTuple):
    """What both phases of a run need."""

    text: str
    """The study as it was written."""
    folder: Path
    """Storage of the study's runs."""
    uri: str
    """Tracking store."""
    optuna: str
    """Database of the searches."""
    code: FrozenCode
    executor: Executor
    console: Console

    def tracker(self, session: Session, say: Callable[[str], None]) -> MlflowTracker:
        """The record of this driver."""
        from harness.tracking import MlflowTracker

        token = session.claims.driver.token
        return MlflowTracker(self.uri, self.folder, token=token, code=self.code.to_json(), say=say)


@app.command()
def plan(
    spec: Spec,
    overrides: Overrides = None,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
    optuna_storage: OptunaStorage = None,
    as_json: AsJson = False,
) -> None:
    """Print what a study would run: trials by table, what they share, what is done, what is skipped and why."""
    from harness.plan_view import plan_json, render_plan
    from harness.spec import load_study

    study = load_study(spec, overrides or ())
    _require_published(study, spec)
    found, warning = planned(study, provisional=True, storage=storage_path(storage), optuna=optuna_storage)
    done = complete_ids(found, tracking_uri, storage)
    if as_json:
        print_json(plan_json(found, done))
    else:
        out.print(render_plan(found, done))
    if warning:
        warn(f"note: {warning}")


def _require_published(study: StudySpec, spec: Path) -> None:
    """Before anything is trained: what the tables quote must be there."""
    from reports.published import load_published

    for i, table in enumerate(study.report.tables):
        if table.published is None:
            continue
        place = ("report", "tables", i, "published")
        try:
            published = load_published(table.published, folder=spec.parent / PUBLISHED)
            published.table(table.name, table.of)
        except HarnessError as error:
            raise study.error(place, str(error)) from None
        if published.task != study.task:
            raise study.error(place, f"must be numbers of the task {study.task!r}, these are of {published.task!r}")


def complete_ids(found: Plan, tracking_uri: str | None, storage: Path | None) -> frozenset[str]:
    """Ids that are COMPLETE in the store; none where it does not exist yet."""
    uri = recorded_store(tracking_uri, storage_path(storage))
    if uri is None and tracking_uri:
        warn(f"note: there is no store at {tracking_uri} yet; nothing counts as done")
    if uri is None:
        return frozenset()
    from harness.results import complete_trials

    return complete_trials(uri, (t.id for t in found.trials))


@app.command()
def run(
    spec: Spec,
    overrides: Overrides = None,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
    optuna_storage: OptunaStorage = None,
    address: Annotated[str | None, typer.Option(envvar="RAY_ADDRESS", help="Ray cluster to use.")] = None,
    wait_for_nodes: Annotated[
        float, typer.Option(metavar="MINUTES", help="Wait for nodes that can hold what no node can hold now.")
    ] = 0.0,
    executor: Annotated[str, typer.Option(help="`ray`, or `local`: one trial at a time in this process.")] = "ray",
    as_json: AsJson = False,
) -> None:
    """Run every trial of a study that is not complete yet, then rebuild its tables; variants are tuned before.

    Exits with 1 if a trial failed or is left, with 130 after Ctrl-C.
    """
    from harness.spec import load_study

    study = load_study(spec, overrides or ())
    _require_published(study, spec)
    optuna = optuna_url(optuna_storage, storage_path(storage))
    found, _ = planned(study, provisional=False, storage=storage_path(storage), optuna=optuna)
    if not found.trials and not found.searches:
        reasons = "; ".join(f"{skipped.variant}: {skipped.reason}" for skipped in found.skipped)
        raise HarnessError(f"a study must have a trial to run, {spec} has none; skipped: {reasons}")
    start = executor_named(executor, address, wait_for_nodes)
    folder = storage_folder(storage)
    if study.task == "semantic":
        from harness.semantic_task import require_trials_fit

        require_trials_fit([*found.trials, *(search.template for search in found.searches)], folder)
    from harness.frozen_code import freeze_code

    uri, console, code = store_uri(tracking_uri, folder), screen(as_json), freeze_code(folder)
    work = Work(spec.read_text(encoding="utf-8"), folder, uri, optuna, code, start(code.folder), console)
    with redirect_stdout(sys.stderr) if as_json else nullcontext():  # Ray prints what it has to say, too
        try:
            if not all(search.is_done for search in found.searches):
                _tune(found, work)
                found, _ = planned(study, provisional=False, storage=folder, optuna=optuna)
            ended, interrupted = _drive(found, work)
        finally:
            work.executor.close()
    made: dict[str, Any] = {}
    try:
        if not interrupted:
            made = make_report(Recorded(found, spec, folder, uri), None, console)
    finally:
        _list_unfinished(ended, len(found.trials))
    if as_json:
        print_json(_outcome(found, ended, folder, made))
    if interrupted:
        raise typer.Exit(130)
    if ended.failures or ended.left:
        raise typer.Exit(1)


def _tune(found: Plan, work: Work) -> None:
    """Run the searches of a study that have not ended; where they are stopped before, so is the command."""
    from harness.executor import Session
    from harness.search import SearchSource
    from harness.search_phase import run_searches, search_plan
    from harness.search_view import SearchProgress

    plan = search_plan(found)
    progress = SearchProgress(plan.searches, work.console)
    with Session.opened(work.folder, found.study, found.limits) as session, session.stop.listening():
        tracker = work.tracker(session, progress.notice)
        tracker.open(plan, work.text)
        say(f"{found.study}: {len(plan.searches)} variants are tuned first, storage {work.folder}", work.console)
        try:
            source = SearchSource(
                plan.searches, url=work.optuna, storage=work.folder, claims=session.claims, record=tracker
            )
            run_searches(source, executor=work.executor, session=session, record=tracker, progress=progress)
            is_done, interrupted = source.is_done(), session.stop.level > 0
        except KeyboardInterrupt:
            is_done, interrupted = False, True
        finally:
            tracker.close()
    if not is_done:
        warn("the searches are not over; the same command goes on with them")
        raise typer.Exit(130 if interrupted else 1)


def _drive(found: Plan, work: Work) -> tuple[Outcome, bool]:
    """Run what is missing; how it ended, and whether somebody asked to stop."""
    from harness.executor import Session
    from harness.progress import StudyProgress
    from harness.study import Outcome, run_study

    progress = StudyProgress(found, work.console)
    with Session.opened(work.folder, found.study, found.limits) as session, session.stop.listening():
        tracker = work.tracker(session, progress.notice)
        tracker.open(found, work.text)
        say(f"{found.study}: {len(found.trials)} trials, storage {work.folder}", work.console)
        try:
            ended = run_study(found, tracker=tracker, executor=work.executor, progress=progress, session=session)
        except KeyboardInterrupt:
            tracker.flush(PATIENCE_S)
            return Outcome((), found.trials), True
        return ended, session.stop.level > 0


def _outcome(found: Plan, ended: Outcome, storage: Path, report: dict[str, Any]) -> dict[str, Any]:
    failed = [
        {
            **{"id": f.trial.id, "variant": f.trial.variant, "replicate": f.trial.replicate},
            **{"fault": f.fault, "cause": f.cause, "folder": str(f.folder)},
        }
        for f in ended.failures
    ]
    counts = {"trials": len(found.trials), "failed": len(failed), "left": len(ended.left)}
    return {"study": found.study, "storage": str(storage), "counts": counts, "failed": failed, "report": report}


def _list_unfinished(ended: Outcome, num_trials: int) -> None:
    if ended.failures:
        warn(f"{len(ended.failures)} of {num_trials} trials failed:")
    for failure in ended.failures:
        trial = failure.trial
        warn(f"  {trial.id}  {trial.variant} #{trial.replicate}: {failure.fault}: {failure.cause}")
        warn(f"      traceback and log: harness logs {trial.id}; files: {failure.folder}")
    if ended.left:
        left = f"{len(ended.left)} of {num_trials} trials are left"
        warn(f"{left}; the same command goes on, with those that had started from their last saved state")


def executor_named(name: str, address: str | None, wait_for_nodes: float = 0.0) -> Callable[[Path], Executor]:
    """What makes the executor, given the folder of the frozen code.

    Raises:
        HarnessError: There is none of that name.
    """
    if name == "local":
        from harness.local_executor import LocalExecutor

        return lambda _: LocalExecutor()
    if name == "ray":
        from harness.ray_executor import RayExecutor

        return lambda code: RayExecutor(address, wait_for_nodes=wait_for_nodes, code=code)
    raise HarnessError(f"--executor must be 'ray' or 'local', got {name!r}")
