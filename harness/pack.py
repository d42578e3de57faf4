"""`harness pack`: everything that a study's tables rest on, in one archive with the same bytes every time.

The report in the archive is made from the archive's own records, and its tables must be those of the store: what cannot
be rebuilt is not packed.
"""

from __future__ import annotations

import gzip
import hashlib
import shutil
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from harness.artifacts import MlflowArtifacts
from harness.environment import versions
from harness.errors import HarnessError, nearest
from harness.faults import TRACEBACK
from harness.frozen_code import code_files, code_sha, hash_files
from harness.packed import (
    CURVES,
    FORMAT,
    FRAME,
    PACK,
    PLAN,
    REPORT,
    RUN,
    RUNS,
    plan_to_json,
    write_sums,
)
from harness.private_paths import Private
from harness.rebuild import report_from
from harness.records import Plan, Row, Table, Trial, TrialState
from harness.trial_folder import write_json
from reports.artifacts import NoPanels, Sources
from reports.evidence import Evidence, collect_evidence
from reports.latex import Origin, render_table
from reports.published import load_published
from reports.results import Results
from reports.tables import build_table

DOCUMENTS = ("trial.json", "code.json", "environment.json", "seeds.json", "data.json")
"""JSON files of a run that are packed where it left them."""
LEFT_OUT = ("host",)
"""What `environment.json` says of a machine that a reader need not know."""
NOT_PACKED = ("harness.run_key", "harness.checkpoint")
"""Tags that name places of the machine, or nothing outside the store."""
PICTURES = ("qualitative", "feature_maps")
"""Figures that show images of the dataset."""
SUFFIX = ".tar.gz"
README = """\
# {tables} of study "{study}"

{question}

Written by `harness pack`: what these tables rest on. Data, weights, predicted masks and feature maps are not in it.

| | |
|---|---|
| `report/` | the tables, figures and numbers |
| `study/`, `plan.json` | what was asked, and the trials that answer it |
| `results.parquet` | every score and cost of every run |
| `runs/` | per run: configuration, environment, hashes of its code, per-sample results, learning curves |
| `code/` | `{code}` made the report; {trial_codes} |
| `constraints.txt` | versions of packages |

Build the tables again from these records, without GPU, store, data or network, and compare them with `report/`:

```
sha256sum --check --quiet SHA256SUMS
pip install -r constraints.txt
PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=code/{code} python -m harness rebuild .
```

Train one trial of a random cell again, with the code that it ran, and compare its scores with the packed ones. Data
that was not generated must be in a folder named by `--data-root`, with the fingerprint {fingerprints}:

```
PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=code/{code} python -m harness rebuild . --retrain random --seed 0
```
{notes}"""


@dataclass(frozen=True)
class Source:
    """A study and where its records are."""

    plan: Plan
    """Settled."""
    spec: Path
    """Its file."""
    overrides: Sequence[str]
    """What the command line changed of it."""
    storage: Path
    frame: pd.DataFrame
    """Results frame."""
    artifacts: MlflowArtifacts


@dataclass(frozen=True)
class Packed:
    """What was packed."""

    path: Path
    sha256: str
    tables: tuple[str, ...]
    runs: int
    size_mib: float
    notes: tuple[str, ...]
    """What a reader must know that is not in it."""


def pack(source: Source, table: str | None, target: Path) -> Packed:
    """Write an archive.

    Args:
        source: The study.
        table: Name of the table to pack; None for all.
        target: File to write, replaced if it is there; its name ends in `.tar.gz`.

    Raises:
        HarnessError: No such table, none of its trials is complete, or what is packed does not give the same table.
    """
    if not target.name.endswith(SUFFIX):
        raise HarnessError(f"--out must name a file that ends in {SUFFIX}, got {target.name!r}")
    plan = _narrowed(source.plan, table)
    found = collect_evidence(source.frame, [trial.id for trial in plan.trials])
    if all(e.state is not TrialState.COMPLETE for e in found.values()):
        what = f"of table {table}" if table else f"of study {plan.study}"
        states = f"{len(found)} have a run, none is complete" if found else "none has a run"
        raise HarnessError(
            f"a table must have a complete trial to be packed, of the {len(plan.trials)} trials {what} {states}; "
            f"`harness run {source.spec}` first"
        )
    _require_file(target)
    private = Private.of(source.storage, source.spec, [trial.data_root for trial in plan.trials])
    drawn = tuple(name for name in plan.figures if name not in PICTURES)
    clean = replace(plan, figures=drawn, trials=tuple(private.trial(trial) for trial in plan.trials))
    with TemporaryDirectory(prefix="harness-pack-") as scratch:
        folder = Path(scratch)
        notes = _pack_code(folder, source, found.values())
        _pack_records(folder, clean, source, found, private)
        _pack_study(folder, clean, source, private)
        report = report_from(folder, clean, folder / REPORT)
        report.manifest.unlink()  # hashes of drawn files, too
        notes += [f"no figure {name}: it shows images" for name in plan.figures if name in PICTURES]
        notes += report.notes
        _require_equal(source, plan, folder / REPORT)
        about = {**_about(clean, source, found, private), "notes": notes}
        write_json(folder / PACK, about)
        (folder / "README.md").write_text(_readme(clean, about), encoding="utf-8")
        notes += private.left_in(folder)
        write_sums(folder)
        _write_archive(folder, target)
    data = target.read_bytes()
    names = tuple(t.name for t in plan.tables)
    return Packed(
        target, hashlib.sha256(data).hexdigest(), names, len(found), len(data) / 2**20, tuple(dict.fromkeys(notes))
    )


