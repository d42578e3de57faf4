"""`harness data check` and `data synth`: a dataset on disk, or a generated miniature of one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.verbs.options import AsJson, print_json, say

app = typer.Typer(no_args_is_help=True, help="Check a dataset on disk, or generate a miniature of one.")


@app.command()
def check(
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
        print_json({**value, "notes": list(found.notes)})
    else:
        for line in problem_lines(dataset.info, found):
            say(line)
    if any(kind.startswith(("missing ", "unreadable ")) and samples for kind, samples in found.problems.items()):
        raise typer.Exit(1)


@app.command()
def synth(
    name: Annotated[str, typer.Argument(help="Dataset whose layout is imitated, e.g. rrsis_d.")],
    root: Annotated[Path, typer.Argument(help="Folder to write; must not hold other files.")],
    train: Annotated[int, typer.Option(help="Training samples.")] = 64,
    val: Annotated[int, typer.Option(help="Validation samples.")] = 16,
    test: Annotated[int, typer.Option(help="Test samples.")] = 16,
    size: Annotated[int, typer.Option(help="Height and width of the images in pixels.")] = 96,
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn.")] = 0,
    quirks: Annotated[bool, typer.Option(help="Include the known defects of the published files.")] = False,
    as_json: AsJson = False,
) -> None:
    """Generate a miniature of a dataset in its own layout, in which no sentence or modality can be left out."""
    from harness.data.base import DATASETS, SyntheticConfig
    from harness.data.synthetic import ensure_synthetic

    dataset = DATASETS.get(name)
    config = SyntheticConfig(train=train, val=val, test=test, size=size, seed=seed, quirks=quirks)
    folder = ensure_synthetic(name, root, config)
    counts = dataset(folder).check().counts
    if as_json:
        print_json({"dataset": name, "folder": str(folder), "counts": dict(counts)})
    else:
        say(f"{name}: {' + '.join(str(count) for count in counts.values())} samples in {folder}")
