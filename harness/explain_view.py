"""What `harness explain` prints: the figure, then one paragraph per replicate."""

from __future__ import annotations

from collections.abc import Iterator

from harness.canonical import canonical_json
from harness.explain import Explanation, Replicate
from reports.origins import origin_facts


def explanation_lines(found: Explanation) -> Iterator[str]:
    """The explanation, line by line."""
    delta = "Δ " if found.is_delta else ""
    yield f"{found.table} : {found.row} : {delta}{found.metric} on {found.split}"
    yield f"  shown      {found.shown or found.state}  ({found.state}, n = {found.n} of {found.expected_n})"
    if found.interval is not None:
        yield f"  interval   {found.interval[0]:.6g} to {found.interval[1]:.6g} (95 %, stored unit)"
    if found.p is not None:
        yield f"  p          {found.p:.4g} (corrected)"
    if found.source:
        yield f"  source     {found.source}"
    if found.verdict:
        yield f"  verdict    {found.verdict}"
    if found.reference and not found.source:
        changes = ", ".join(f"{path} = {canonical_json(value)}" for path, value in found.changes.items())
        yield f"  differs    {changes or 'in nothing'}  (from {found.reference})"
    for replicate in found.replicates:
        yield from _replicate_lines(replicate)
    if found.replicates:
        yield (
            "stale: code, data or configuration changed since it ran"
            if found.is_stale
            else "no change is known since it ran"
        )


def _replicate_lines(one: Replicate) -> Iterator[str]:
    value = "" if one.value is None else f"  {one.value:.10g}"
    yield f"{one.row} #{one.replicate}  trial {one.trial_id}  {one.state}{value}"
    known = origin_facts(one)
    if one.log and not one.log_is_here:
        known["log"] += " (not on this machine)"
    page = {"failed": one.cause, "run": f"{one.run_id}  {one.page}"} if one.run_id else {}
    facts = {**page, **known}
    yield from (f"  {name:10} {value}" for name, value in facts.items() if value)
    yield from (f"  {'STALE':10} {text}" for text in one.stale)
    yield from (f"  {'note':10} {text}" for text in one.also)
