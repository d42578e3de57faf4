"""Whether Ray works here, asked in a process of its own: `python -m harness.ray_check FOLDER [ADDRESS]` prints JSON.

A Ray that is misconfigured may hang, print or end the process, which must not happen to whoever asks.
"""

from __future__ import annotations

import json
import logging
import socket
import sys
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

PORT_SECONDS = 5.0
"""How long a cluster's port may take to answer; Ray itself tries for minutes."""
NODE_SECONDS = 30.0
"""How long a node may take to look for a file."""


def check_ray(folder: Path, address: str | None) -> dict[str, Any]:
    """Join the cluster that `harness run` would join, or start a Ray as it would.

    Args:
        folder: Storage folder, in which every node looks for a file that is written here.
        address: Of the cluster; None takes one that runs on this machine, else starts one.

    Returns:
        `address` ("" for a Ray that was started for this), `resources`, `nodes`, and `blind`: the nodes that do not
        see the storage folder; or `error`.
    """
    if address and (reason := _closed_port(address)):
        return {"error": reason}
    is_own = False
    try:
        ray.init(address=address or "auto", log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        if address:
            return {"error": str(error).splitlines()[0]}
        ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        is_own = True
    nodes = [node for node in ray.nodes() if node["Alive"]]
    return {
        "address": "" if is_own else ray.get_runtime_context().gcs_address,
        "resources": {k: v for k, v in ray.cluster_resources().items() if k in ("CPU", "GPU")},
        "nodes": len(nodes),
        "blind": [] if is_own else _blind_nodes(nodes, folder),
    }


def _closed_port(address: str) -> str:
    """Why nothing answers at `host:port`; "" where something does, or where the address names no port."""
    host, _, port = address.rpartition("://")[2].rstrip("/").rpartition(":")
    if not host or not port.isdigit():
        return ""
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PORT_SECONDS).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _blind_nodes(nodes: list[dict[str, Any]], folder: Path) -> list[str]:
    """Names of the nodes that do not see a file written into the folder here."""
    probe = folder / f"doctor-{ray.get_runtime_context().get_job_id()}.tmp"
    probe.write_text("seen", encoding="utf-8")
    try:
        look = ray.remote(num_cpus=0)(_sees)
        asked = {
            look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                str(probe)
            ): node["NodeManagerHostname"]
            for node in nodes
        }
        done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=NODE_SECONDS)
        return [name for ref, name in asked.items() if ref not in done or not ray.get(ref)]
    finally:
        probe.unlink(missing_ok=True)


def _sees(path: str) -> bool:
    return Path(path).exists()


if __name__ == "__main__":
    found = check_ray(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
    sys.stdout.write("\n" + json.dumps(found) + "\n")
