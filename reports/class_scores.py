"""Scores of single classes, as the results frame names them, and over how many classes a mean was taken."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from reports.captions import split_label
from reports.evidence import Evidence

IOU = "iou."
"""`iou.water` is the IoU of the class with the slug `water`."""

AVERAGED = "classes_averaged"
"""Stored with each split: the number of classes that occur in it, over which its means are."""

CLASS_MEANS = frozenset({"mpa", "miou", "mf1"})
"""Metrics that are a mean over classes."""


def class_slugs(evidence: Collection[Evidence], split: str | None = None) -> list[str]:
    """Slugs of the classes that have an IoU, alphabetical: on one split, or on any of them."""
    keys = {key for e in evidence for key in e.scores}
    return sorted({m.removeprefix(IOU) for s, m in keys if m.startswith(IOU) and split in (None, s)})


def averaging_notes(evidence: Mapping[str, Evidence], splits: Collection[str], metrics: Collection[str]) -> list[str]:
    """A sentence for each split whose means are not over all classes that have a score somewhere."""
    if not CLASS_MEANS & set(metrics):
        return []
    known = len(class_slugs(evidence.values()))
    notes = []
    for split in splits:
        counts = {round(e.scores[split, AVERAGED]) for e in evidence.values() if (split, AVERAGED) in e.scores}
        if not counts or counts == {known} or (len(counts) == 1 and max(counts) > known):
            continue
        few, many = min(counts), max(counts)
        over = f"{few}" if few == many else f"{few} to {many}, not the same in all runs,"
        notes.append(
            f"Means over classes on {split_label(split)} are over {over} of {max(known, many)} classes: "
            "those that occur there."
        )
    return notes
