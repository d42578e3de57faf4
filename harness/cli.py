"""The `harness` command: plan, run and report a study; check and generate data; list what can be named in a study."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

from harness.errors import DataError, HarnessError, TrackingError

if TYPE_CHECKING:
    from harness.executor import Executor
    from harness.records import Plan
    from harness.spec import StudySpec
    from harness.study import Failure

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
data_app = typer.Typer(no_args_is_help=True, help="Check a dataset on disk, or generate a miniature of one.")
app.add_typer(data_app, name="data")

out = Console(width=None if sys.stdout.isatty() else 140)
err = Console(stderr=True)

Spec = Annotated[Path, typer.Argument(help="Study file.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change one value of the study, e.g. train.epochs=5."),
]
Storage = Annotated[
    Path | None,
    typer.Option(envvar="HARNESS_STORAGE", help="Folder for checkpoints, generated data and the default MLflow store."),
]
TrackingUri = Annotated[
    str | None,
    typer.Option(envvar="MLFLOW_TRACKING_URI", help="MLflow server or store; default: sqlite in the storage folder."),
]
OptunaStorage = Annotated[
    str | None,
    typer.Option(envvar="HARNESS_OPTUNA", help="Database of searches; default: sqlite in the storage folder."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]

JOB_FOLDERS = ("runtime_resources", "working_dir_files")
"""Parts of the path of the folder in which Ray unpacks a submitted job, and which it removes afterwards."""


def _say(line: str) -> None:
    out.print(line, highlight=False, markup=False, soft_wrap=True)


def _warn(line: str) -> None:
    err.print(line, highlight=False, markup=False, soft_wrap=True)


def default_storage() -> Path:
    """`runs` here; in a job submitted to Ray, whose folder is temporary, `harness-runs` in the home folder."""
    if any(part in Path.cwd().parts for part in JOB_FOLDERS):
        return Path.home() / "harness-runs"
    return Path("runs")


def _storage(given: Path | None) -> Path:
    storage = (given or default_storage()).expanduser().absolute()
    try:
        storage.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HarnessError(f"the storage folder must be writable, got {storage}: {error.strerror}") from None
    return storage


def _optuna(given: str | None, storage: Path | None) -> str:
    folder = (storage or default_storage()).expanduser().absolute()
    return given or f"sqlite:///{folder / 'optuna.db'}"


def _uri(given: str | None, storage: Path) -> str:
    return given or f"sqlite:///{storage / 'mlflow.db'}"


def _plan(study: StudySpec, *, provisional: bool, optuna: str) -> tuple[Plan, str]:
    """The plan, and a warning where ids are provisional because the data is not there."""
    from harness.plan import expand, fingerprint_of
    from harness.search_store import expand_tuned

    try:
        fingerprint, root = fingerprint_of(study)
    except DataError as error:
        if not provisional:
            raise
        return expand(study, fingerprint="absent"), f"{error}; ids are provisional and nothing counts as done"
    return expand_tuned(study, fingerprint=fingerprint, data_root=root, url=optuna), ""


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
    found, warning = _plan(study, provisional=True, optuna=_optuna(optuna_storage, storage))
    done = _complete(found, tracking_uri, storage)
    if as_json:
        sys.stdout.write(json.dumps(plan_json(found, done), indent=1) + "\n")
    else:
        out.print(render_plan(found, done))
    if warning:
        _warn(f"note: {warning}")


def _complete(found: Plan, tracking_uri: str | None, storage: Path | None) -> frozenset[str]:
    """Ids that are COMPLETE in the store; none where the default store does not exist yet."""
    folder = (storage or default_storage()).expanduser().absolute()
    if tracking_uri is None and not (folder / "mlflow.db").exists():
        return frozenset()
    from harness.results import results_frame

    frame = results_frame(_uri(tracking_uri, folder), (t.id for t in found.trials))
    return frozenset(frame.loc[frame["state"] == "COMPLETE", "trial_id"])


@app.command()
def run(
    spec: Spec,
    overrides: Overrides = None,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
    optuna_storage: OptunaStorage = None,
    address: Annotated[str | None, typer.Option(envvar="RAY_ADDRESS", help="Ray cluster to use.")] = None,
    executor: Annotated[str, typer.Option(help="`ray`, or `local`: one trial at a time in this process.")] = "ray",
) -> None:
    """Run every trial of a study that is not complete yet, then rebuild its tables; variants are tuned before.

    Exits with 1 if a trial failed.
    """
    from harness.progress import StudyProgress
    from harness.spec import load_study

    study = load_study(spec, overrides or ())
    optuna = _optuna(optuna_storage, storage)
    found, _ = _plan(study, provisional=False, optuna=optuna)
    start = _executor(executor, address)
    folder = _storage(storage)
    if study.task == "semantic":
        from harness.semantic_task import require_trials_fit

        require_trials_fit([*found.trials, *(search.template for search in found.searches)], folder)
    uri = _uri(tracking_uri, folder)
    from harness.study import run_study
    from harness.tracking import MlflowTracker

    tracker = MlflowTracker(uri, folder)
    tracker.open(found, spec.read_text(encoding="utf-8"))
    _say(f"{found.study}: {len(found.trials)} trials, storage {folder}")
    progress = StudyProgress(found, out)
    try:
        failures = run_study(found, tracker=tracker, executor=start(), progress=progress, storage=folder)
    except KeyboardInterrupt:
        _warn(f"interrupted: {progress.summary()}; the same command goes on from each trial's last finished epoch")
        raise typer.Exit(130) from None
    try:
        _report(found, uri, folder / "reports" / found.study, spec, storage=folder)
    finally:
        _list_failures(failures, len(found.trials))
    if failures:
        raise typer.Exit(1)


def _list_failures(failures: Sequence[Failure], num_trials: int) -> None:
    if failures:
        _warn(f"{len(failures)} of {num_trials} trials failed:")
    for failure in failures:
        trial = failure.trial
        _warn(f"  {trial.id}  {trial.variant} #{trial.replicate}: {failure.cause}")
        _warn(f"      traceback: {failure.folder / 'result.json'}")


def _executor(name: str, address: str | None) -> Callable[[], Executor]:
    if name == "local":
        from harness.executor import LocalExecutor

        return LocalExecutor
    if name == "ray":
        from harness.ray_executor import RayExecutor

        return lambda: RayExecutor(address)
    raise HarnessError(f"--executor must be 'ray' or 'local', got {name!r}")


@app.command()
def report(
    spec: Spec,
    overrides: Overrides = None,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
    optuna_storage: OptunaStorage = None,
    output: Annotated[Path | None, typer.Option("--out", help="Default: reports/<study> in the storage.")] = None,
) -> None:
    """Rebuild the study's tables from what MLflow has recorded."""
    from harness.spec import load_study

    study = load_study(spec, overrides or ())
    found = _plan(study, provisional=False, optuna=_optuna(optuna_storage, storage))[0].settled
    if not found.trials:
        raise HarnessError(f"no variant has been tuned yet; run `harness run {spec}` first")
    folder = (storage or default_storage()).expanduser().absolute()
    if tracking_uri is None and not (folder / "mlflow.db").exists():
        raise HarnessError(f"nothing has been recorded in {folder}; run `harness run {spec}` first, or give --storage")
    target = output or folder / "reports" / found.study
    _report(found, _uri(tracking_uri, folder), target, spec, storage=folder)


