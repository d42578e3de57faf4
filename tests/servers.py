"""Real servers on this machine: MLflow's, and PostgreSQL."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest


def free_port() -> int:
    """A port that nobody uses at the moment."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class MlflowServer:
    """`mlflow server` with a store and artifacts in a folder; it can be killed and started again."""

    def __init__(self, folder: Path, store: str) -> None:
        self.uri = f"http://127.0.0.1:{free_port()}"
        self.store = store
        self._folder, self._log = folder, folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; `wait` for its answer."""
        port = self.uri.rpartition(":")[2]
        words = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", self.store, "--port", port]
        words += ["--host", "127.0.0.1", "--artifacts-destination", str(self._folder / "files"), "--workers", "1"]
        light = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # eight processes that nobody needs here
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                words, cwd=self._folder, stdout=log, stderr=log, env=light, start_new_session=True
            )

    def wait(self) -> None:
        """Wait until it answers."""
        ends = time.monotonic() + 120
        while not self._answers():
            assert self._process is not None
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < ends, self._log.read_text()
            time.sleep(0.1)

    def kill(self) -> None:
        """Kill it and all its processes without a word of warning."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """A PostgreSQL of our own with an empty database; its URI. Skips the test where the programs are missing."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    user = "nobody" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
    with TemporaryDirectory(prefix="harness-pg-") as place:
        folder, port = Path(place), free_port()
        if user is not None:
            shutil.chown(folder, user)
        data, log = str(folder / "data"), folder / "log"
        words = [str(programs[-1] / "initdb"), "-D", data, "-U", "harness", "-A", "trust", "-N", "-E", "UTF8"]
        made = subprocess.run(words, cwd=folder, capture_output=True, text=True, user=user)
        assert made.returncode == 0, made.stderr
        words = [str(programs[-1] / "postgres"), "-D", data, "-k", place, "-p", str(port), "-h", "127.0.0.1"]
        words += ["-c", "fsync=off", "-c", "full_page_writes=off", "-c", "max_connections=200"]
        with log.open("wb") as output:
            server = subprocess.Popen(words, cwd=folder, stdout=output, stderr=output, user=user)
        try:
            yield _ready(f"postgresql://harness@127.0.0.1:{port}/postgres", log)
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(timeout=60)


def _ready(uri: str, log: Path) -> str:
    import psycopg

    ends = time.monotonic() + 60
    while True:
        try:
            psycopg.connect(uri).close()
        except psycopg.OperationalError:
            assert time.monotonic() < ends, log.read_text()
            time.sleep(0.1)
        else:
            return uri
