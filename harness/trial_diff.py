"""What two trials differ in: everything that can change a result, then what they ran on and with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from harness.canonical import canonical_json, flatten
from harness.records import Trial

ABSENT = "-"
"""Shown for a side that has no such entry."""


@dataclass(frozen=True)
class Difference:
    """An entry whose values differ."""

    path: str
    """Dotted, for example `model.backbone.depths`."""
    first: str
    """JSON of the value, or `-` where this side has no such entry."""
    second: str


@dataclass(frozen=True)
class TrialDiff:
    """What two trials differ in."""

    configuration: tuple[Difference, ...]
    """In what can change the result; empty for the same trial."""
    circumstances: tuple[Difference, ...]
    """In what must not change it: resources, checkpoints, code, versions, machine."""

    def to_json(self) -> dict[str, Any]:
        """Both parts as lists of `path`, `first`, `second`."""
        return {name: [asdict(d) for d in found] for name, found in vars(self).items()}


def diff_trials(first: Trial, second: Trial, *, about: tuple[Mapping[str, Any], Mapping[str, Any]]) -> TrialDiff:
    """Compare two trials.

    Args:
        first: One of them.
        second: The other.
        about: Of each, what else is known: its commit, its environment.
    """
    outside = ("data_root", "resources", "checkpoints")
    around = [{k: v for k, v in trial.to_json().items() if k in outside} for trial in (first, second)]
    return TrialDiff(
        configuration=differences(first.identity, second.identity),
        circumstances=differences({**around[0], **about[0]}, {**around[1], **about[1]}),
    )


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[Difference, ...]:
    """Entries whose values differ, in the order in which they stand in `first`, then in `second`."""
    sides = flatten(first), flatten(second)
    found = []
    for path in {**sides[0], **sides[1]}:
        left, right = (canonical_json(side[path]) if path in side else ABSENT for side in sides)
        if left != right:
            found.append(Difference(path, left, right))
    return tuple(found)


def environment_of(folder: Path) -> dict[str, Any]:
    """What a trial ran on, as its folder remembers it; empty where it does not."""
    try:
        found = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {f"environment.{key}": value for key, value in found.items()}


def render_diff(diff: TrialDiff, names: tuple[str, str]) -> RenderableType:
    """The differences side by side.

    Args:
        diff: What differs.
        names: How the two trials are called at the top.
    """
    if not diff.configuration and not diff.circumstances:
        return Text("the same configuration, under the same circumstances as far as is known")
    parts: list[RenderableType] = []
    if not diff.configuration:
        parts.append(Text("the same configuration"))
    headings = ("what can change the result", "what must not change it")
    for heading, found in zip(headings, (diff.configuration, diff.circumstances), strict=True):
        if found:
            grid = Grid(box=None, padding=(0, 2, 0, 0), header_style="dim")
            for name in ("", *names):
                grid.add_column(Text(name), overflow="fold")
            for entry in found:
                grid.add_row(Text(entry.path), Text(entry.first, style="red"), Text(entry.second, style="green"))
            parts += [Text(heading, style="bold"), Padding(grid, (0, 0, 0, 2))]
    return Group(*parts)
