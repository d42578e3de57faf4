"""Tests in words: what they rest on, what their marks mean, which columns have no best row, and every p."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from harness.metrics import metric
from reports.captions import join_words, split_label
from reports.cells import MINUS
from reports.comparisons import Judged, Shown
from reports.row_scores import MIN_UNITS
from reports.significance import ALPHA, Comparison
from reports.table_model import TEST_MARKS, Cell, Flag, Footnote, TableRow

_HIGHER = {
    Flag.UNTESTED: "A better mean than the best row's, and not compared with it for lack of replicates",
    Flag.WORSE: "A better mean than the best row's, and worse on the replicates that both have",
}

MAX_LISTED = 12
"""Differences of a split whose p a footnote lists; of more, the CSV does."""


def tested_on(cells: Collection[Cell]) -> str:
    """What intervals and tests of a table rest on: replicates, and test samples where they are at hand.

    Empty where nothing was tested, because no two rows have the replicates that a test takes.
    """
    known = [c for c in cells if c.interval is not None]
    rows: dict[tuple[str, str], set[tuple[str, ...]]] = {}
    for cell in known:
        rows.setdefault((cell.split, cell.metric), set()).add(cell.trial_ids)
    if all(len(of_column) < 2 for of_column in rows.values()):
        return ""
    return rests_on((Flag.REPLICATES_ONLY not in c.flags, Flag.BLOCKED in c.flags) for c in known)


def tests_on(comparisons: Iterable[Comparison]) -> str:
    """The same of some comparisons."""
    return rests_on((c.on_samples, c.blocked) for c in comparisons)


def rests_on(tests: Iterable[tuple[bool, bool]]) -> str:
    """The same, from whether test samples take part in each test, and whether they come in blocks."""
    known = list(tests)
    drawn = "test scenes" if any(blocked for _, blocked in known) else "test samples"
    if not any(on_samples for on_samples, _ in known):
        return f"replicates alone (no results of at least {MIN_UNITS} {drawn} are at hand)"
    if not all(on_samples for on_samples, _ in known):
        return f"replicates and, where results of at least {MIN_UNITS} of them are at hand, {drawn}"
    return f"replicates and {drawn}"


def alike_notes(cells: Collection[Cell]) -> list[str]:
    """A sentence on the columns in which nothing is bold because no row can be told from the best."""
    columns: dict[str, dict[str, None]] = {}
    for cell in cells:
        if Flag.ALL_ALIKE in cell.flags:
            columns.setdefault(cell.split, {})[metric(cell.metric).label] = None
    found = [f"{join_words(labels)} on {split_label(split)}" for split, labels in columns.items()]
    return [f"No row can be told from the best, and none is bold: {'; '.join(found)}."] if found else []


def higher_notes(rows: Iterable[TableRow]) -> list[str]:
    """A sentence on rows whose mean is better than the best one's and that are not bold."""
    found: dict[Flag, dict[str, list[str]]] = {flag: {} for flag in _HIGHER}
    for row in rows:
        for cell in row.cells:
            for flag in found.keys() & cell.flags:
                where = f"{metric(cell.metric).label} on {split_label(cell.split)}"
                found[flag].setdefault(f"“{row.label}”", []).append(where)
    listed = {flag: [f"{label} ({', '.join(where)})" for label, where in of.items()] for flag, of in found.items()}
    return [f"{text}: {'; '.join(listed[flag])}." for flag, text in _HIGHER.items() if listed[flag]]


def mark_footnotes(judged: Mapping[Shown, Judged]) -> tuple[Footnote, ...]:
    """What the marks behind differences mean."""
    tested = [j for j in judged.values() if j.p is not None]
    differences = "the one difference" if len(tested) == 1 else f"the {len(tested)} differences"
    texts = {
        Flag.DIFFERS: f"Differs from the reference: p < {ALPHA:g} after Holm's correction for {differences} shown.",
        Flag.NOT_SIGNIFICANT: "Not significant: cannot be told from the reference at that level.",
    }
    found = {Flag.DIFFERS if j.differs else Flag.NOT_SIGNIFICANT for j in tested}
    if found == {Flag.NOT_SIGNIFICANT}:
        level = f"p ≥ {ALPHA:g} after Holm's correction for {differences} shown"
        texts[Flag.NOT_SIGNIFICANT] = f"Not significant: cannot be told from the reference, {level}."
    return tuple(Footnote(TEST_MARKS[flag], text) for flag, text in texts.items() if flag in found)


def delta_notes(judged: Mapping[Shown, Judged], labels: Mapping[str, str], *, metric_name: str) -> list[str]:
    """Per split the tests of every difference: corrected p, p of the exact test over replicates, effect size.

    Args:
        judged: Differences of that metric.
        labels: Variant -> label of its row.
        metric_name: What differences are of.
    """
    notes = []
    for split in dict.fromkeys(shown.split for shown in judged):
        of_split = {labels[of.variant]: j for of, j in judged.items() if of.split == split and j.p is not None}
        if not of_split or len(of_split) > MAX_LISTED:
            continue
        listed = "; ".join(f"{label}: {_tests(found)}" for label, found in of_split.items())
        what = f"Δ {metric(metric_name).label} on {split_label(split)}"
        notes.append(f"{what}, corrected p, exact sign-flip p and effect size d: {listed}. {_least(of_split)}")
    return notes


def show_p(p: float) -> str:
    """A p with three decimals, or that it is smaller."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def stated_p(p: float) -> str:
    """The same as a statement: `p = 0.012`, `p < 0.001`."""
    return f"p {show_p(p)}" if p < 0.001 else f"p = {show_p(p)}"


def _tests(judged: Judged) -> str:
    flips, effect = judged.comparison.sign_flip, judged.comparison.effect
    known = [show_p(p) for p in (judged.p, flips.p if flips else None) if p is not None]
    return ", ".join([*known, "–" if effect is None else f"{effect:.1f}".replace("-", MINUS)])


def _least(of_split: Mapping[str, Judged]) -> str:
    found = {j.comparison.replicates: j.comparison.sign_flip for j in of_split.values()}
    least = [f"{show_p(flips.smallest)} with {n} replicates" for n, flips in sorted(found.items()) if flips]
    return f"The sign-flip test cannot give less than {join_words(least)}."
