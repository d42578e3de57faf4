"""`harness rebuild`: the report of an archive, made from its own records and compared with the one packed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from harness.packed import REPORT, PackedArtifacts, read_frame, read_pack, read_plan
from harness.records import Plan
from reports.artifacts import NoPanels, Sources
from reports.build import ReportFiles, build_report
from reports.page_parts import Background
from reports.results import Results

DRAWN = (".png", ".pdf", ".html")
"""Files whose bytes hang on the versions of what draws them: fonts, TeX, matplotlib."""
MAX_SHOWN = 100
"""Characters of a line that a difference shows."""


@dataclass(frozen=True)
class Compared:
    """A file of the report, as packed and as built again."""

    name: str
    is_equal: bool
    is_drawn: bool
    """Whether it may differ where programs that draw have other versions."""
    difference: str = ""
    """What differs first."""


def report_from(folder: Path, plan: Plan, target: Path) -> ReportFiles:
    """Build the report of an unpacked archive; neither store, data, GPU nor network is asked."""
    left = PackedArtifacts(folder)
    (study,) = (path for path in (folder / "study").iterdir() if path.suffix in (".yaml", ".yml"))
    background = Background(
        traceback=left.traceback, versions=left.versions, study_text=study.read_text(encoding="utf-8")
    )
    results = Results(plan, read_frame(folder), Sources(left, NoPanels()))
    return build_report(results, target, published_dir=folder / "study" / "published", background=background)


def rebuild(folder: Path, target: Path) -> tuple[Compared, ...]:
    """Build the report of an unpacked archive again and compare it with the one that is in it.

    Args:
        folder: The archive, unpacked and checked.
        target: Folder to write the report to.

    Raises:
        HarnessError: The report cannot be built.
    """
    report_from(folder, read_plan(folder), target)
    return tuple(_compare(folder / REPORT, target))


def _compare(packed: Path, made: Path) -> Iterator[Compared]:
    for path in sorted(p for p in packed.rglob("*") if p.is_file()):
        name = path.relative_to(packed)
        before, now = path.read_bytes(), (made / name).read_bytes() if (made / name).is_file() else None
        is_drawn = path.suffix in DRAWN
        if now is None:
            yield Compared(name.as_posix(), False, is_drawn, "not made here")
        elif now == before:
            yield Compared(name.as_posix(), True, is_drawn)
        else:
            yield Compared(name.as_posix(), False, is_drawn, "" if is_drawn else _first_difference(before, now))


def _first_difference(before: bytes, now: bytes) -> str:
    texts = [data.decode(errors="replace").splitlines() for data in (before, now)]
    for number, (old, new) in enumerate(zip_longest(*texts, fillvalue=""), start=1):
        if old != new:
            return f"line {number}: {old.strip()[:MAX_SHOWN]!r} -> {new.strip()[:MAX_SHOWN]!r}"
    return "line ends"


def other_versions(folder: Path, now: dict[str, str]) -> list[str]:
    """Packages whose versions are not those that the archive was made with, one line each."""
    before = read_pack(folder)["versions"]
    return [f"{name} {before[name]}, here {now.get(name, 'none')}" for name in before if before[name] != now.get(name)]
