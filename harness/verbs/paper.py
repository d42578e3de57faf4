"""`harness report`, `explain` and `power`: what a study's record says."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.console import Console

from harness.errors import HarnessError, TrackingError
from harness.verbs.options import (
    AsJson,
    OptunaStorage,
    Overrides,
    Spec,
    Storage,
    TrackingUri,
    planned,
    print_json,
    say,
    screen,
    storage_path,
    store_uri,
    warn,
)

if TYPE_CHECKING:
    from pandas import DataFrame

    from harness.artifacts import MlflowArtifacts
    from harness.records import Plan
    from harness.spec import StudySpec
    from reports.artifacts import Sources
    from reports.build import FilledTables

app = typer.Typer()


def recorded_storage(spec: Path, storage: Path | None, tracking_uri: str | None) -> Path:
    """The storage folder of a study that has been run.

    Raises:
        HarnessError: Nothing has been recorded there.
    """
    folder = storage_path(storage)
    if tracking_uri is None and not (folder / "mlflow.db").exists():
        raise HarnessError(f"nothing has been recorded in {folder}; run `harness run {spec}` first, or give --storage")
    return folder


def settled(study: StudySpec, spec: Path, folder: Path, optuna: str | None) -> Plan:
    """The plan without rows that are still to be tuned.

    Raises:
        HarnessError: None is left.
    """
    found = planned(study, provisional=False, storage=folder, optuna=optuna)[0].settled
    if not found.trials:
        raise HarnessError(f"no variant has been tuned yet; run `harness run {spec}` first, or give --storage")
    return found


@app.command()
def report(
    spec: Spec,
    overrides: Overrides = None,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
    optuna_storage: OptunaStorage = None,
    output: Annotated[Path | None, typer.Option("--out", help="Default: reports/<study> in the storage.")] = None,
    check: Annotated[
        Path | None, typer.Option(help="Write nothing; compare this folder or .tex file of a paper with the store.")
    ] = None,
    siunitx: Annotated[
        bool | None, typer.Option(help="Align figures of LaTeX tables by siunitx; default: as the study says.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Rebuild the study's tables from what MLflow has recorded, or check that a paper still says the same."""
    from harness.spec import load_study

    study = load_study(spec, overrides or ())
    folder = recorded_storage(spec, storage, tracking_uri)
    found = settled(study, spec, folder, optuna_storage)
    if check is not None:
        _check_paper(check, _filled(found, store_uri(tracking_uri, folder), spec, folder), as_json=as_json)
        return
    found = found if siunitx is None else replace(found, siunitx=siunitx)
    target = output or folder / "reports" / found.study
    made = make_report(found, store_uri(tracking_uri, folder), target, spec, storage=folder, console=screen(as_json))
    if as_json:
        print_json(made)


class Filled(NamedTuple):
    """A study's tables, and what they were filled from."""

    plan: Plan
    tables: FilledTables
    frame: DataFrame
    artifacts: MlflowArtifacts


def _filled(found: Plan, uri: str, spec: Path, storage: Path) -> Filled:
    """The tables of a study as MLflow's record fills them now; nothing is written."""
    from harness.artifacts import MlflowArtifacts
    from harness.results import results_frame
    from reports.build import fill_tables

    frame, artifacts = results_frame(uri, (t.id for t in found.trials)), MlflowArtifacts(uri)
    sources = _sources(found, frame, artifacts, storage)
    tables = fill_tables(found, frame, published_dir=spec.parent / "published", sources=sources)
    return Filled(found, tables, frame, artifacts)


def _sources(found: Plan, frame: DataFrame, artifacts: MlflowArtifacts, storage: Path) -> Sources:
    """What figures are made from, and where they come from."""
    from harness.code_reach import Changes
    from harness.frozen_code import code_files
    from harness.origins import origins
    from harness.panels import DatasetPanels
    from reports.artifacts import Sources

    changes = Changes(code_files(), lambda run_id: artifacts.document(run_id, "code.json"))
    known = origins(found, frame, changes, storage)
    return Sources(artifacts, DatasetPanels(found.trials[0], storage), known)


def _check_paper(paper: Path, filled: Filled, *, as_json: bool) -> None:
    """Print what a paper has that the store does not say; exit code 1 where there is any."""
    from reports.latex import Origin
    from reports.paper_check import Current, check_paper

    tables = filled.tables
    origin = Origin(filled.plan.study, filled.plan.spec_sha)
    done = check_paper(paper, Current(origin, {t.name: t for t in tables.shown}, tables.csv))
    console = screen(as_json)
    for finding in done.findings:
        say(str(finding), console)
    for name in done.others:
        warn(f"note: {name} is of another study and was not compared")
    if not done.checked and not done.cited:
        warn(f"note: {paper} holds no copy of a table of study {filled.plan.study} and cites no number")
    say(f"{len(done.checked)} copies, {done.cited} cited numbers, {len(done.findings)} differences", console)
    if as_json:
        print_json(asdict(done))
    if done.findings:
        raise typer.Exit(1)


