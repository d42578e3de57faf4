"""What the words around a table say: captions, heads, footnote marks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.metrics import Metric, metric
from harness.records import CONTROL_SUFFIX, Plan, Table
from reports.costs import MEANING

DAGGERS = ("†", "‡", "§", "¶")
"""Marks of doubtful figures, in the order of use; doubled when all are taken."""

SPLITS = {"train": "training", "val": "validation", "test": "test"}


def split_label(split: str) -> str:
    """A split in words: `val` is validation."""
    if split.endswith(CONTROL_SUFFIX):
        return f"{split_label(split.removesuffix(CONTROL_SUFFIX))}, sentences shuffled"
    return SPLITS.get(split, split)


def metric_head(name: str) -> str:
    """Column head of a metric with the arrow of its direction."""
    shown = metric(name)
    return f"{shown.label} {'↑' if shown.higher_is_better else '↓'}"


def letter_mark(index: int) -> str:
    """Mark of the remark of that index from 0: a, b, ..., z, aa, ab, ..."""
    head, tail = divmod(index, 26)
    return (letter_mark(head - 1) if head else "") + chr(ord("a") + tail)


def dagger_mark(index: int) -> str:
    """Mark of the doubt of that index from 0: †, ‡, §, ¶, ††, ..."""
    times, symbol = divmod(index, len(DAGGERS))
    return DAGGERS[symbol] * (times + 1)


def join_words(words: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    found = list(words)
    return " and ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found)


def write_caption(plan: Plan, table: Table, *, delta: str | None, quotes: bool) -> str:
    """Caption of a table: what is shown, how it was aggregated, how to read it.

    Args:
        plan: The plan the table belongs to.
        table: The table.
        delta: Head of the difference column and label of the reference, in words; None without that column.
        quotes: Whether published figures are shown.
    """
    replicates = max((len(row.trial_ids) for row in table.rows), default=0)
    parts = [_opening(plan, table), _aggregation(replicates), *_meanings([metric(m) for m in table.metrics])]
    if delta:
        parts.append(delta)
    if table.costs:
        parts.append(MEANING)
    if quotes:
        parts.append("Published figures are quoted from their sources and take no part in the ranking.")
    return " ".join(parts)


def _opening(plan: Plan, table: Table) -> str:
    if table.caption:
        return table.caption.rstrip(".") + "."
    of = "" if table.group == table.kind else f" of {table.group}"
    datasets = dict.fromkeys(str(t.data["name"]) for t in plan.trials if "name" in t.data)
    on = f" on {join_words(datasets)}" if datasets else ""
    splits = join_words(split_label(s) for s in table.splits)
    return f"{table.kind.capitalize()}{of}{on}, {splits} (study “{plan.study}”)."


def _aggregation(replicates: int) -> str:
    if replicates < 2:
        return "One replicate: no spread is known, and nothing is set in bold."
    return (
        f"Mean ± std over n = {replicates} replicates; of our rows with at least two, "
        "the best of a column is bold, the second underlined."
    )


def _meanings(metrics: Sequence[Metric]) -> list[str]:
    shares = any(m.name[0] == "p" and m.name[1:].isdigit() for m in metrics)
    names = {m.name for m in metrics}
    meanings = ["P@X is the share of samples with IoU of at least X"] if shares else []
    meanings += ["oIoU the summed intersection over the summed union"] if "oiou" in names else []
    meanings += ["mIoU the mean IoU over samples"] if "miou" in names else []
    if not meanings:
        return []
    if not shares:
        meanings[0] = meanings[0].replace(" the", " is the", 1)
    units = join_words(dict.fromkeys(m.unit for m in metrics))
    return [f"{join_words(meanings)}; all in {units}."]
