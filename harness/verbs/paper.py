"""`harness report`, `explain` and `power`: what a study's record says."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from harness.errors import TrackingError
from harness.verbs.options import (
    AsJson,
    OptunaStorage,
    Overrides,
    Spec,
    Storage,
    TrackingUri,
    named_folder,
    print_json,
    say,
    screen,
    warn,
)
from harness.verbs.recorded import Recorded, recorded

if TYPE_CHECKING:
    from reports.build import FilledTables

app = typer.Typer()


@app.command()
def report(
    spec: Spec,
    overrides: Overrides = None,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
    optuna_storage: OptunaStorage = None,
    output: Annotated[
        Path | None,
        typer.Option("--out", parser=named_folder, metavar="FOLDER", help="Default: reports/<study> in the storage."),
    ] = None,
    check: Annotated[
        Path | None, typer.Option(help="Write nothing; compare this folder or .tex file of a paper with the store.")
    ] = None,
    siunitx: Annotated[
        bool | None, typer.Option(help="Align figures of LaTeX tables by siunitx; default: as the study says.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Rebuild the study's tables from what MLflow has recorded, or check that a paper still says the same."""
    found = recorded(spec, overrides, storage=storage, tracking_uri=tracking_uri, optuna=optuna_storage)
    found.require_runs()
    if check is not None:
        _check_paper(check, found, as_json=as_json)
        return
    if siunitx is not None:
        found = replace(found, plan=replace(found.plan, siunitx=siunitx))
    made = make_report(found, output, screen(as_json))
    if as_json:
        print_json(made)


def _filled(found: Recorded) -> FilledTables:
    """The tables of a study as MLflow's record fills them now; nothing is written."""
    from reports.build import fill_tables

    return fill_tables(found.traced, published_dir=found.published)


def _check_paper(paper: Path, found: Recorded, *, as_json: bool) -> None:
    """Print what a paper has that the store does not say; exit code 1 where there is any."""
    from reports.latex import Origin
    from reports.paper_check import Current, check_paper

    tables, plan = _filled(found), found.plan
    origin = Origin(plan.study, plan.spec_sha)
    done = check_paper(paper, Current(origin, {t.name: t for t in tables.shown}, tables.csv))
    console = screen(as_json)
    for finding in done.findings:
        say(str(finding), console)
    for name in done.others:
        warn(f"note: {name} is of another study and was not compared")
    for note in done.notes:
        warn(f"note: {note}")
    if not done.checked and not done.cited:
        warn(f"note: {paper} holds no copy of a table of study {plan.study} and cites no number")
    counts = (len(done.checked), "copy", "copies"), (done.cited, "cited number", "cited numbers")
    counted = (*counts, (len(done.findings), "difference", "differences"))
    say(", ".join(f"{n} {one if n == 1 else several}" for n, one, several in counted), console)
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

    study = recorded(spec, overrides, storage=storage, tracking_uri=tracking_uri, optuna=optuna_storage)
    study = replace(study, plan=replace(study.plan, breakdowns=()))
    tables = _filled(study).tables
    request = Request(study.results, tables, study.artifacts, study.storage, code_files())
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
    from reports.power_view import explain_resolution, render_resolution, resolutions

    found = recorded(spec, overrides, storage=storage, tracking_uri=tracking_uri, optuna=optuna_storage)
    console = screen(as_json)
    tables = resolutions(found.results)
    for table in tables:
        console.print(render_resolution(table))
        say(explain_resolution(table), console)
    if not tables:
        warn("note: no table has a score yet")
    if as_json:
        print_json([asdict(table) for table in tables])


def make_report(found: Recorded, output: Path | None, console: Console) -> dict[str, Any]:
    """Build every table and figure from MLflow, record them there, and say where they are, in words and for JSON.

    Args:
        found: The study.
        output: Folder to write to; None for `reports/<study>` in its storage.
        console: Where to say it.
    """
    from harness.results import looks_at, run_pages, runs_page, shown
    from harness.tracking import MlflowTracker
    from reports.build import build_report
    from reports.page_parts import Background, looks_words
    from reports.terminal import render_terminal

    uri, left = found.uri, found.artifacts
    own = found.storage / "reports" / found.plan.study
    folder = output or own
    text = found.spec.read_text(encoding="utf-8")
    looks = looks_at(uri, "test", {trial.data_fingerprint for trial in found.plan.trials})
    background = Background(run_pages(uri, found.frame), left.traceback, left.versions, text, looks)
    is_own = folder.absolute().resolve() == own.resolve()
    files = build_report(found.traced, folder, published_dir=found.published, background=background, is_own=is_own)
    for table in files.tables:
        console.print(render_terminal(table))
    if found.num_complete < len(found.plan.trials):
        without = "; tables show why the others have no score"
        say(f"trials     {found.num_complete} of {len(found.plan.trials)} trials are complete{without}", console)
    say(f"tables     {folder}  (.tex .md .csv)", console)
    say(f"page       {files.html}", console)
    pdf = files.pdf or f"not built: {files.no_pdf}"
    say(f"PDF        {pdf}", console)
    if files.figures:
        say(f"figures    {folder / 'figures'}  (.pdf .png .csv .tex)", console)
    if words := looks_words(found.plan, looks):
        say(f"test split scored by {words}", console)
    for note in files.notes:
        warn(f"note: {note}")
    start = "" if uri.startswith("http") else f"mlflow ui --backend-store-uri {shown(uri)}  then  "
    page = runs_page(uri, found.plan.study)
    say(f"MLflow UI  {start}{page}", console)
    try:
        MlflowTracker(uri, found.storage).log_report(found.plan, files.paths, folder)
    except TrackingError as error:
        warn(f"note: the report is written but not in MLflow: {error}")
    return {
        **{"study": found.plan.study, "folder": str(folder), "files": [str(path) for path in files.paths]},
        **{"pdf": str(files.pdf) if files.pdf else None, "notes": list(files.notes), "mlflow": page},
    }
