"""What `harness data check` prints: one screen, whatever the number of problems."""

from __future__ import annotations

from harness.data.base import DataReport, DatasetInfo

MAX_NAMED = 5


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
