"""The `harness` command: plan, run, watch and report a study; check and generate data; keep the machine in order."""

from __future__ import annotations

import logging
import sys
from typing import NoReturn

import typer

from harness.errors import HarnessError
from harness.verbs import archive, catalogue, data, operations, paper, study, upkeep
from harness.verbs.options import print_json, warn

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
for group in (study, paper, archive, operations, upkeep, catalogue):
    app.add_typer(group.app)
app.add_typer(data.app, name="data")


def _fail(text: str) -> NoReturn:
    line = " ".join(text.split())
    if line:
        warn(f"error: {line}")
        if "--json" in sys.argv[1:]:
            print_json({"error": line})
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
