"""The text that MLflow shows on top of a trial's run: how it ended, with which scores, or why not."""

from __future__ import annotations

from harness.records import Trial, TrialResult, TrialState

MAX_SCORES = 24
MAX_LINES = 30
MAX_ERROR = 2500
"""Characters of a traceback; a note has room for 8,000."""


def note_of(trial: Trial, result: TrialResult) -> str:
    """Markdown."""
    parts = [f"**{trial.variant}, replicate {trial.replicate}**: {_ending(result)}"]
    if result.scores:
        lines = ["| split | metric | value |", "|---|---|---:|"]
        lines += [f"| {s.split} | {s.metric} | {s.value:.4f} |" for s in result.scores[:MAX_SCORES]]
        if len(result.scores) > MAX_SCORES:
            lines.append(f"| ... | {len(result.scores) - MAX_SCORES} more | |")
        parts.append("\n".join(lines))
    if result.notes:
        parts.append("\n".join(f"- {key.replace('_', ' ')}: {value}" for key, value in result.notes.items()))
    if result.error:
        last = "\n".join(result.error.strip().splitlines()[-MAX_LINES:])
        parts.append(f"```text\n{last[-MAX_ERROR:]}\n```")
    if result.checkpoint:
        parts.append(f"Weights: `{result.checkpoint}`")
    return "\n\n".join(parts)


def _ending(result: TrialResult) -> str:
    if result.state is TrialState.FAILED:
        return f"failed, {result.fault}"
    if result.state is TrialState.PRUNED:
        return "stopped early, because others were better"
    seconds = result.cost.get("train_s")
    trained = "" if seconds is None else f", trained for {_duration(seconds)}"
    return f"complete, weights of epoch {result.best_epoch}{trained}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
