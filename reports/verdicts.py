"""Verdicts on published figures: what our replicates of the same method say of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.metrics import Metric, metric
from harness.records import Plan, Row
from reports.captions import join_words, split_label
from reports.cells import show_value
from reports.equivalence import MARGIN, Equivalence, Verdict, equivalence
from reports.published import Published, PublishedRow
from reports.row_scores import RowScores


@dataclass(frozen=True)
class Judge:
    """Compares published figures with our rows of the same method."""

    plan: Plan
    rows: Sequence[Row]
    scores: RowScores
    published: Published

    def of(self, quoted: PublishedRow, metric_name: str) -> Equivalence | None:
        """Verdict on a figure of a published row; None where none of our rows is the same method or has a score."""
        ours = next((row for row in self.rows if quoted.matches(self.plan.trial(row.trial_ids[0]))), None)
        if ours is None or metric_name not in quoted.scores:
            return None
        score = self.scores.of(ours, split=quoted.split, metric_name=metric_name)
        if score is None:
            return None
        return equivalence(
            score.found.values.tolist(),
            quoted.scores[metric_name] / metric(metric_name).scale,
            comparable=self.published.is_comparable(quoted, self.plan.trial(ours.trial_ids[0])),
        )

    def notes(self, quoted: Iterable[PublishedRow], metric_name: str) -> list[str]:
        """A sentence per split on a metric of published rows, and one that says what the verdicts mean."""
        found: dict[str, dict[str, list[str]]] = {}
        shown = metric(metric_name)
        for row in quoted:
            verdict = self.of(row, metric_name)
            if verdict is not None:
                found.setdefault(row.split, {}).setdefault(verdict.verdict, []).append(_named(row, verdict, shown))
        notes = [_sentence(split, of_split, shown) for split, of_split in found.items()]
        given = {verdict for of_split in found.values() for verdict in of_split}
        return [*notes, _meaning(given, shown)] if notes else []


def _named(row: PublishedRow, found: Equivalence, shown: Metric) -> str:
    if found.difference is None or found.verdict is Verdict.NOT_COMPARABLE:
        return row.label
    return f"{row.label} ({show_value(found.difference, shown, signed=True)})"


def _sentence(split: str, of_split: Mapping[str, Sequence[str]], shown: Metric) -> str:
    listed = "; ".join(f"{verdict}: {join_words(labels)}" for verdict, labels in of_split.items())
    return f"Ours less published, {shown.label} on {split_label(split)}: {listed}."


def _meaning(given: Iterable[str], shown: Metric) -> str:
    margin = f"{MARGIN * shown.scale:.{shown.decimals}f}"
    meanings = {
        Verdict.REPRODUCED: f"reproduced: equal within {margin} (two one-sided t tests over replicates, 5 %)",
        Verdict.WITHIN_NOISE: "within replicate noise: not shown to be equal, but one more replicate could give it",
        Verdict.NOT_REPRODUCED: f"not reproduced: neither equal within {margin} nor what one more replicate could give",
        Verdict.NOT_COMPARABLE: "not comparable: obtained under another protocol, or under one that is not known",
        Verdict.UNDECIDED: "undecided: fewer than two replicates",
    }
    said = "; ".join(text for verdict, text in meanings.items() if verdict in set(given))
    return f"{said[:1].upper()}{said[1:]}."
