"""What the words around a table say: captions, heads, footnote marks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from harness.metrics import metric
from harness.records import CONTROL_SUFFIX, Plan, Stress, Table
from reports.costs import MEANING

DAGGERS = ("†", "‡", "§", "¶")
"""Marks of doubtful figures, in the order of use; doubled when all are taken."""

MEANINGS: Mapping[str, Mapping[str, str]] = {
    "referring": {
        "oiou": "the summed intersection over the summed union",
        "miou": "the mean IoU over samples",
    },
    "semantic": {
        "oa": "the share of pixels that are right",
        "mpa": "the mean recall over classes",
        "miou": "the mean IoU over classes",
        "fwiou": "the IoU of classes weighted by their pixels",
        "mf1": "the mean F1 over classes",
        "kappa": "the agreement beyond chance",
    },
}
"""Task -> metric -> what it is, in the order in which captions say it."""

SPLITS = {"train": "training", "val": "validation", "test": "test"}


def split_label(split: str) -> str:
    """A split in words: `val` is validation."""
    if split.endswith(CONTROL_SUFFIX):
        return f"{split_label(split.removesuffix(CONTROL_SUFFIX))}, sentences shuffled"
    stress = Stress.of_split(split)
    if stress:
        return f"{split_label(split.partition('-')[0])}, {_stress_words(stress)}"
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


def as_sentence(text: str) -> str:
    """A remark on one line with a capital at its front and one full stop at its end."""
    line = " ".join(text.split()).rstrip(".")
    return f"{line[:1].upper()}{line[1:]}."


def counted_label(label: str, *, n: int, expected: int) -> str:
    """The label of a row, with `(n=2/3)` where some replicates are missing."""
    return label if n == expected else f"{label} (n={n}/{expected})"


def replicates_words(expected: Iterable[int]) -> str:
    """Over how many replicates rows are, of each of which the study wants so many."""
    most = max(expected, default=0)
    return "one replicate" if most == 1 else f"n = {most} replicates"


def mean_words(expected: Iterable[int], *, mark: str, spread: str) -> str:
    """What a mark of a figure and the mark of its spread stand for: a mean and a standard deviation over replicates."""
    over = replicates_words(expected)
    if over == "one replicate":
        return f"A {mark} is one replicate: no spread is known."
    return f"A {mark} is the mean over {over}, a {spread} one standard deviation."


def write_caption(plan: Plan, table: Table, *, delta: str | None, quotes: bool, tested: str) -> str:
    """Caption of a table: what is shown, how it was aggregated, how to read it.

    Args:
        plan: The plan the table belongs to.
        table: The table.
        delta: Head of the difference column and label of the reference, in words; None without that column.
        quotes: Whether published figures are shown.
        tested: What the tests rest on, as `reports.comparison_notes.tested_on` says it; empty where nothing was.
    """
    replicates = max((len(row.trial_ids) for row in table.rows), default=0)
    parts = [_opening(plan, table), aggregation(replicates, of="column", tested=tested), *_meanings(plan, table)]
    if delta:
        parts.append(delta)
    if table.costs:
        parts.append(MEANING)
    if quotes:
        parts.append("Published figures are quoted from their sources and take no part in the ranking.")
    if plan.data_note:
        parts.append(as_sentence(plan.data_note))
    return " ".join(parts)


def _opening(plan: Plan, table: Table) -> str:
    if table.caption:
        return table.caption.rstrip(".") + "."
    of = "" if table.group == table.kind else f" of {table.group}"
    datasets = dict.fromkeys(str(t.data["name"]) for t in plan.trials if "name" in t.data)
    on = f" on {join_words(datasets)}" if datasets else ""
    labels = [split_label(s) for s in table.splits]
    splits = "; ".join(labels) if any("," in label for label in labels) else join_words(labels)
    return f"{table.kind.capitalize()}{of}{on}, {splits} (study “{plan.study}”)."


def aggregation(replicates: int, *, of: str, tested: str) -> str:
    """How the figures were obtained and what is set in bold: the replicates, the test, its correction.

    Args:
        replicates: The most that a row has.
        of: What is compared, `column` or `row`.
        tested: What the tests rest on; empty where nothing was tested.
    """
    if replicates < 2:
        return "One replicate: no spread is known, nothing is tested, and nothing is set in bold."
    if not tested:
        return (
            f"Mean over n = {replicates} replicates, with ± std where two are finished. No two "
            f"{'rows' if of == 'column' else 'columns'} have that many: nothing is tested, and nothing is set in bold."
        )
    return (
        f"Mean ± std over n = {replicates} replicates. Bold marks all that cannot be told from the best of a {of}, and "
        f"only where something else can (paired t tests over {tested}; pooled spread; Holm's correction over all "
        f"pairs of a {of}; 5 %)."
    )


def _meanings(plan: Plan, table: Table) -> list[str]:
    """What each metric of a table is; mIoU is one thing per sample and another per class."""
    names = set(table.metrics)
    shares = any(metric(name).threshold is not None for name in names)
    clauses = ["P@X is the share of samples with IoU of at least X"] if shares else []
    of_task = MEANINGS["semantic" if any(t.task == "semantic" for t in plan.trials) else "referring"]
    for name in (n for n in of_task if n in names):
        clauses.append(f"{metric(name).label} {'' if clauses else 'is '}{of_task[name]}")
    if of_class := [metric(name).label for name in table.metrics if "." in name]:
        clauses.append(f"{', '.join(of_class)} {'' if clauses else 'is '}the score of one class alone")
    if not clauses:
        return []
    units = join_words(dict.fromkeys(metric(name).unit for name in table.metrics))
    return [f"{join_words(clauses)}; all in {units}."]


def _stress_words(stress: Stress) -> str:
    if stress.kind == "drop":
        return f"without {stress.modality}"
    if stress.kind == "shift":
        return f"{stress.modality} shifted by {stress.level:g} px"
    if stress.kind == "noise":
        deviations = "deviation" if stress.level == 1 else "deviations"
        return f"noise of {stress.level:g} standard {deviations} on {stress.modality}"
    return f"{stress.kind} of {stress.level:g} on {stress.modality}"
