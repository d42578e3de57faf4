"""The doctor on a machine that is well, and on what can be wrong with it."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable
from pathlib import Path

import pytest

from harness import doctor
from harness.doctor import Finding, Level
from tests.command import Command
from tests.tiny import tiny_plan, write_study


def only(findings: Iterable[Finding]) -> Finding:
    (finding,) = findings
    return finding


def test_versions(tmp_path: Path) -> None:
    python, packages = doctor.check_versions()
    assert (python.level, packages.level) == (Level.OK, Level.OK)
    pins = tmp_path / "constraints.txt"
    pins.write_text("# pins\nray==0.1\nnumpy==0.2\nno-such-package==1\n")
    _, packages = doctor.check_versions(pins)
    assert packages.level is Level.WARN
    assert "ray " in packages.text
    assert "(pinned 0.1)" in packages.text
    assert "no-such-package" not in packages.text
    _, packages = doctor.check_versions(tmp_path / "none.txt")
    assert (packages.level, "not compared" in packages.text) == (Level.OK, True)


def test_storage(tmp_path: Path) -> None:
    place, disk = doctor.check_storage(tmp_path / "new")
    assert (place.level, list((tmp_path / "new").iterdir())) == (Level.OK, [])
    assert disk.level is not Level.FAIL
    (tmp_path / "file").write_text("")
    finding = only(doctor.check_storage(tmp_path / "file" / "below"))
    assert (finding.level, "--storage" in finding.remedy) == (Level.FAIL, True)


def test_file_systems_are_told_by_the_longest_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"a / ext4 rw 0 0\nserver:/x {tmp_path} nfs4 rw 0 0\n")
    assert doctor.file_system(tmp_path / "runs", mounts) == "nfs4"
    assert doctor.file_system(Path("/etc"), mounts) == "ext4"
    assert doctor.file_system(tmp_path, tmp_path / "none") == ""


def test_tracking(tmp_path: Path, empty_store: Path) -> None:
    finding = only(doctor.check_tracking(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path))
    assert (finding.level, "is made by the first run" in finding.text) == (Level.OK, True)
    assert not (tmp_path / "mlflow.db").exists()
    assert only(doctor.check_tracking(f"sqlite:///{empty_store}", tmp_path)).level is Level.OK
    (tmp_path / "mlflow.db").write_text("no database")
    finding = only(doctor.check_tracking(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path))
    assert (finding.level, "--tracking-uri" in finding.remedy) == (Level.FAIL, True)


def test_tex(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert {"booktabs", "graphicx", "textcomp"} <= set(doctor.tex_packages())
    monkeypatch.setenv("PATH", str(tmp_path))
    finding = only(doctor.check_tex())
    assert (finding.level, "apt-get install" in finding.remedy) == (Level.WARN, True)
    program(tmp_path, "pdflatex", "exit 0")
    program(tmp_path, "kpsewhich", 'test "$1" = booktabs.sty || echo found')
    finding = only(doctor.check_tex())
    assert finding.text == "pdflatex is there, booktabs not"


def program(folder: Path, name: str, script: str) -> None:
    """A program for PATH."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_gpus_that_the_driver_has_and_pytorch_does_not_see(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    finding = only(doctor.check_gpus())
    assert (finding.level, "none here" in finding.text) == (Level.OK, True)
    program(tmp_path, "nvidia-smi", "echo 'H200, 143771 MiB, 570.1'")
    finding = only(doctor.check_gpus())
    assert finding.level is Level.FAIL
    assert "the driver has 1: H200" in finding.text
    assert "CUDA_VISIBLE_DEVICES=''" in finding.remedy


def test_studies(tmp_path: Path) -> None:
    plan = tiny_plan(
        tmp_path, ("  model:\n    name: mafn", f"  model:\n    weights: {tmp_path}/none.pt\n    name: mafn")
    )
    study, weights = doctor.check_study(plan, tmp_path, {"CPU": 2.0})
    assert (study.level, weights.level) == (Level.OK, Level.FAIL)
    assert f"model.weights: {tmp_path}/none.pt is not a file" in weights.text
    (tmp_path / "none.pt").write_text("")
    resources = "resources: {workers: 2, gpus_per_worker: 1}\nreplicates: 1"
    plan = tiny_plan(tmp_path, ("replicates: 1", resources))
    _, found = doctor.check_study(plan, tmp_path, {"CPU": 2.0, "GPU": 1.0})
    assert (found.level, found.text) == (Level.FAIL, "a trial needs 2 GPUs, the cluster has 1")
    assert len(list(doctor.check_study(plan, tmp_path, {"CPU": 2.0, "GPU": 2.0}))) == 1


def test_a_finished_study_tells_what_the_rest_takes(ran_tiny: Path, tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, ("  epochs: 3", "  epochs: 2"), ("replicates: 1", "replicates: 2"))
    _, disk = doctor.check_study(plan, ran_tiny, {})
    assert (disk.level, disk.text.startswith("2 trials to run take about 0.0")) == (Level.OK, True)


@pytest.mark.usefixtures("ray_cluster")
def test_the_verb_on_a_running_cluster(harness: Command, tmp_path: Path) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    study = write_study(tmp_path)
    done = harness("doctor", study, "--address", address, "--storage", tmp_path / "runs", "--json")
    value = json.loads(done.out)
    found = {f["subject"]: f for f in value["findings"]}
    assert (done.code, value["ok"]) == (0, True), done
    assert f"joined {address}, 1 nodes: 4 CPU" in found["Ray"]["text"]
    assert found["study"]["text"] == "tiny: 2 trials"
    assert not (tmp_path / "runs").exists()


def test_the_verb_where_something_fails(harness: Command, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"  # bound, and nobody listens
        study = write_study(tmp_path, ("name: mafn", "name: mafm"))
        done = harness("doctor", study, "--address", address, "--storage", tmp_path)
    assert done.code == 1
    lines = done.out.splitlines()
    ray = next(line for line in lines if line.startswith("FAIL Ray "))
    assert f"no Ray at {address}: Connection refused" in ray
    assert "did you mean 'mafn'" in next(line for line in lines if line.startswith("FAIL study "))
    assert list((tmp_path / "here").iterdir()) == []
