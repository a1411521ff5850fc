"""ray_cluster.yaml: Ray accepts it, it holds no key, and its own lines start a node that does work."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.local import processes
from infra.local.installation import Environment, Installation, open_installation
from infra.local.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())


def test_ray_accepts_it(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    """Ray's own validation passes, and the defaults leave a head, spot CPU nodes and one GPU group."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    monkeypatch.chdir(ROOT)
    prepared = prepare_config(config)
    validate_config(prepared)
    types = prepared["available_node_types"]
    assert prepared["head_node_type"] in types
    spot = {n for n, t in types.items()
            if t["node_config"].get("InstanceMarketOptions", {}).get("MarketType") == "spot"}
    gpus = {n for n, t in types.items() if t["resources"].get("GPU")}
    assert len(spot) == 1 and len(gpus) == 1 and not spot & gpus
    assert prepared["worker_start_ray_commands"] == config["worker_start_ray_commands"]


def test_nodes_reach_the_bucket_by_their_role(config: dict[str, Any]):
    """Every node type has the instance profile, and no access key is written anywhere."""
    profiles = {t["node_config"]["IamInstanceProfile"]["Name"] for t in config["available_node_types"].values()}
    assert profiles == {"llava-ray"}
    assert not re.search(r"aws_(access|secret)|AKIA", (ROOT / "ray_cluster.yaml").read_text(), re.IGNORECASE)


@pytest.fixture
def node(services: Environment, config: dict[str, Any], tmp_path: Path) -> Iterator[Installation]:
    """A second node on this machine, set up and started by the file's lines, as another account would be.

    Replaced are the addresses and ports, since two nodes share one machine here, and ``ray stop``, which stops all
    Rays of a machine; the packages are those of this environment.
    """
    installation = open_installation(Path(services["LLAVA_STATE"]))
    assert installation is not None
    home = tmp_path / "home"
    (home / ".ray").mkdir(parents=True)
    (home / "llava").symlink_to(ROOT)
    shutil.copy(installation.ray_token, home / ".ray" / "auth_token")
    ports = free_ports()
    replaced = {":6379": f":{installation.ports['ray.gcs']}", "--object-manager-port=8076":
                f"--object-manager-port={ports['ray.object_manager']} --node-manager-port={ports['ray.node_manager']} "
                f"--resources='{{\"second\": 1}}'", "ray stop": "true", "make venv": "test -x .venv/bin/ray"}
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "RAY_HEAD_IP": "127.0.0.1",
                   processes.MARK: processes.mark(installation, "second")}
    try:
        for line in (*config["setup_commands"], *config["worker_start_ray_commands"]):
            for old, new in replaced.items():
                line = line.replace(old, new)
            done = subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        yield installation
    finally:
        processes.stop(installation, "second")


@pytest.mark.slow
def test_its_lines_start_a_node_that_does_work(node: Installation, services_env: Environment, tmp_path: Path):
    """A task that only the second node can run runs there, in the checkout, with the file's environment."""
    program = ("import os, ray; ray.init(log_to_driver=False)\n"
               "@ray.remote(resources={'second': 1}, num_cpus=0)\n"
               "def where(): return os.getcwd(), os.environ['LLAVA_STORE'], os.environ['HOME']\n"
               "print('seen', *ray.get(where.remote(), timeout=60))")
    done = subprocess.run([ROOT / ".venv" / "bin" / "python", "-c", program], env={**os.environ}, capture_output=True,
                          text=True, timeout=120)
    seen = re.search(r"^seen (\S+) (\S+) (\S+)$", done.stdout, re.MULTILINE)
    assert seen, done.stderr
    assert Path(seen[1]).resolve() == ROOT
    assert seen.groups()[1:] == ("s3://YOUR-BUCKET/llava", str(tmp_path / "home"))
    assert ". ~/llava.env" in (tmp_path / "home" / ".bashrc").read_text()
