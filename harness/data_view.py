"""What `harness data check` prints: one screen, whatever the number of problems."""

from __future__ import annotations

import os
from collections.abc import Sequence

from pydantic import ValidationError

from harness.data.base import DataReport, DatasetInfo, options_schema, read_options
from harness.errors import HarnessError
from harness.overrides import apply_override
from harness.spec_errors import problems
from harness.spec_part import Json
from harness.yaml_lines import Document

MAX_NAMED = 5


def chosen_options(name: str, overrides: Sequence[str]) -> Json:
    """Options of a dataset as `data.options` of a study would hold them, from `option=value` texts.

    Raises:
        HarnessError: The dataset has no such option, or does not take the value.
    """
    document = Document("options")
    for text in overrides:
        apply_override(document, text, os.environ)
    try:
        chosen = read_options(name, document.value)
    except ValidationError as error:
        raise document.first_error(problems(error, options_schema(name))) from None
    if chosen is None and overrides:
        raise HarnessError(f"--set must be left out, {name} has no options; received {overrides[0]!r}")
    found: Json = document.value
    return found


def problem_lines(info: DatasetInfo, report: DataReport) -> list[str]:
    """Counts per split beside the published ones, then one line per kind of problem with the first samples named."""
    lines = [f"{info.title}: {sum(report.counts.values())} samples"]
    for split, count in report.counts.items():
        expected = info.expected.get(split)
        published = "" if expected is None else f"  (published: {expected})"
        lines.append(f"  {split:6}{count:7}{published}")
    for kind, samples in report.problems.items():
        named = ", ".join(samples[:MAX_NAMED])
        more = f" and {len(samples) - MAX_NAMED} more" if len(samples) > MAX_NAMED else ""
        lines.append(f"  {kind}: {len(samples)}" + (f"  ({named}{more})" if samples else ""))
    return lines + [f"  note: {note}" for note in report.notes]
