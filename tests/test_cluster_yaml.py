"""`cluster.yaml` is accepted by Ray's cluster launcher as it is, and carries all that the hosts need."""

from __future__ import annotations

import subprocess
import tomllib
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTATION_ADDRESSES = ip_network("192.0.2.0/24")  # RFC 5737
REMOTE = "~/rs-ablation-harness/"


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))


def launcher_accepts(config: dict[str, Any]) -> dict[str, Any]:
    """What `ray up` makes of a configuration before it connects to anything."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(config)
    validate_config(prepared)
    return prepared


def test_launcher_accepts_it_and_plans_every_worker(cluster: dict[str, Any]) -> None:
    prepared = launcher_accepts(cluster)
    node = prepared["available_node_types"][prepared["head_node_type"]]
    assert node["min_workers"] == node["max_workers"] == len(cluster["provider"]["worker_ips"])


def test_launcher_refuses_an_unknown_key(cluster: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="'file_mount' was unexpected"):
        launcher_accepts({**cluster, "file_mount": {}})


@pytest.fixture(scope="module")
def cloud(cluster: dict[str, Any]) -> dict[str, Any]:
    """The file as its last section says: the lines that begin with `#: ` in place of the keys of the same name."""
    lines = (ROOT / "cluster.yaml").read_text(encoding="utf-8").splitlines()
    return {**cluster, **yaml.safe_load("\n".join(line[3:] for line in lines if line.startswith("#: ")))}


def test_launcher_accepts_the_cloud_variant(cloud: dict[str, Any]) -> None:
    prepared = launcher_accepts(cloud)
    assert prepared["provider"]["type"] == "aws"
    workers = {name: kind for name, kind in prepared["available_node_types"].items() if name != "head"}
    assert len(workers) == 2
    for kind in workers.values():
        assert kind["min_workers"] == 0, "nodes come with the work"
        assert kind["resources"]["GPU"] > 0
        assert kind["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}


def test_launcher_refuses_a_wrong_cloud_variant(cloud: dict[str, Any]) -> None:
    types = {**cloud["available_node_types"], "head": {"node_config": {}, "resources": {}, "resorces": {}}}
    with pytest.raises(Exception, match="'resorces' was unexpected"):
        launcher_accepts({**cloud, "available_node_types": types})
    with pytest.raises(Exception, match="head_node_type"):
        launcher_accepts({**cloud, "head_node_type": "haed"})


def test_addresses_are_placeholders(cluster: dict[str, Any]) -> None:
    provider = cluster["provider"]
    assert all(ip_address(ip) in DOCUMENTATION_ADDRESSES for ip in (provider["head_ip"], *provider["worker_ips"]))


def test_every_package_and_its_pins_are_mounted(cluster: dict[str, Any]) -> None:
    mounts = {remote.removeprefix(REMOTE): local for remote, local in cluster["file_mounts"].items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = {name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    needed = {*packages, "experiments", "pyproject.toml", "constraints.txt", project["project"]["readme"]}
    assert needed | set(project["project"]["license-files"]) <= set(mounts)
    own = {remote: local for remote, local in mounts.items() if not remote.startswith("~")}
    assert all(remote == local and (ROOT / local).exists() for remote, local in own.items())


def test_token_travels_with_the_files(cluster: dict[str, Any]) -> None:
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


@pytest.mark.parametrize("key", ["setup_commands", "head_start_ray_commands", "worker_start_ray_commands"])
def test_commands_are_valid_shell(cluster: dict[str, Any], key: str) -> None:
    for command in cluster[key]:
        checked = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr


def test_setup_installs_the_pins(cluster: dict[str, Any]) -> None:
    assert any("--constraint constraints.txt" in command for command in cluster["setup_commands"])
