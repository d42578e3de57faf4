"""`docs/cluster/slurm.sbatch` on a real Slurm of two nodes: submitted, spread over both, nothing left behind."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.records import TrialState
from harness.trial_folder import read_result, trial_folder
from tests.cluster.nodes import Host, Hosts, unavailable, wait_until
from tests.tiny import tiny_plan

pytestmark = pytest.mark.cluster

TWO_NODES = (
    ("axes: {model.decoder: [arc, msrc]}", "axes: {model.decoder: [msrc]}"),
    ("replicates: 1", "replicates: 1\nresources: {workers: 2, cpus_per_worker: 1}"),
    ("epochs: 3", "epochs: 1"),
)

# The least that a controller and its nodes need; every file lies in the home folder, which is each host's own.
CONFIG = """\
ClusterName=test
SlurmctldHost={head}({address})
AuthInfo=socket={home}/munge.socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
MpiDefault=none
PartitionName=all Nodes=ALL Default=YES
"""


@dataclass(frozen=True)
class Slurm:
    """Two nodes with one CPU each, the first also the controller."""

    nodes: tuple[Host, Host]
    config: Path

    def run(self, *words: str, check: bool = True) -> str:
        """What a command prints on the first node, from the root of this repository."""
        environ = (f"SLURM_CONF={self.config}", f"HARNESS_VENV={sys.prefix}")
        return self.nodes[0].run("env", *environ, *words, check=check).stdout

    def state(self, job: str) -> str:
        """For example RUNNING or COMPLETED."""
        return self.run("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T").strip()


@pytest.fixture(scope="module")
def slurm(hosts: Hosts, tmp_path_factory: pytest.TempPathFactory) -> Slurm:
    if reason := unavailable("sbatch", "srun", "/usr/sbin/munged", "/usr/sbin/slurmctld", "/usr/sbin/slurmd"):
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("slurm")
    nodes = (hosts.add("node"), hosts.add("node"))
    key, config = folder / "munge.key", folder / "slurm.conf"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    known = "".join(f"NodeName={n.hostname} NodeAddr={n.address} CPUs=1 State=UNKNOWN\n" for n in nodes)
    text = CONFIG.format(head=nodes[0].hostname, address=nodes[0].address, home=nodes[0].home)
    config.write_text(text + known, encoding="utf-8")
    for node in nodes:
        start_munge(node, key)
    slurm = Slurm(nodes, config)
    nodes[0].start("/usr/sbin/slurmctld", "-D", "-f", str(config), log=nodes[0].folder / "slurmctld.log")
    for node in nodes:
        (node.folder / "home" / "spool").mkdir()
        node.start("/usr/sbin/slurmd", "-D", "-f", str(config), log=node.folder / "slurmd.log")
    wait_until(
        "two idle nodes", lambda: slurm.run("sinfo", "-N", "-h", "-o", "%t", check=False).split() == ["idle"] * 2
    )
    return slurm


def start_munge(node: Host, key: Path) -> None:
    """Start what Slurm proves with who is who."""
    home = node.home
    (node.folder / "home" / "state").mkdir()
    files = {"socket": home / "munge.socket", "pid-file": home / "munge.pid", "seed-file": home / "munge.seed"}
    options = [f"--{name}={path}" for name, path in {**files, "key-file": key}.items()]
    node.start("/usr/sbin/munged", "--foreground", "--force", *options, log=node.folder / "munge.log")
    wait_until("munge", lambda: (node.folder / "home" / "munge.socket").exists())


@pytest.fixture
def submit(slurm: Slurm, tmp_path: Path) -> Callable[..., tuple[str, str]]:
    """Submits the script with its arguments; how the job ended, and its log."""

    def run(*words: str) -> tuple[str, str]:
        options = ("--parsable", f"--output={tmp_path}/job.log", "--nodes=2", "--cpus-per-task=1")
        job = slurm.run("sbatch", *options, "docs/cluster/slurm.sbatch", *words).strip()
        wait_until("the job's end", lambda: slurm.state(job) in ("COMPLETED", "FAILED"), seconds=600)
        return slurm.state(job), (tmp_path / "job.log").read_text(encoding="utf-8")

    return run


def test_a_job_without_a_study_says_what_to_type(submit: Callable[..., tuple[str, str]]) -> None:
    state, log = submit()
    assert state == "FAILED"
    assert "which study? sbatch docs/cluster/slurm.sbatch experiments/demo.yaml" in log


def test_a_study_runs_over_the_nodes_of_a_job(
    slurm: Slurm, submit: Callable[..., tuple[str, str]], tmp_path: Path
) -> None:
    """With one CPU per node its two workers cannot be on one."""
    [trial] = tiny_plan(tmp_path, *TWO_NODES).trials
    state, log = submit(str(tmp_path / "tiny.yaml"), "--storage", str(tmp_path / "runs"))
    assert state == "COMPLETED", log
    assert "2 of 2 nodes have joined" in log
    assert "decoder = msrc" in log
    result = read_result(trial_folder(tmp_path / "runs", trial))
    assert result is not None
    assert result.state is TrialState.COMPLETE
    ray = ("raylet", "gcs_server")
    wait_until("Ray's end", lambda: not [w for n in slurm.nodes for w in n.processes() if any(r in w for r in ray)])
    assert not list(Path("/tmp").glob("ray-[0-9]")), "every node has removed Ray's folder of the job"
