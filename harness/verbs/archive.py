"""`harness pack` and `rebuild`: a study's tables with all they rest on in one file, and what that file gives again."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from contextlib import closing, nullcontext, redirect_stdout
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

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
from harness.verbs.recorded import recorded
from harness.verbs.study import executor_named

if TYPE_CHECKING:
    from harness.rebuild import Compared
    from harness.retrain import Cell, Retrained

app = typer.Typer()


@app.command()
def pack(
    spec: Spec,
    table: Annotated[str | None, typer.Argument(help="Table to pack; all of the study by default.")] = None,
    overrides: Overrides = None,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
    optuna_storage: OptunaStorage = None,
    output: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.tar.gz", help="Default: <study>[-<table>].tar.gz here.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Put tables and all that they rest on into one file: study, pins, plan, results, per-sample results, code."""
    from harness.pack import SUFFIX, Source
    from harness.pack import pack as packed

    found = recorded(spec, overrides, storage=storage, tracking_uri=tracking_uri, optuna=optuna_storage)
    source = Source(found.plan, spec, tuple(overrides or ()), found.storage, found.frame, found.artifacts)
    target = output or Path("-".join(part for part in (found.plan.study, table) if part) + SUFFIX)
    made = packed(source, table, target)
    console = screen(as_json)
    say(f"{made.path}  {made.size_mib:.1f} MiB, {made.runs} runs, tables {', '.join(made.tables)}", console)
    say(f"SHA-256    {made.sha256}", console)
    say(f"check it   {shlex.join(['harness', 'rebuild', str(made.path)])}", console)
    for note in made.notes:
        warn(f"note: {note}")
    if as_json:
        print_json({**asdict(made), "path": str(made.path)})


@app.command()
def rebuild(
    archive: Annotated[
        Path, typer.Argument(help="File of `harness pack`, or its unpacked folder.", show_default=False)
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--out", parser=named_folder, metavar="FOLDER", help="Default: <FILE>-rebuilt here, or beside the folder."
        ),
    ] = None,
    retrain: Annotated[
        str | None, typer.Option(metavar="TRIAL", help="Train this trial again, or `random`: one of a random cell.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the draw of --retrain random.")] = 0,
    data_root: Annotated[Path | None, typer.Option(help="Dataset for --retrain, if it was not generated.")] = None,
    address: Annotated[str | None, typer.Option(envvar="RAY_ADDRESS", help="Ray cluster for --retrain.")] = None,
    executor: Annotated[str, typer.Option(help="Of --retrain: `ray`, or `local`: in this process.")] = "ray",
    as_json: AsJson = False,
) -> None:
    """Build an archive's tables again from its records and compare, or train one of its trials again.

    Exits with 1 if a table differs, or the trial's score is further off than its replicates are.
    """
    from harness.packed import opened
    from harness.rebuild import rebuild as built_again

    name = archive.resolve().name.removesuffix(".tar.gz") + "-rebuilt"
    # an archive's folder holds its own files only
    beside = archive.resolve().parent if archive.is_dir() else Path.cwd()
    target = (output or beside / name).absolute()
    console = screen(as_json)
    with opened(archive) as folder:
        say(f"{archive}: every file is as it was packed", console)
        if retrain is not None:
            from harness.retrain import choose_cell
            from harness.retrain import retrain as trained_again

            start = executor_named(executor, address)
            with redirect_stdout(sys.stderr) if as_json else nullcontext():  # Ray prints what it has to say, too
                cell = choose_cell(folder, retrain, seed=seed)
                with closing(start(_code_of(folder, cell, uses_copy=executor == "ray"))) as workers:
                    tell = partial(say, console=console)
                    again = trained_again(cell, workers, storage=target / "retrained", data_root=data_root, say=tell)
            _end_retrained(again, console, as_json=as_json)
            return
        found = built_again(folder, target)
        _show_files(found, folder, console)
    say(f"built in   {target}", console)
    if as_json:
        print_json({"folder": str(target), "files": [asdict(file) for file in found]})
    if any(not file.is_equal and not file.is_drawn for file in found):
        raise typer.Exit(1)


def _end_retrained(again: Retrained, console: Console, *, as_json: bool) -> None:
    """Say how a trial came out when it was trained again, and exit with 1 if it was not reproduced."""
    _show_scores(again, console)
    if as_json:
        print_json({**asdict(again), "equal": again.is_equal, "reproduced": again.is_reproduced})
    if not again.is_reproduced:
        raise typer.Exit(1)


def _show_files(found: Sequence[Compared], folder: Path, console: Console) -> None:
    """Say which files of the report came out as they were packed, and why others may not have."""
    from harness.environment import versions
    from harness.frozen_code import code_files, code_sha, hash_files
    from harness.packed import read_pack
    from harness.rebuild import other_versions

    for file in found:
        word = "equal   " if file.is_equal else "drawn   " if file.is_drawn else "DIFFERS "
        what = file.difference or ("" if file.is_equal else "other bytes")
        say(f"{word}  {file.name}{'  ' if what else ''}{what}", console)
    equal = sum(file.is_equal for file in found)
    say(f"{equal} of {len(found)} files are equal to the packed ones, byte for byte", console)
    if equal == len(found):
        return
    reasons = other_versions(folder, versions())
    here, there = code_sha(hash_files(code_files())), read_pack(folder)["code"]
    if here != there:
        reasons.append(f"code {there}, here {here}: that of the archive is PYTHONPATH=code/{there} in its folder")
    for reason in reasons:
        warn(f"note: packed with {reason}")


def _code_of(folder: Path, cell: Cell, *, uses_copy: bool) -> Path:
    """Folder of the code that the trial ran, or of this code where that is not packed; another one is said."""
    from harness.frozen_code import code_files, code_sha, hash_files
    from harness.packed import read_pack

    code = read_pack(folder)["run_codes"].get(cell.evidence.run_id, "")
    packed = folder / "code" / code
    here = code_sha(hash_files(code_files()))
    if code != here and not (uses_copy and code and packed.is_dir()):
        place = "; --executor ray runs the packed code" if code and packed.is_dir() else ""
        warn(f"note: the trial ran the code {code or 'that nobody recorded'}, this is {here}{place}")
    return packed if code and packed.is_dir() else Path(__file__).resolve().parents[2]


def _show_scores(again: Retrained, console: Console) -> None:
    """Print each score twice, and what could explain a difference."""
    table = Table("split", "metric", "packed", "again", "difference", "std", box=None)
    for score in again.scores:
        off = "none" if score.is_equal else "" if score.again is None else f"{score.again - score.packed:+.3g}"
        now = "" if score.again is None else f"{score.again:.6f}"
        spread = "" if score.spread is None else f"{score.spread:.3g}"
        table.add_row(score.split, score.metric, f"{score.packed:.6f}", now, off, spread)
    console.print(table)
    say(f"{again.table}: {again.row}, replicate {again.replicate}: {again.verdict()}", console)
    if not again.is_equal:
        for difference in again.other_environment:
            warn(f"note: packed run had {difference}")
