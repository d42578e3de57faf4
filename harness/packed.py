"""An archive of a study's tables: its files, whether they are whole, and a report's sources read from them.

| file | content |
|---|---|
| `README.md` | what it is, and the two commands |
| `SHA256SUMS` | the hash of every other file |
| `pack.json` | study, tables, runs by trial, which code is there, what was changed on the command line |
| `plan.json` | the plan: rows of the tables and their trials |
| `study/` | the study's file, published numbers, bibliographies |
| `constraints.txt` | versions of packages |
| `results.parquet` | the results frame, costs and run ids included |
| `runs/<run>/` | trial, tags, environment, hashes of its code, per-sample results by split, learning curves |
| `code/<sha>/` | the code that made the report, and the code that the trials ran |
| `report/` | what the archive's records give: tables, figures, numbers, page |
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import tarfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.environment import VERSION
from harness.errors import HarnessError
from harness.faults import TRACEBACK
from harness.records import Limits, Plan, Row, Skipped, Table, Trial

FORMAT = 1
SUMS = "SHA256SUMS"
PACK = "pack.json"
PLAN = "plan.json"
FRAME = "results.parquet"
STUDY = "study/*.y*ml"
"""The study's file; published numbers are deeper."""
RUNS = "runs"
REPORT = "report"
CURVES = "curves.json"
RUN = "run.json"
"""File of a run's folder with its tags."""
SUM = re.compile(r"(?P<digest>[0-9a-f]{64})  (?P<name>.+)")
"""A line of `SHA256SUMS`."""
MAX_NAMED = 3
"""Files that an error names."""
MAX_SHOWN = 40
"""Characters of a line that an error shows."""


class PackedArtifacts:
    """What runs left, read from an unpacked archive.

    Args:
        folder: The archive, unpacked.
    """

    def __init__(self, folder: Path) -> None:
        self._runs = folder / RUNS
        self.samples = functools.cache(self._samples)

    def _samples(self, run_id: str, split: str) -> pd.DataFrame | None:
        """One row per sample of a split; None where the run left none."""
        path = self._runs / run_id / f"samples_{split}.parquet"
        return pd.read_parquet(path) if path.is_file() else None

    def masks(self, run_id: str, split: str, keys: Collection[str]) -> Mapping[str, NDArray[np.bool_]]:
        """None: predicted masks are not packed."""
        del run_id, split, keys
        return {}

    def feature_maps(self, run_id: str) -> Mapping[str, NDArray[Any]]:
        """None: feature maps are not packed."""
        del run_id
        return {}

    def curve(self, run_id: str, name: str) -> Mapping[int, float]:
        """Epoch -> value of a learning curve."""
        found = self._json(run_id, CURVES).get(name, {})
        return {int(epoch): float(value) for epoch, value in found.items()}

    def traceback(self, run_id: str) -> str:
        """What Python printed when the run failed; empty where it left nothing."""
        path = self._runs / run_id / TRACEBACK
        return path.read_text(encoding="utf-8") if path.is_file() else ""

    def versions(self, run_id: str) -> dict[str, str]:
        """Package -> version that the run was recorded with, Python among them."""
        tags = self._json(run_id, RUN)
        return {key.removeprefix(VERSION): tags[key] for key in sorted(tags) if key.startswith(VERSION)}

    def environment(self, run_id: str) -> dict[str, Any]:
        """What the run's process ran on; empty where it left nothing."""
        return self._json(run_id, "environment.json")

    def _json(self, run_id: str, name: str) -> dict[str, Any]:
        path = self._runs / run_id / name
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """A JSON-ready dict that `plan_from_json` reads back; searches, which a report does not see, are left out."""
    return asdict(replace(plan, searches=()))


def plan_from_json(value: Mapping[str, Any]) -> Plan:
    """The plan that `plan_to_json` wrote."""
    parts = {
        "trials": tuple(Trial.from_json(trial) for trial in value["trials"]),
        "tables": tuple(_table(table) for table in value["tables"]),
        "skipped": tuple(Skipped(**skipped) for skipped in value["skipped"]),
        "limits": Limits(**value["limits"]),
        **{name: tuple(value[name]) for name in ("figures", "breakdowns", "searches")},
    }
    return Plan(**{**value, **parts})


def _table(value: Mapping[str, Any]) -> Table:
    rows = tuple(Row(**{**row, "trial_ids": tuple(row["trial_ids"])}) for row in value["rows"])
    return Table(**{**value, "metrics": tuple(value["metrics"]), "splits": tuple(value["splits"]), "rows": rows})


@contextmanager
def opened(path: Path) -> Iterator[Path]:
    """The folder of an archive whose files are all there and as they were packed.

    Args:
        path: The archive, or the folder in which it was unpacked.

    Raises:
        HarnessError: There is none, it is damaged, or a file of it is not what was packed.
    """
    if path.is_dir():
        check(path)
        yield path
        return
    with TemporaryDirectory(prefix="harness-pack-") as scratch:
        folder = Path(scratch)
        _unpack(path, folder)
        check(folder)
        yield folder


