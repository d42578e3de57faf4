"""A study on several real Ray nodes: it outlives the loss of some, and uses one that joins late."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.records import Trial, TrialResult, TrialState
from harness.trial_folder import read_result, trial_folder
from tests.cluster.nodes import HARNESS, Host, Hosts, ray_words, wait_until
from tests.contracts.test_executors import GENTLE
from tests.tiny import tiny_plan

pytestmark = pytest.mark.cluster

ONE_TRIAL = ("axes: {model.decoder: [arc, msrc]}", "axes: {model.decoder: [msrc]}")
NUM_EPOCHS = 14
LONG = ("epochs: 3", f"epochs: {NUM_EPOCHS}")
SHORT = ("epochs: 3", "epochs: 1")
TWO_NODES = ("replicates: 1", "replicates: 1\nresources: {workers: 2, cpus_per_worker: 1}")
TWO_CPUS = ("replicates: 1", "replicates: 1\nresources: {workers: 1, cpus_per_worker: 2}")


class Cluster:
    """Ray nodes with one CPU each: a head and three workers."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        self.head = hosts.add("head")
        self.head.run(*ray_words(self.head, head=self.head, num_cpus=1))
        self.workers: list[Host] = []
        self.add(3)

    def add(self, count: int, *, num_cpus: int = 1) -> None:
        """More nodes, once they have joined."""
        added = [self._hosts.add("worker") for _ in range(count)]
        words = [ray_words(host, head=self.head, num_cpus=num_cpus) for host in added]
        starts = [host.start(*w, log=host.folder / "ray.log") for host, w in zip(added, words, strict=True)]
        for host, started in zip(added, starts, strict=True):
            assert started.wait(timeout=180) == 0, (host.folder / "ray.log").read_text(encoding="utf-8")
        self.workers += added


@pytest.fixture(scope="module")
def cluster(hosts: Hosts) -> Cluster:
    return Cluster(hosts)


@dataclass
class Study:
    """A study of one trial and its driver on the head."""

    cluster: Cluster
    folder: Path
    trial: Trial
    driver: subprocess.Popen[bytes]

    @property
    def output(self) -> str:
        return (self.folder / "driver.log").read_text(encoding="utf-8")

    def lines(self) -> list[int]:
        """Epochs in the order in which they were reported, repetitions included."""
        path = trial_folder(self.folder / "runs", self.trial) / "history.jsonl"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        return [json.loads(line)["epoch"] for line in text.splitlines() if line.endswith("}")]

    def reach(self, epoch: int) -> None:
        """Wait until the trial has reported an epoch, or its driver has ended."""
        wait_until(f"epoch {epoch}", lambda: epoch in self.lines() or self.driver.poll() is not None)
        assert epoch in self.lines(), self.output

    def lose(self, how: Callable[[Host], None]) -> int:
        """Lose a node, not the head, that has a worker of the trial; the last epoch before."""
        hosts = self.cluster.workers
        host = next(h for h in hosts if any(words.startswith("ray::RayTrainWorker") for words in h.processes()))
        before = max(self.lines())
        how(host)
        hosts.remove(host)
        assert before < NUM_EPOCHS - 2, f"the trial must be in full course, but has done {before} epochs"
        return before

    def result(self) -> TrialResult:
        """How the trial ended, once the study has."""
        assert self.driver.wait(timeout=300) == 0, self.output
        result = read_result(trial_folder(self.folder / "runs", self.trial))
        assert result is not None
        return result


@pytest.fixture
def start(cluster: Cluster, tmp_path: Path) -> Iterator[Callable[..., Study]]:
    drivers: list[subprocess.Popen[bytes]] = []

    def run(*changes: tuple[str, str], options: tuple[str, ...] = ()) -> Study:
        [trial] = tiny_plan(tmp_path, ONE_TRIAL, *GENTLE, *changes).trials
        where = ("--storage", str(tmp_path / "runs"), "--address", "auto")
        words = (*HARNESS, "run", str(tmp_path / "tiny.yaml"), *where, *options)
        drivers.append(cluster.head.start(*words, log=tmp_path / "driver.log"))
        return Study(cluster, tmp_path, trial, drivers[-1])

    yield run
    for driver in drivers:
        driver.kill()
        driver.wait()


def test_a_trial_outlives_a_killed_node_and_a_cut_network(start: Callable[..., Study]) -> None:
    study = start(TWO_NODES, LONG)
    study.reach(3)
    killed = study.lose(Host.kill)
    study.reach(killed + 3)
    cut = study.lose(Host.cut)
    assert study.result().state is TrialState.COMPLETE
    lines = study.lines()
    assert sorted(set(lines)) == list(range(1, NUM_EPOCHS + 1))
    # an epoch is reported before its checkpoint is written: only the last one before a loss may come twice
    assert {epoch for epoch in lines if lines.count(epoch) > 1} <= {killed, killed + 1, cut, cut + 1}


def test_a_node_that_joins_late_is_used(cluster: Cluster, start: Callable[..., Study]) -> None:
    study = start(TWO_CPUS, SHORT, options=("--wait-for-nodes", "5"))
    wait_until("a message", lambda: "wait" in study.output or study.driver.poll() is not None)
    assert study.driver.poll() is None, study.output
    cluster.add(1, num_cpus=2)
    assert study.result().state is TrialState.COMPLETE
    about = json.loads((trial_folder(study.folder / "runs", study.trial) / "environment.json").read_text())
    assert about["host"] == cluster.workers[-1].hostname
