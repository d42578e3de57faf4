"""Several hosts on one machine, for real Ray nodes: each with its own network, processes, host name, home and /tmp/ray.

A host is a set of Linux namespaces held by one process, the first of its process namespace: when that process is
killed, the kernel kills all others in it at once, like a host that loses its power. The hosts' networks meet in a
bridge inside a network namespace of its own, so that addresses never collide with this machine or another test run,
and nothing is left when the process that made them dies, however it dies.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parent.parent.parent
PREFIX = "10.77.0"
GCS_PORT = 6379

# What the first process of a host does: names it, takes its own accounts and Ray's folder, and then only reaps. No
# host has TeX: a report's PDF takes seconds and shows nothing here.
INIT = """\
hostname "$1"
mount -t tmpfs tmpfs /dev/shm
mkdir -p /tmp/ray && mount --bind "$2/ray" /tmp/ray
mount --bind "$2/home" "$3"
mount --bind "$2/passwd" /etc/passwd
mount --bind "$2/hosts" /etc/hosts
mount --bind "$2/resolv.conf" /etc/resolv.conf
ip link set lo up
if tex=$(command -v pdflatex); then mount --bind /dev/null "$tex"; fi
touch "$2/up"
while sleep 3600; do :; done
"""

QUICK_TO_NOTICE = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
"""Makes Ray notice a dead node within seconds."""


def unavailable(*programs: str) -> str:
    """Why hosts cannot be made here; empty if they can."""
    if os.geteuid() != 0:
        return "namespaces need root"
    missing = [name for name in ("ip", "unshare", "nsenter", "setpriv", *programs) if shutil.which(name) is None]
    if missing:
        return f"not on PATH: {', '.join(missing)}"
    trial = ["unshare", "--net", "--mount", "--pid", "--uts", "--fork", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    done = subprocess.run(trial, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"namespaces are not permitted: {done.stderr.strip()}"


def wait_until(what: str, holds: Callable[[], bool], *, seconds: float = 180.0) -> None:
    """Return when `holds()`; fail with `what` after `seconds`."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"waited {seconds:g} s for: {what}"
        time.sleep(0.2)