def _unpack(path: Path, folder: Path) -> None:
    if not path.is_file():
        raise HarnessError(f"an archive must be a file of `harness pack` or its unpacked folder, {path} is not there")
    try:
        with tarfile.open(path, "r:gz") as archive:
            archive.extractall(folder, filter="data")
    except tarfile.FilterError as error:
        raise HarnessError(f"{path} must hold plain files inside its own folder, and does not: {error}") from None
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        reason = str(error) or type(error).__name__
        raise HarnessError(
            f"{path} must be a whole archive of `harness pack`, it is damaged or none: {reason}"
        ) from None


def check(folder: Path) -> None:
    """Check every file against `SHA256SUMS`.

    Raises:
        HarnessError: A file is missing, changed, or not one of the archive's; or the archive is of a later format.
    """
    listed = read_sums(folder)
    _require_listed(listed, PACK)
    there = {name: path for path in folder.rglob("*") if path.is_file() and (name := _name(path, folder)) != SUMS}
    wrong = [f"{name} is missing" for name in sorted(listed.keys() - there.keys())]
    wrong += [f"{name} is not listed" for name in sorted(there.keys() - listed.keys()) if "__pycache__" not in name]
    wrong += [
        f"{name} has changed" for name in sorted(listed.keys() & there.keys()) if sha(there[name]) != listed[name]
    ]
    if wrong:
        more = f" and {len(wrong) - MAX_NAMED} more" if len(wrong) > MAX_NAMED else ""
        raise HarnessError(f"the archive must be as it was packed: {', '.join(wrong[:MAX_NAMED])}{more}; get it again")
    found = read_pack(folder)["format"]
    if found != FORMAT:
        raise HarnessError(f"this harness reads archives of format {FORMAT}, got {found}; use the code in the archive")
    _require_listed(listed, PLAN, FRAME, STUDY)


def read_sums(folder: Path) -> dict[str, str]:
    """Name -> SHA-256, as `SHA256SUMS` lists them.

    Raises:
        HarnessError: The folder has no such list, or it is none.
    """
    path = folder / SUMS
    if not path.is_file():
        raise HarnessError(f"an archive must hold {SUMS}, this one has none; was it written by `harness pack`?")
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        pair = SUM.fullmatch(line)
        if pair is None:
            raise HarnessError(
                f"{SUMS} of an archive must have lines of a SHA-256 and a name, line {number} is {line[:MAX_SHOWN]!r}; "
                "get the archive again"
            )
        found[pair["name"]] = pair["digest"]
    return found


def _require_listed(names: Collection[str], *patterns: str) -> None:
    """Refuse a folder that has a list of hashes and is no archive.

    Raises:
        HarnessError: There is not one file of a pattern.
    """
    paths = [PurePosixPath("/", name) for name in names]
    missing = [pattern for pattern in patterns if sum(path.match(f"/{pattern}") for path in paths) != 1]
    if missing:
        raise HarnessError(
            f"an archive must hold one {' and one '.join(missing)}, {SUMS} does not list that; was it written by "
            "`harness pack`?"
        )


def write_sums(folder: Path) -> None:
    """Write `SHA256SUMS` of all that is in a folder, in the form that `sha256sum --check` reads."""
    names = sorted(_name(path, folder) for path in folder.rglob("*") if path.is_file())
    text = "".join(f"{sha(folder / name)}  {name}\n" for name in names if name != SUMS)
    (folder / SUMS).write_text(text, encoding="utf-8")


def read_pack(folder: Path) -> dict[str, Any]:
    """What `pack.json` says.

    Raises:
        HarnessError: It is not what `harness pack` writes; so with the next two.
    """
    with _reading(PACK):
        found = dict(json.loads((folder / PACK).read_text(encoding="utf-8")))
        if found["format"] == FORMAT:  # one of another format may lack them
            found |= {"versions": dict(found["versions"]), "run_codes": dict(found["run_codes"]), "code": found["code"]}
    return found


def read_plan(folder: Path) -> Plan:
    """The packed plan."""
    with _reading(PLAN):
        return plan_from_json(json.loads((folder / PLAN).read_text(encoding="utf-8")))


def read_frame(folder: Path) -> pd.DataFrame:
    """The packed results frame."""
    with _reading(FRAME):
        return pd.read_parquet(folder / FRAME)


@contextmanager
def _reading(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise HarnessError(
            f"{name} of an archive must be as `harness pack` writes it, got {reason}; get it again, or use its own code"
        ) from None


def sha(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _name(path: Path, folder: Path) -> str:
    return PurePosixPath(path.relative_to(folder)).as_posix()
