"""What takes a study to Slurm, to Kubernetes and, as a job, to a running Ray: scripts, manifests, the upload's size."""

from __future__ import annotations

import re
import shutil
import subprocess
import zipfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
SBATCH = ROOT / "docs" / "cluster" / "slurm.sbatch"
MAX_UPLOAD = 5 * 2**20


@pytest.fixture(scope="module")
def rayjob() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docs" / "cluster" / "rayjob.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft202012Validator:
    text = (ROOT / "tests" / "schemas" / "rayjob.yaml").read_text(encoding="utf-8")
    jsonschema.Draft202012Validator.check_schema(yaml.safe_load(text))
    return jsonschema.Draft202012Validator(yaml.safe_load(text))


def test_rayjob_fits_the_schema(rayjob: dict[str, Any], schema: jsonschema.Draft202012Validator) -> None:
    schema.validate(rayjob)
    assert rayjob["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("spec", "entrypoint", "entryPoint"),
        ("spec.rayClusterSpec", "authOptions", "authOption"),
        ("spec.rayClusterSpec.headGroupSpec", "template", "templates"),
        ("spec.rayClusterSpec.workerGroupSpecs.0", "minReplicas", "minReplica"),
        ("spec.rayClusterSpec.workerGroupSpecs.0.template.spec.containers.0", "volumeMounts", "volumeMount"),
        ("spec.rayClusterSpec.workerGroupSpecs.0.template.spec.containers.0.resources.limits", "memory", "memroy"),
        ("spec.rayClusterSpec.workerGroupSpecs.0.template.spec.volumes.1.emptyDir", "sizeLimit", "sizelimit"),
    ],
)
def test_a_misspelt_rayjob_is_refused(
    rayjob: dict[str, Any], schema: jsonschema.Draft202012Validator, path: str, old: str, new: str
) -> None:
    changed = deepcopy(rayjob)
    place: Any = changed
    for part in path.split("."):
        place = place[int(part) if part.isdigit() else part]
    place[new] = place.pop(old)
    with pytest.raises(jsonschema.ValidationError, match=new):
        schema.validate(changed)


def test_volumes_of_a_pod_are_declared_where_they_are_mounted(rayjob: dict[str, Any]) -> None:
    cluster = rayjob["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_versions_of_ray_agree(rayjob: dict[str, Any]) -> None:
    pinned = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned is not None
    assert rayjob["spec"]["rayClusterSpec"]["rayVersion"] == pinned[1]


def test_slurm_script_is_sound_shell() -> None:
    assert subprocess.run(["bash", "-n", SBATCH], check=False).returncode == 0
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not on PATH")
    found = subprocess.run(["shellcheck", SBATCH], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


@pytest.fixture(scope="module")
def upload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Ray's job client would send of this tree, with data, runs and caches lying in it."""
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import create_package

    folder = tmp_path_factory.mktemp("upload")
    tree = folder / "tree"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    for name in ("runs/mlflow.db", "data/a.png", "scene.tif", "weights/a.pth", ".git/objects/a", ".venv/lib/a.py"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(b"0" * 1000)
    package = folder / "package.zip"
    create_package(str(tree), package, include_gitignore=True, excludes=get_runtime_env_default_excludes())
    return package


def test_a_job_uploads_code_and_studies_only(upload: Path) -> None:
    names = [name for name in zipfile.ZipFile(upload).namelist() if not name.endswith("/")]
    assert {"harness/cli.py", "harness/data/base.py", "models/mafn.py", "reports/build.py"} <= set(names)
    assert {"experiments/demo.yaml", "pyproject.toml", "reports/templates/table.tex.j2"} <= set(names)
    outside = ("runs/", "data/", "weights/", ".git/", ".venv/", "tests/", "docs/", "benchmarks/")
    assert not [name for name in names if name.startswith(outside) or name.endswith(".tif")]


def test_the_upload_is_small(upload: Path) -> None:
    assert upload.stat().st_size < MAX_UPLOAD, f"{upload.stat().st_size} bytes; name what is too much in .rayignore"
