"""What the verbs share: options, where a study's files are, and how lines and JSON reach the user."""

from __future__ import annotations

import json
import os
import shlex
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from harness.errors import DataError, HarnessError

if TYPE_CHECKING:
    from harness.records import Plan
    from harness.spec import StudySpec

out = Console(width=None if sys.stdout.isatty() else 140)
err = Console(stderr=True)

OPTUNA_VARIABLE = "HARNESS_OPTUNA"

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
    typer.Option(envvar=OPTUNA_VARIABLE, help="Database of searches; default: sqlite in the storage folder."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document; whatever else is said goes to stderr.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]

JOB_FOLDERS = ("runtime_resources", "working_dir_files")
"""Parts of the path of the folder in which Ray unpacks a submitted job, and which it removes afterwards."""


def named_folder(text: str) -> Path:
    """The folder that an option names.

    Raises:
        HarnessError: It names none, as an unset variable of a shell does; `Path` would take it for the current folder.
    """
    if not text.strip():
        raise HarnessError(f"--out must name a folder, got {text!r}; `.` is the current one")
    return Path(text)


def screen(as_json: bool) -> Console:
    """Where a verb talks to the user: not on stdout if that carries JSON."""
    return err if as_json else out


def say(line: str, console: Console = out) -> None:
    """Print a line as it is, whatever the width of the terminal."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def warn(line: str) -> None:
    """Print a line as it is on stderr."""
    say(line, err)


def print_json(value: Any) -> None:
    """Print a JSON document on stdout."""
    sys.stdout.write(json.dumps(value, indent=1) + "\n")


def run_command(spec: Path, overrides: Sequence[str] | None, storage: Path | None) -> str:
    """The command that runs what is missing of a study, with the options that say which study and where."""
    words = ["harness", "run", str(spec), *(word for text in overrides or () for word in ("--set", text))]
    return shlex.join([*words, *(["--storage", str(storage)] if storage else [])])


def default_storage() -> Path:
    """`runs` here; in a job submitted to Ray, whose folder is temporary, `harness-runs` in the home folder."""
    if any(part in Path.cwd().parts for part in JOB_FOLDERS):
        return Path.home() / "harness-runs"
    return Path("runs")


def storage_path(given: Path | None) -> Path:
    """The storage folder, whether it is there or not."""
    return (given or default_storage()).expanduser().absolute()


def storage_folder(given: Path | None) -> Path:
    """The storage folder, made if missing.

    Raises:
        HarnessError: It cannot be made.
    """
    storage = storage_path(given)
    try:
        storage.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HarnessError(f"the storage folder must be writable, got {storage}: {error.strerror}") from None
    return storage


def existing_storage(given: Path | None) -> Path:
    """The storage folder, which must be there.

    Raises:
        HarnessError: It is not.
    """
    storage = storage_path(given)
    if not storage.is_dir():
        raise HarnessError(f"the storage must be the folder that a study ran in, {storage} is not there; see --storage")
    return storage


def confirmed(question: str, *, yes: bool) -> bool:
    """Whether the user agrees, on the terminal or beforehand with --yes.

    Raises:
        HarnessError: There is nobody to ask.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise HarnessError(f"this asks first, and there is no terminal to ask on: {question} If so, add --yes")
    try:
        return typer.confirm(question, err=True)
    except typer.Abort:
        return False


def store_uri(given: str | None, storage: Path) -> str:
    """The tracking store: the one given, else the one in the storage folder."""
    return given or f"sqlite:///{storage / 'mlflow.db'}"


def recorded_store(given: str | None, storage: Path) -> str | None:
    """The tracking store; None where it is a database file that nobody has made yet, so that reading makes none."""
    uri = store_uri(given, storage)
    return uri if _is_made(uri) else None


def no_store(given: str) -> HarnessError:
    """What to say of a store that was named and that `recorded_store` does not find."""
    return HarnessError(
        f"--tracking-uri (MLFLOW_TRACKING_URI) must name a store in which something is recorded, {given} is not there "
        "or empty; correct it, or make it by `harness run`"
    )


def _is_made(uri: str) -> bool:
    """Whether there is a store; of what is no sqlite file, and of a damaged one, connecting says what it is."""
    if not uri.startswith("sqlite:///"):
        return True
    path = Path(uri.removeprefix("sqlite:///").partition("?")[0])
    try:
        if path.stat().st_size == 0:
            return False
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            tables = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone()
    except FileNotFoundError:
        return False
    except (OSError, sqlite3.Error):
        return True
    return tables is not None


def optuna_url(given: str | None, storage: Path) -> str:
    """The database of searches: the one given, else the one of the environment, else the one in the storage folder."""
    return given or os.environ.get(OPTUNA_VARIABLE) or f"sqlite:///{storage / 'optuna.db'}"


def planned(study: StudySpec, *, provisional: bool, storage: Path, optuna: str | None = None) -> tuple[Plan, str]:
    """The plan with what its searches have found, and a warning where ids are provisional as the data is not there."""
    from harness.plan import expand, fingerprint_of

    try:
        fingerprint, root = fingerprint_of(study)
    except DataError as error:
        if not provisional:
            raise
        return expand(study, fingerprint="absent"), f"{error}; ids are provisional and nothing counts as done"
    if not study.has_search:
        return expand(study, fingerprint=fingerprint, data_root=root), ""
    from harness.search_store import expand_tuned

    return expand_tuned(study, fingerprint=fingerprint, data_root=root, url=optuna_url(optuna, storage)), ""