def _report(found: Plan, uri: str, folder: Path, spec: Path, *, storage: Path) -> None:
    """Build every table and figure from MLflow, record them there, and say where they are."""
    from harness.artifacts import MlflowArtifacts
    from harness.panels import DatasetPanels
    from harness.results import results_frame, runs_page
    from harness.tracking import MlflowTracker
    from reports.artifacts import Sources
    from reports.build import build_report
    from reports.terminal import render_terminal

    frame = results_frame(uri, (t.id for t in found.trials))
    sources = Sources(MlflowArtifacts(uri), DatasetPanels(found.trials[0], storage))
    files = build_report(found, frame, folder, published_dir=spec.parent / "published", sources=sources)
    for table in files.tables:
        out.print(render_terminal(table))
    _say(f"tables     {folder}  (.tex .md .csv)")
    pdf = files.pdf or "not built: pdflatex is not on PATH (Debian: apt-get install texlive-latex-extra)"
    _say(f"PDF        {pdf}")
    if files.figures:
        _say(f"figures    {folder / 'figures'}  (.pdf .png .csv .tex)")
    for note in files.notes:
        _warn(f"note: {note}")
    start = "" if uri.startswith("http") else f"mlflow ui --backend-store-uri {uri}  then  "
    _say(f"MLflow UI  {start}{runs_page(uri, found.study)}")
    try:
        MlflowTracker(uri, storage).log_report(found, files.paths, folder)
    except TrackingError as error:
        _warn(f"note: the report is written but not in MLflow: {error}")


