"""What `harness doctor` looks at: whether everything that a study needs is there and works, each with what to do."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from harness.errors import TrackingError
from harness.faults import cause
from harness.records import Plan

RAY_SECONDS = 90.0
GIB = 2**30
LEAST_GIB, LITTLE_GIB = 1.0, 10.0
"""Free disk below which nothing can run, and below which a study may run out."""
NETWORK_FILE_SYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "lustre", "beegfs", "fuse.sshfs", "glusterfs", "ceph", "9p")
"""On these, sqlite's locks are not to be relied on."""
FILE_ENDINGS = (".pt", ".pth", ".bin", ".safetensors", ".ckpt")
"""A value of `weights` or `pretrained` with one of these names a file, any other a published model."""
MAX_NAMED = 5
ROOT = Path(__file__).resolve().parent.parent
"""What holds this package: `constraints.txt` lies there in a checkout."""


class Level(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Finding:
    """One line of the doctor."""

    subject: str
    level: Level
    text: str
    """What was found."""
    remedy: str = ""
    """What to do; "" where nothing need be done."""


def ok(subject: str, text: str) -> Finding:
    """Nothing to do."""
    return Finding(subject, Level.OK, text)


def check_versions(constraints: Path = ROOT / "constraints.txt") -> Iterator[Finding]:
    """Python, and the installed packages against the pinned ones.

    Args:
        constraints: The file of pins; looked at where it is there, which it is in a checkout.
    """
    version = ".".join(map(str, sys.version_info[:3]))
    yield ok("Python", version)
    if not constraints.is_file():
        yield ok("packages", "not compared: no constraints.txt beside the code")
        return
    pins = dict(re.findall(r"^([\w.\-]+)==(\S+)$", constraints.read_text(encoding="utf-8"), flags=re.MULTILINE))
    installed = {d.metadata["Name"].lower().replace("_", "-"): d.version for d in metadata.distributions()}
    other = {
        name: f"{name} {installed[key]} (pinned {pin})"
        for name, pin in pins.items()
        if (key := name.lower().replace("_", "-")) in installed and installed[key].partition("+")[0] != pin
    }
    if not other:
        yield ok("packages", f"{len(pins)} pinned versions, none installed that differs")
        return
    more = f" and {len(other) - MAX_NAMED} more" if len(other) > MAX_NAMED else ""
    text = ", ".join(list(other.values())[:MAX_NAMED]) + more
    yield Finding("packages", Level.WARN, text, "make venv installs the versions this repository is tested with")


def check_storage(storage: Path) -> Iterator[Finding]:
    """Whether files can be written, renamed over others and made by one of several, and how much room is left."""
    try:
        storage.mkdir(parents=True, exist_ok=True)
        _try_files(storage)
    except OSError as error:
        remedy = "give a folder you may write to: --storage or HARNESS_STORAGE"
        yield Finding("storage", Level.FAIL, f"{storage} cannot be written: {error.strerror or error}", remedy)
        return
    kind = file_system(storage)
    yield ok("storage", f"{storage} is writable, renames are whole ({kind or 'file system unknown'})")
    free = shutil.disk_usage(storage).free / GIB
    level = Level.FAIL if free < LEAST_GIB else Level.WARN if free < LITTLE_GIB else Level.OK
    remedy = "" if level is Level.OK else "harness gc lists what can go; or give a larger disk: --storage"
    yield Finding("disk", level, f"{free:.1f} GiB free", remedy)


def _try_files(storage: Path) -> None:
    """Write, replace, make exclusively, as trials and claims do; raises OSError where one of them fails."""
    first, second = (storage / f"doctor-{uuid.uuid4().hex}.tmp" for _ in range(2))
    try:
        first.write_text("old", encoding="utf-8")
        second.write_text("new", encoding="utf-8")
        second.replace(first)
        if first.read_text(encoding="utf-8") != "new":
            raise OSError("a file that was renamed over another did not take its place")
        try:
            first.open("x").close()
        except FileExistsError:
            return
        raise OSError("a file could be made anew where one was already")
    finally:
        first.unlink(missing_ok=True)
        second.unlink(missing_ok=True)


def file_system(path: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """Type of the file system that holds a path, for example `ext4`; "" where it cannot be told."""
    try:
        lines = [line.split() for line in mounts.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return ""
    here = path.resolve()
    holding = [(len(line[1]), line[2]) for line in lines if here.is_relative_to(line[1].replace("\\040", " "))]
    return max(holding, default=(0, ""))[1]


def check_tracking(uri: str, storage: Path) -> Iterator[Finding]:
    """Whether the tracking store answers; a store that the first run will make is not made here."""
    version = f"MLflow {metadata.version('mlflow')}"
    local = uri.removeprefix("sqlite:///") if uri.startswith("sqlite:///") else None
    if local is not None and file_system(Path(local).parent) in NETWORK_FILE_SYSTEMS:
        remedy = "sqlite may lose records there; use a server: --tracking-uri"
        yield Finding("MLflow", Level.WARN, f"{uri} is on a network file system", remedy)
    if local is not None and not Path(local).exists():
        yield ok("MLflow", f"{version}, {uri} is made by the first run")
        return
    from harness.results import connect

    try:
        connect(uri)
    except TrackingError as error:
        remedy = f"start the server, or correct --tracking-uri (MLFLOW_TRACKING_URI); default: sqlite in {storage}"
        yield Finding("MLflow", Level.FAIL, str(error), remedy)
        return
    yield ok("MLflow", f"{version}, {uri} answers")


def check_tex() -> Iterator[Finding]:
    """Whether the tables can be compiled."""
    if shutil.which("pdflatex") is None:
        remedy = "Debian: apt-get install texlive-latex-extra lmodern; tables are written as .tex all the same"
        yield Finding("TeX", Level.WARN, "pdflatex is not on PATH, so no PDF of the tables", remedy)
        return
    missing = [name for name in tex_packages() if not _has_style(name)]
    if missing:
        remedy = "Debian: apt-get install texlive-latex-recommended texlive-latex-extra lmodern"
        yield Finding("TeX", Level.WARN, f"pdflatex is there, {', '.join(missing)} not", remedy)
        return
    yield ok("TeX", "pdflatex and every package the tables use")


def tex_packages() -> list[str]:
    """Packages that the templates of the tables load."""
    texts = [
        f.read_text(encoding="utf-8") for f in resources.files("reports").joinpath("templates").iterdir() if f.is_file()
    ]
    lists = re.findall(r"\\usepackage(?:\[[^\]]*\])?\{([^}]+)\}", "\n".join(texts))
    return sorted({name.strip() for names in lists for name in names.split(",")})


def _has_style(name: str) -> bool:
    found = _run(["kpsewhich", f"{name}.sty"], seconds=20)
    return found is None or bool(found.stdout.strip())


def check_gpus() -> Iterator[Finding]:
    """GPUs as the driver and as PyTorch see them."""
    import torch

    listed = _run(["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"], seconds=30)
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    build = f"torch {torch.__version__}"
    if listed is None or listed.returncode != 0:
        yield ok("GPUs", f"none here ({build}); trials run on CPUs, or on the cluster's GPUs")
        return
    names = [line.strip() for line in listed.stdout.splitlines() if line.strip()]
    if seen == 0:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        why = f"CUDA_VISIBLE_DEVICES={hidden!r}" if hidden is not None else f"CUDA {torch.version.cuda} of {build}"
        remedy = f"PyTorch sees none because of {why}: unset it, or bring driver and torch together"
        yield Finding("GPUs", Level.FAIL, f"the driver has {len(names)}: {'; '.join(names)}", remedy)
        return
    yield ok("GPUs", f"{seen} of {len(names)} seen by {build}: {'; '.join(names)}")


def check_ray(storage: Path, address: str | None) -> tuple[list[Finding], dict[str, float]]:
    """Whether the cluster can be joined, or a Ray started; and what it has.

    Returns:
        The findings, and the cluster's CPUs and GPUs, empty where there is none.
    """
    version = f"ray {metadata.version('ray')}"
    command = [sys.executable, "-m", "harness.ray_check", str(storage), *([address] if address else [])]
    done = _run(command, seconds=RAY_SECONDS)
    facts = _last_json(done.stdout) if done else {}
    where = f"at {address}" if address else "here"
    if "resources" not in facts:
        said = (cause(done.stderr) or "it ended without a word") if done else f"no answer within {RAY_SECONDS:.0f} s"
        text = facts.get("error") or said
        remedy = "start it (ray start --head), correct --address (RAY_ADDRESS), or see docs/running.md"
        return [_token_finding(), Finding("Ray", Level.FAIL, f"{version}, no Ray {where}: {text}", remedy)], {}
    found: dict[str, float] = facts["resources"]
    has = ", ".join(f"{amount:g} {kind}" for kind, amount in sorted(found.items()))
    place = f"joined {facts['address']}, {facts['nodes']} nodes" if facts["address"] else "starts here"
    findings = [_token_finding(), ok("Ray", f"{version} {place}: {has}")]
    if facts["blind"]:
        remedy = "give a folder that all nodes share: --storage or HARNESS_STORAGE"
        text = f"{storage} is not seen by {', '.join(facts['blind'])}"
        findings.append(Finding("storage", Level.FAIL, text, remedy))
    return findings, found


def _token_finding() -> Finding:
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    if os.environ.get("RAY_AUTH_TOKEN") or path.is_file():
        return ok("Ray token", f"there ({'RAY_AUTH_TOKEN' if os.environ.get('RAY_AUTH_TOKEN') else path})")
    remedy = "ray get-auth-token --generate, once; copy it to every node and client"
    return Finding("Ray token", Level.WARN, "none; needed for a cluster of several machines", remedy)


def check_study(plan: Plan, storage: Path, cluster: Mapping[str, float]) -> Iterator[Finding]:
    """Whether a study finds its weights, fits the cluster, and has room on the disk."""
    yield ok("study", f"{plan.study}: {len(plan.trials)} trials")
    files = {path: value for trial in plan.trials for path, value in _weights(trial.model)}
    for path, value in sorted(files.items()):
        if not Path(value).expanduser().is_file():
            remedy = f"put the file there, or set {path} to another"
            yield Finding("weights", Level.FAIL, f"model.{path}: {value} is not a file", remedy)
    yield from _room_on_the_cluster(plan, cluster)
    yield from _disk_budget(plan, storage)


def _room_on_the_cluster(plan: Plan, cluster: Mapping[str, float]) -> Iterator[Finding]:
    need = max((t.resources.workers * t.resources.gpus_per_worker for t in plan.trials), default=0.0)
    if cluster and need > cluster.get("GPU", 0.0):
        text = f"a trial needs {need:g} GPUs, the cluster has {cluster.get('GPU', 0.0):g}"
        yield Finding(
            "resources", Level.FAIL, text, "lower resources.gpus_per_worker or workers, or join another cluster"
        )


def _disk_budget(plan: Plan, storage: Path) -> Iterator[Finding]:
    from harness.garbage import size_of

    folders = [storage / "trials" / trial.id for trial in plan.trials]
    sizes = [size_of(folder) for folder in folders if (folder / "result.json").exists()]
    left = len(folders) - len(sizes)
    if not sizes or not left:
        return
    need, free = left * sum(sizes) / len(sizes) / GIB, shutil.disk_usage(storage).free / GIB
    text = f"{left} trials to run take about {need:.2g} GiB, {free:.1f} GiB are free"
    remedy = "" if need < free else "harness gc lists what can go; or give a larger disk: --storage"
    yield Finding("disk", Level.OK if need < free else Level.FAIL, text, remedy)


def _weights(model: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Settings that name a file of weights; names of timm and of the hub are none."""
    for key, value in model.items():
        if isinstance(value, Mapping):
            yield from _weights(value, f"{prefix}{key}.")
        elif key in ("weights", "pretrained") and isinstance(value, str) and value.endswith(FILE_ENDINGS):
            yield f"{prefix}{key}", value


def _run(command: list[str], *, seconds: float) -> subprocess.CompletedProcess[str] | None:
    """Run a program that can import this package; None where it is not there or does not end."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": paths}
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False, env=env)
    except (OSError, subprocess.TimeoutExpired):
        return None


def _last_json(text: str) -> dict[str, Any]:
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            found: dict[str, Any] = json.loads(line)
            return found
    return {}