@app.command()
def explain(
    spec: Spec,
    figure: Annotated[
        str,
        typer.Argument(
            metavar="TABLE:ROW:METRIC",
            help="ROW: a label or a part of one; METRIC: a name or head.",
            show_default=False,
        ),
    ],
    split: Annotated[str | None, typer.Option(help="Default: the study's primary split.")] = None,
    overrides: Overrides = None,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
    optuna_storage: OptunaStorage = None,
    as_json: AsJson = False,
) -> None:
    """Say where a figure of a table comes from: trials, runs, code, data, weights, logs, and what changed since."""
    from harness.explain import Request
    from harness.explain import explain as explained
    from harness.explain_view import explanation_lines
    from harness.frozen_code import code_files
    from harness.spec import load_study

    study = load_study(spec, overrides or ())
    folder = recorded_storage(spec, storage, tracking_uri)
    plan = settled(study, spec, folder, optuna_storage)
    filled = _filled(replace(plan, breakdowns=()), store_uri(tracking_uri, folder), spec, folder)
    request = Request(plan, filled.tables.tables, filled.frame, filled.artifacts, folder, code_files())
    found = explained(request, figure, split=split)
    for line in explanation_lines(found):
        say(line, screen(as_json))
    if as_json:
        print_json(found.to_json())


@app.command()
def power(
    spec: Spec,
    overrides: Overrides = None,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
    optuna_storage: OptunaStorage = None,
    as_json: AsJson = False,
) -> None:
    """Print per row the difference seen, the smallest that so many replicates resolve, and how many it would take."""
    from harness.artifacts import MlflowArtifacts
    from harness.panels import DatasetPanels
    from harness.results import results_frame
    from harness.spec import load_study
    from reports.artifacts import FigureRequest, Sources
    from reports.power_view import explain_resolution, render_resolution, resolutions

    study = load_study(spec, overrides or ())
    folder = recorded_storage(spec, storage, tracking_uri)
    found = settled(study, spec, folder, optuna_storage)
    uri, console = store_uri(tracking_uri, folder), screen(as_json)
    sources = Sources(MlflowArtifacts(uri), DatasetPanels(found.trials[0], folder))
    frame = results_frame(uri, (t.id for t in found.trials))
    tables = resolutions(FigureRequest(found, frame, sources))
    for table in tables:
        console.print(render_resolution(table))
        say(explain_resolution(table), console)
    if not tables:
        warn("note: no table has a score yet")
    if as_json:
        print_json([asdict(table) for table in tables])


def make_report(found: Plan, uri: str, folder: Path, spec: Path, *, storage: Path, console: Console) -> dict[str, Any]:
    """Build every table and figure from MLflow, record them there, and say where they are, in words and for JSON."""
    from harness.artifacts import MlflowArtifacts
    from harness.results import results_frame, run_pages, runs_page, shown
    from harness.tracking import MlflowTracker
    from reports.build import build_report
    from reports.page_parts import Background
    from reports.terminal import render_terminal

    frame = results_frame(uri, (t.id for t in found.trials))
    left = MlflowArtifacts(uri)
    background = Background(run_pages(uri, frame), left.traceback, left.versions, spec.read_text(encoding="utf-8"))
    files = build_report(
        *(found, frame, folder),
        published_dir=spec.parent / "published",
        sources=_sources(found, frame, left, storage),
        background=background,
    )
    for table in files.tables:
        console.print(render_terminal(table))
    say(f"tables     {folder}  (.tex .md .csv)", console)
    say(f"page       {files.html}", console)
    pdf = files.pdf or f"not built: {files.no_pdf}"
    say(f"PDF        {pdf}", console)
    if files.figures:
        say(f"figures    {folder / 'figures'}  (.pdf .png .csv .tex)", console)
    for note in files.notes:
        warn(f"note: {note}")
    start = "" if uri.startswith("http") else f"mlflow ui --backend-store-uri {shown(uri)}  then  "
    page = runs_page(uri, found.study)
    say(f"MLflow UI  {start}{page}", console)
    try:
        MlflowTracker(uri, storage).log_report(found, files.paths, folder)
    except TrackingError as error:
        warn(f"note: the report is written but not in MLflow: {error}")
    return {
        **{"study": found.study, "folder": str(folder), "files": [str(path) for path in files.paths]},
        **{"pdf": str(files.pdf) if files.pdf else None, "notes": list(files.notes), "mlflow": page},
    }