@app.command()
def convert(
    model: Annotated[str, typer.Argument(help="Model that the checkpoint is of: lavt, lgce, mafn or rmsin.")],
    checkpoint: Annotated[Path, typer.Argument(help="File published by the model's authors.")],
    file: Annotated[Path, typer.Argument(metavar="OUT", help="File to write; the account goes beside it as JSON.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="A setting that is not the default, e.g. kernels=[1,3]."),
    ] = None,
    names: Annotated[
        Path | None,
        typer.Option(help="YAML file with published names that are not known here: published prefix: our prefix."),
    ] = None,
    image_size: Annotated[int, typer.Option(help="Side in pixels of the images that the checkpoint is for.")] = 480,
) -> None:
    """Convert published weights for the model option `weights`; refuses if less than 95 % of any part matches."""
    from harness.convert import account_lines, convert_checkpoint, read_names

    given = read_names(names) if names else None
    account = convert_checkpoint(model, checkpoint, file, overrides=overrides or (), names=given, image_size=image_size)
    for line in account_lines(account):
        _say(line)
    _say(f"weights    {file}  (account: {file.with_suffix('.json')})")


@data_app.command("check")
def data_check(
    name: Annotated[str, typer.Argument(help="Dataset, e.g. rrsis_d.")],
    root: Annotated[Path, typer.Argument(help="Its folder.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="OPTION=VALUE", help="An option of the dataset, e.g. num_classes=15."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read a whole dataset and report counts per split, missing files, empty masks and size mismatches.

    Exits with 1 if files are missing or unreadable.
    """
    from harness.data.base import DATASETS
    from harness.data.synthetic import open_dataset
    from harness.data_view import chosen_options, problem_lines

    options = chosen_options(name, overrides or ())
    dataset = DATASETS.get(name)
    found = open_dataset(name, root=root, synthetic=None, options=options).check()
    if as_json:
        value = {"counts": dict(found.counts), "problems": {k: list(v) for k, v in found.problems.items()}}
        sys.stdout.write(json.dumps({**value, "notes": list(found.notes)}, indent=1) + "\n")
    else:
        for line in problem_lines(dataset.info, found):
            _say(line)
    if any(kind.startswith(("missing ", "unreadable ")) and samples for kind, samples in found.problems.items()):
        raise typer.Exit(1)


@data_app.command("synth")
def data_synth(
    name: Annotated[str, typer.Argument(help="Dataset whose layout is imitated, e.g. rrsis_d.")],
    root: Annotated[Path, typer.Argument(help="Folder to write; must not hold other files.")],
    train: Annotated[int, typer.Option(help="Training samples.")] = 64,
    val: Annotated[int, typer.Option(help="Validation samples.")] = 16,
    test: Annotated[int, typer.Option(help="Test samples.")] = 16,
    size: Annotated[int, typer.Option(help="Height and width of the images in pixels.")] = 96,
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn.")] = 0,
    quirks: Annotated[bool, typer.Option(help="Include the known defects of the published files.")] = False,
) -> None:
    """Generate a miniature of a dataset in its own layout, in which no sentence or modality can be left out."""
    from harness.data.base import DATASETS, SyntheticConfig
    from harness.data.synthetic import ensure_synthetic

    dataset = DATASETS.get(name)
    config = SyntheticConfig(train=train, val=val, test=test, size=size, seed=seed, quirks=quirks)
    folder = ensure_synthetic(name, root, config)
    counts = dataset(folder).check().counts
    _say(f"{name}: {' + '.join(str(count) for count in counts.values())} samples in {folder}")


@app.command("list")
def list_names() -> None:
    """List the models, datasets and metrics that a study can name."""
    from rich.table import Table

    from harness.data.base import DATASETS
    from harness.metrics import METRICS
    from models.base import MODELS

    table = Table("kind", "name", "title", "source", box=None)
    for name in MODELS.names():
        info = MODELS.get(name).info
        table.add_row("model", name, info.title, info.paper)
    for name in DATASETS.names():
        about = DATASETS.get(name).info
        table.add_row("dataset", name, about.title, about.paper)
    for metric in METRICS.values():
        direction = "higher is better" if metric.higher_is_better else "lower is better"
        table.add_row("metric", metric.name, metric.label, f"{', '.join(metric.tasks)}; {direction}")
    out.print(table)


def _fail(text: str) -> NoReturn:
    if text:
        _warn(f"error: {' '.join(text.split())}")
    raise SystemExit(2)


def main() -> NoReturn:
    """Entry point: a user's mistake becomes one line on stderr and exit code 2."""
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # not the steps of its database migration
    try:
        code = app(standalone_mode=False)
    except HarnessError as error:
        _fail(str(error))
    except typer.TyperException as error:
        _fail(error.format_message())  # empty where the help has been shown
    raise SystemExit(code or 0)