@dataclass
class Host:
    """One host; see the module."""

    name: str
    hostname: str
    address: str
    folder: Path
    """Holds what is mounted over its home and `/tmp/ray`."""
    home: Path
    """Home folder of its user: the same path on every host, another folder on each, `folder / "home"` for others."""
    environ: Mapping[str, str]
    _holder: subprocess.Popen[bytes] = field(repr=False)
    pid: int = 0
    """Its first process, as this machine numbers it."""

    def command(self, *words: str) -> list[str]:
        """The words of a command that runs `words` on this host."""
        return ["nsenter", f"--target={self.pid}", "--net", "--mount", "--pid", "--uts", f"--wdns={ROOT}", "--", *words]

    def run(self, *words: str, seconds: float = 300.0, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command here to its end; its output is kept."""
        done = subprocess.run(
            self.command(*words),
            env=dict(self.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert not check or done.returncode == 0, f"{self.name}: {words} exited with {done.returncode}:\n{done.stdout}"
        return done

    def start(self, *words: str, log: Path) -> subprocess.Popen[bytes]:
        """Start a command here; its output goes to `log`."""
        with log.open("wb") as file:
            return subprocess.Popen(
                self.command(*words),
                env=dict(self.environ),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def processes(self) -> list[str]:
        """Command lines of the processes here."""
        here = Path(f"/proc/{self.pid}/ns/pid").stat().st_ino
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if (entry / "ns" / "pid").stat().st_ino == here:
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip())
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # it ended meanwhile, or is not ours
        return found

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._holder.poll() is None

    def kill(self) -> None:
        """`kill -9` of every process of this host at one moment."""
        if self.alive:
            os.kill(self.pid, signal.SIGKILL)
        self._holder.wait(timeout=20)

    def cut(self) -> None:
        """Take its network away; its processes go on."""
        self.run("ip", "link", "set", "eth0", "down")


class Hosts:
    """Hosts in one network, all ended when the context is left.

    Args:
        folder: For their files; a short path, since Ray puts sockets below it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "user").mkdir()
        self._token = secrets.token_hex(32)
        self._made: list[Host] = []
        self._count = 0

    def __enter__(self) -> Hosts:
        self.gate = self.add("gate")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for host in reversed(self._made):
            host.kill()

    def add(self, name: str) -> Host:
        """One more host, with the token of all the others; the first one carries the bridge."""
        self._count += 1
        host = _host(name, f"{PREFIX}.{self._count}", self._folder / f"{self._count}{name}", self._token)
        self._made.append(host)
        wait_until(f"{name} is up", lambda: (host.folder / "up").exists())
        [host.pid] = _children(host._holder.pid)
        if self._count == 1:
            host.run("ip", "link", "add", "hub", "type", "bridge")
            host.run("ip", "addr", "add", f"{host.address}/24", "dev", "hub")
            host.run("ip", "link", "set", "hub", "up")
            return host
        self._connect(host)
        self._introduce()
        return host

    def _introduce(self) -> None:
        """Let every host know every other by name, and ask nobody over a network that leads nowhere."""
        known = "".join(f"{host.address} {host.hostname}\n" for host in self._made)
        for host in self._made:
            # in place: this very file is mounted there
            (host.folder / "hosts").write_text(f"127.0.0.1 localhost\n{known}", encoding="utf-8")

    def _connect(self, host: Host) -> None:
        link = f"to{host.address.rpartition('.')[2]}"
        words = ["ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(host.pid)]
        # only the network is the gate's: a process is named by its number on this machine
        subprocess.run(["nsenter", f"--target={self.gate.pid}", "--net", "--", *words], check=True)
        self.gate.run("ip", "link", "set", link, "master", "hub", "up")
        host.run("ip", "addr", "add", f"{host.address}/24", "dev", "eth0")
        host.run("ip", "link", "set", "eth0", "up")
        host.run("ip", "route", "add", "default", "via", self.gate.address)


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8")
    return [int(word) for word in text.split()]


def _host(name: str, address: str, folder: Path, token: str) -> Host:
    home = folder.parent / "user"
    _write_files(folder, token=token, home=home)
    kept = {key: os.environ[key] for key in ("LANG", "OMP_NUM_THREADS") if key in os.environ}
    environ = {
        **kept,
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": str(ROOT),
        "HARNESS_CACHE": str(folder / "cache"),
        "RAY_AUTH_MODE": "token",
        "CUDA_VISIBLE_DEVICES": "",
        **QUICK_TO_NOTICE,
    }
    apart = ["unshare", "--net", "--mount", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc"]
    # used once on this machine: ssh makes the names of its control sockets from it
    hostname = f"{name}{address.rpartition('.')[2]}-{os.getpid()}"
    init = ["bash", "-ec", INIT, "init", hostname, str(folder), str(home)]
    with (folder / "init.log").open("wb") as log:
        words = ["setpriv", "--pdeathsig=KILL", *apart, *init]
        holder = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    return Host(name, hostname, address, folder, home, environ, holder)


def _write_files(folder: Path, *, token: str, home: Path) -> None:
    (folder / "ray").mkdir(parents=True)
    (folder / "home" / ".ray").mkdir(parents=True)
    write_private(folder / "home" / ".ray" / "auth_token", token)
    accounts = Path("/etc/passwd").read_text(encoding="utf-8").splitlines()
    own = [f"root:x:0:0:root:{home}:/bin/bash", *(line for line in accounts if not line.startswith("root:"))]
    (folder / "passwd").write_text("\n".join(own) + "\n", encoding="utf-8")
    (folder / "hosts").touch()
    (folder / "resolv.conf").touch()


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read."""
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")


def ray_words(host: Host, *, head: Host, num_cpus: int) -> Sequence[str]:
    """The command that makes a host a Ray node of `head`'s cluster."""
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--node-ip-address={host.address}"]
    size = [f"--num-cpus={num_cpus}", "--object-store-memory=100000000", "--disable-usage-stats"]
    if host is head:
        return [*start, *size, "--head", f"--port={GCS_PORT}", "--include-dashboard=false"]
    return [*start, *size, f"--address={head.address}:{GCS_PORT}"]


HARNESS = (sys.executable, "-c", "from harness.cli import main; main()")
"""The `harness` command of this working tree."""
