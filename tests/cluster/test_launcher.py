"""`cluster.yaml` for real: hosts reached over ssh become a cluster, a study is submitted, its tables are fetched."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.local_executor import LocalExecutor
from harness.records import Trial
from harness.trial_folder import read_history, read_result, trial_folder
from tests.cluster.nodes import GCS_PORT, ROOT, Host, Hosts, unavailable, wait_until, write_private
from tests.contracts.test_executors import GENTLE
from tests.events import run_all
from tests.tiny import tiny_plan

pytestmark = pytest.mark.cluster

TWO_NODES = (
    ("axes: {model.decoder: [arc, msrc]}", "axes: {model.decoder: [msrc]}"),
    ("replicates: 1", "replicates: 1\nresources: {workers: 2, cpus_per_worker: 1}"),
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"

SSHD = """\
ListenAddress {address}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized
PidFile none
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
StrictModes no
PrintMotd no
"""


def make_key(path: Path) -> str:
    """Make an ssh key without a passphrase; its public half."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path.with_name(f"{path.name}.pub").read_text(encoding="utf-8")


def serve_ssh(host: Host, authorized: str) -> None:
    """Let the holder of a key in."""
    make_key(host.folder / "host_key")
    write_private(host.folder / "authorized", authorized)
    (host.folder / "sshd_config").write_text(SSHD.format(address=host.address, folder=host.folder), encoding="utf-8")
    Path("/run/sshd").mkdir(exist_ok=True)  # the program insists on it
    sshd = ("/usr/sbin/sshd", "-D", "-e", "-f", str(host.folder / "sshd_config"))
    host.start(*sshd, log=host.folder / "sshd.log")
    wait_until("sshd", lambda: "Server listening" in (host.folder / "sshd.log").read_text(encoding="utf-8"))


def with_hosts(config: dict[str, Any], head: Host, worker: Host, key: Path) -> dict[str, Any]:
    """`cluster.yaml` with the lines marked EDIT edited, one CPU per node, and no download."""
    provider = {**config["provider"], "head_ip": head.address, "worker_ips": [worker.address]}
    auth = {"ssh_user": "root", "ssh_private_key": str(key)}
    reuse = [f"cd ~/rs-ablation-harness && ln -sfn {sys.prefix} .venv"]
    small = "ray start --num-cpus=1 --object-store-memory=100000000"
    starts = {
        name: [command.replace("ray start", small) for command in config[name]]
        for name in ("head_start_ray_commands", "worker_start_ray_commands")
    }
    return {**config, **starts, "provider": provider, "auth": auth, "setup_commands": reuse}


@dataclass(frozen=True)
class Launched:
    """A cluster after `ray up` and a study after `ray submit`."""

    laptop: Host
    head: Host
    worker: Host
    file: Path
    """The edited `cluster.yaml`."""
    trial: Trial
    storage: Path
    said: str
    """What `ray submit` printed."""

    def ray(self, verb: str, *words: str) -> str:
        """A verb of the launcher, as a user types it."""
        return ray(self.laptop, verb, str(self.file), *words)


def ray(host: Host, *words: str) -> str:
    """What a `ray` command prints."""
    return host.run(str(Path(sys.executable).parent / "ray"), *words).stdout


@pytest.fixture(scope="module")
def launched(hosts: Hosts, tmp_path_factory: pytest.TempPathFactory) -> Launched:
    if reason := unavailable("ssh", "ssh-keygen", "rsync", "/usr/sbin/sshd"):
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("launcher")
    laptop, head, worker = hosts.add("laptop"), hosts.add("head"), hosts.add("worker")
    key = make_key(folder / "key")
    for host in (head, worker):
        serve_ssh(host, key)
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    file = folder / "cluster.yaml"
    file.write_text(yaml.safe_dump(with_hosts(config, head, worker, folder / "key")), encoding="utf-8")
    ray(laptop, "up", str(file), "--yes")
    wait_until("the worker runs Ray", lambda: any("DashboardAgent" in words for words in worker.processes()))
    [trial] = tiny_plan(folder, *GENTLE, *TWO_NODES).trials
    study = ("run", str(folder / "tiny.yaml"), "--storage", str(folder / "runs"))
    said = ray(laptop, "submit", str(file), "harness/__main__.py", f"HARNESS_GIT_COMMIT={COMMIT}", *study)
    return Launched(laptop, head, worker, file, trial, folder / "runs", said)


def test_every_host_gets_code_and_token_and_no_data(launched: Launched) -> None:
    for host in (launched.head, launched.worker):
        installed = host.folder / "home" / "rs-ablation-harness"
        names = {path.name for path in installed.iterdir()} - {".venv", "runs"}
        assert names == {
            *("harness", "models", "reports", "experiments"),
            *("pyproject.toml", "constraints.txt", "README.md", "LICENSE"),
        }
        token = host.folder / "home" / ".ray" / "auth_token"
        assert token.stat().st_mode & 0o077 == 0
        assert token.read_text() == (launched.laptop.folder / "home" / ".ray" / "auth_token").read_text()


def test_the_dashboard_listens_on_the_head_only(launched: Launched) -> None:
    listening = launched.head.run("ss", "-Hltn").stdout
    assert re.search(r"\b127\.0\.0\.1:8265\b", listening)
    assert listening.count(":8265") == 1, listening


def test_nobody_gets_in_without_the_token(launched: Launched) -> None:
    words = (str(Path(sys.executable).parent / "ray"), "status", f"--address={launched.head.address}:{GCS_PORT}")
    assert "Active:" in launched.laptop.run(*words).stdout
    for other in ("RAY_AUTH_TOKEN=" + "0" * 64, "RAY_AUTH_MODE=disabled"):
        refused = launched.laptop.run("env", other, *words, check=False)
        assert refused.returncode != 0, refused.stdout
        assert "Active:" not in refused.stdout


def test_a_trial_over_two_nodes_scores_what_one_process_does(launched: Launched, tmp_path: Path) -> None:
    """With one CPU per node its two workers cannot be on one."""
    run_all(LocalExecutor(), [launched.trial], tmp_path)
    found, local = (trial_folder(storage, launched.trial) for storage in (launched.storage, tmp_path))
    assert scores(found) == pytest.approx(scores(local), abs=1e-6)
    for epoch, kept in zip(read_history(found), read_history(local), strict=True):
        assert epoch.scores == pytest.approx(kept.scores, abs=1e-5)


def scores(folder: Path) -> dict[tuple[str, str], float]:
    result = read_result(folder)
    assert result is not None
    return {(score.split, score.metric): score.value for score in result.scores}


def test_tables_are_printed_and_fetched(launched: Launched, tmp_path: Path) -> None:
    assert "decoder = msrc" in launched.said
    launched.ray("rsync-down", f"{launched.storage}/reports/", str(tmp_path))
    assert (tmp_path / "tiny" / "manifest.json").is_file()
    assert "decoder = msrc" in (tmp_path / "tiny" / "decoder.md").read_text(encoding="utf-8")


def test_a_job_is_submitted_with_the_working_tree(launched: Launched) -> None:
    plan = (sys.executable, "-m", "harness", "plan", "experiments/demo.yaml")
    said = ray(launched.head, "job", "submit", "--address=http://127.0.0.1:8265", "--working-dir=.", "--", *plan)
    assert "succeeded" in said
    assert "MAFN" in said


def test_down_ends_ray_on_the_head(launched: Launched) -> None:
    """Last: nothing runs afterwards. Workers that have lost the head end by themselves, too late for a test."""
    launched.ray("down", "--yes")
    assert not [words for words in launched.head.processes() if "raylet" in words or "gcs_server" in words]