def _narrowed(plan: Plan, name: str | None) -> Plan:
    """The plan with one table only, and with the one that has its reference if it has none itself.

    Raises:
        HarnessError: No table of that name.
    """
    if name is None:
        return plan
    table = next((t for t in plan.tables if t.name == name), None)
    if table is None:
        hint = nearest(name, (t.name for t in plan.tables))
        raise HarnessError(f"TABLE must be one of study {plan.study!r}, got {name!r}; {hint}")
    reference = plan.reference(table)
    kept = [table] if reference is None or reference in table.rows else [table, _table_of(plan, reference)]
    ids = {trial_id for t in kept for row in t.rows for trial_id in row.trial_ids}
    names = {t.name for t in kept}
    return replace(
        plan,
        tables=tuple(kept),
        trials=tuple(t for t in plan.trials if t.id in ids),
        skipped=tuple(s for s in plan.skipped if s.table in names),
    )


def _table_of(plan: Plan, row: Row) -> Table:
    return next(table for table in plan.tables if row in table.rows)


def _codes(source: Source, found: Iterable[Evidence]) -> dict[str, str]:
    """Run -> hash of the code that it ran, as far as it is recorded."""
    runs = {e.run_id for e in found}
    of = source.frame.drop_duplicates("run_id").set_index("run_id")["code_sha"].dropna()
    return {str(run): str(code) for run, code in of.items() if run in runs}


def _pack_code(folder: Path, source: Source, found: Iterable[Evidence]) -> list[str]:
    """Copy the code of now and that of the trials; what is not there any more is said."""
    files = code_files()
    copies = {code_sha(hash_files(files)): files}
    notes = []
    for code in sorted(set(_codes(source, found).values()) - copies.keys()):
        place = source.storage / "code" / code
        if place.is_dir():
            copies[code] = code_files(place)
        else:
            notes.append(f"the code {code} that trials ran is not in the storage any more, and not in the archive")
    for code, parts in copies.items():
        for name, path in parts.items():
            (folder / "code" / code / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / "code" / code / name)
    return notes


def _pack_records(folder: Path, plan: Plan, source: Source, found: Mapping[str, Evidence], private: Private) -> None:
    """Write the plan, the results frame, and what each counted run left."""
    write_json(folder / PLAN, plan_to_json(plan))
    frame = source.frame[source.frame["trial_id"].isin([trial.id for trial in plan.trials])]
    texts = ("note", "checkpoint")
    frame = frame.assign(**{name: frame[name].map(private.text, na_action="ignore") for name in texts})
    frame.to_parquet(folder / FRAME, index=False)
    curves = ("train/loss", f"val/{plan.primary_metric}")
    for evidence in found.values():
        _pack_run(folder / RUNS / evidence.run_id, evidence, source.artifacts, curves=curves, private=private)


def _pack_run(
    target: Path, evidence: Evidence, left: MlflowArtifacts, *, curves: Sequence[str], private: Private
) -> None:
    target.mkdir(parents=True)
    tags = left.record(evidence.run_id).tags
    kept = {k: v for k, v in sorted(tags.items()) if k.startswith("harness.") and k not in NOT_PACKED}
    write_json(target / RUN, private.value(kept))
    for name in DOCUMENTS:
        if (found := left.document(evidence.run_id, name)) is not None:
            write_json(target / name, _document(name, found, private))
    if evidence.state is TrialState.FAILED:
        (target / TRACEBACK).write_text(private.text(left.traceback(evidence.run_id)), encoding="utf-8")
        return
    for name in sorted(n for n in left.names(evidence.run_id) if n.startswith("samples_")):
        if (path := left.fetch(evidence.run_id, name)) is not None:
            shutil.copyfile(path, target / name)
    write_json(target / CURVES, {name: left.curve(evidence.run_id, name) for name in curves})


