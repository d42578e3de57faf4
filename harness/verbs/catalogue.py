"""`harness list` and `convert`: what a study can name, and published weights it can start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.verbs.options import AsJson, out, print_json, say

app = typer.Typer()


@app.command("list")
def list_names(as_json: AsJson = False) -> None:
    """List the models, datasets and metrics that a study can name."""
    from rich.table import Table

    from harness.data.base import DATASETS
    from harness.metrics import METRICS
    from models.base import MODELS

    rows: list[tuple[str, str, str, str]] = []
    for name in MODELS.names():
        info = MODELS.get(name).info
        rows.append(("model", name, info.title, info.paper))
    for name in DATASETS.names():
        about = DATASETS.get(name).info
        rows.append(("dataset", name, about.title, about.paper))
    for metric in METRICS.values():
        direction = "higher is better" if metric.higher_is_better else "lower is better"
        rows.append(("metric", metric.name, metric.label, f"{', '.join(metric.tasks)}; {direction}"))
    columns = ("kind", "name", "title", "source")
    if as_json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
        return
    table = Table(*columns, box=None)
    for row in rows:
        table.add_row(*row)
    out.print(table)


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
    as_json: AsJson = False,
) -> None:
    """Convert published weights for the model option `weights`; refuses if less than 95 % of any part matches."""
    from harness.convert import account_lines, convert_checkpoint, read_names

    given = read_names(names) if names else None
    account = convert_checkpoint(model, checkpoint, file, overrides=overrides or (), names=given, image_size=image_size)
    if as_json:
        print_json({"weights": str(file), "account": vars(account)})
        return
    for line in account_lines(account):
        say(line)
    say(f"weights    {file}  (account: {file.with_suffix('.json')})")