def _document(name: str, found: dict[str, Any], private: Private) -> Any:
    if name == "trial.json":
        return private.trial(Trial.from_json(found)).to_json()
    return private.value({key: value for key, value in found.items() if key not in LEFT_OUT})


def _pack_study(folder: Path, plan: Plan, source: Source, private: Private) -> None:
    """Copy the study's file, the published numbers that its tables show, bibliographies and pins."""
    target, here = folder / "study", source.spec.parent
    (target / "published").mkdir(parents=True)
    text = private.text(source.spec.read_text(encoding="utf-8"))
    (target / source.spec.name).write_text(text, encoding="utf-8")
    for name in sorted({t.published for t in plan.tables if t.published is not None}):
        shutil.copyfile(here / "published" / f"{name}.yaml", target / "published" / f"{name}.yaml")
    for path in sorted((*here.glob("*.bib"), *here.glob("published/*.bib"))):
        shutil.copyfile(path, target / path.relative_to(here))
    pins = Path(__file__).resolve().parent.parent / "constraints.txt"
    there = pins.read_text(encoding="utf-8") if pins.is_file() else "".join(_installed())
    (folder / "constraints.txt").write_text(there, encoding="utf-8")


def _installed() -> list[str]:
    """Pins of what is installed, for a harness that was installed without its repository."""
    found = {d.metadata["Name"]: d.version for d in metadata.distributions()}
    return [f"{name}=={found[name]}\n" for name in sorted(found, key=str.lower) if "harness" not in name]


def _require_equal(source: Source, plan: Plan, report: Path) -> None:
    """Compare the tables that the archive gives with those that the store gives.

    Raises:
        HarnessError: They differ.
    """
    results = Results(source.plan, source.frame, Sources(source.artifacts, NoPanels()))
    published = source.spec.parent / "published"
    for table in plan.tables:
        quoted = load_published(table.published, folder=published) if table.published else None
        model = build_table(results, table, quoted)
        text = render_table(model, Origin(source.plan.study, source.plan.spec_sha))
        if text.encode() != (report / f"{table.name}.tex").read_bytes():
            raise HarnessError(
                f"table {table.name!r} from the archive must be that of the store, it is not; report this"
            )


def _about(plan: Plan, source: Source, found: Mapping[str, Evidence], private: Private) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "study": plan.study,
        "spec": source.spec.name,
        "spec_sha": plan.spec_sha,
        "overrides": [private.text(text) for text in source.overrides],
        "tables": [table.name for table in plan.tables],
        "runs": {trial_id: e.run_id for trial_id, e in found.items()},
        "code": code_sha(hash_files(code_files())),
        "run_codes": _codes(source, found.values()),
        "versions": versions(),
    }


def _readme(plan: Plan, about: Mapping[str, Any]) -> str:
    used = sorted(set(about["run_codes"].values()))
    names = ", ".join(f"`{table.name}`" for table in plan.tables)
    notes = "".join(f"- {note}\n" for note in about["notes"])
    return README.format(
        tables=f"Table{'s' if len(plan.tables) > 1 else ''} {names}",
        study=plan.study,
        question=plan.question,
        code=about["code"],
        trial_codes="the trials ran " + (", ".join(f"`{code}`" for code in used) or "code that is not recorded"),
        fingerprints=", ".join(sorted({f"`{trial.data_fingerprint}`" for trial in plan.trials})),
        notes=f"\nTo know:\n\n{notes}" if notes else "",
    )


def _require_file(target: Path) -> None:
    """Make the folder of an archive, before anything is computed for it.

    Raises:
        HarnessError: The archive cannot be a file there.
    """
    if target.is_dir():
        raise HarnessError(f"--out must name a file to write, {target} is a folder; name a file in it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HarnessError(
            f"--out must be in a folder that can be written to, got {target}: {error.strerror}"
        ) from None


def _write_archive(folder: Path, target: Path) -> None:
    """Names in order, no times, no owners: equal files give equal bytes.

    Raises:
        HarnessError: It cannot be written, and nothing is left of it.
    """
    draft = target.with_name(f"{target.name}.part")
    try:
        _write_entries(folder, draft)
        draft.replace(target)
    except OSError as error:
        raise HarnessError(f"--out must be a file that can be written, got {target}: {error.strerror}") from None
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def _write_entries(folder: Path, draft: Path) -> None:
    with (
        draft.open("wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=9, fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            entry = tarfile.TarInfo(path.relative_to(folder).as_posix())
            entry.size, entry.mode = path.stat().st_size, 0o644
            with path.open("rb") as file:
                archive.addfile(entry, file)
