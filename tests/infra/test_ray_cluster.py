"""ray_cluster.yaml: Ray accepts it, it holds no key, and its own lines start a node that does work."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.local import processes
from infra.local.installation import Installation
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
def cluster(config: dict[str, Any], tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """A head and a second node on this machine, set up and started by the file's lines as another account.

    Replaced are ports, since both nodes share one machine here, the autoscaler, which would ask AWS, and ``ray stop``,
    which stops every Ray of a machine; the packages are those of this environment. Gives a way to run a line there.
    """
    home = tmp_path / "home"
    (home / ".ray").mkdir(parents=True)
    (home / "llava").symlink_to(ROOT)
    (home / ".ray" / "auth_token").write_text(secrets.token_hex(32))
    installation = Installation(state=tmp_path, ports=free_ports())
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "RAY_HEAD_IP": "127.0.0.1",
                   processes.MARK: processes.mark(installation, "cluster")}
    head, second = installation.ports, free_ports()

    def run(line: str, own: Mapping[str, int] = head) -> str:
        node = (f"--object-manager-port={own['ray.object_manager']} --node-manager-port={own['ray.node_manager']} "
                f"--dashboard-agent-listen-port={own['ray.agent']} --min-worker-port=0 --max-worker-port=0 "
                f"--resources='{json.dumps({'head' if own is head else 'second': 1})}'")
        only_head = (f"--dashboard-port={head['ray.dashboard']} --ray-client-server-port={head['ray.client']} "
                     f"--temp-dir={installation.ray_folder}")
        for old, new in {"6379": str(head["ray.gcs"]), "8265": str(head["ray.dashboard"]),
                         "--object-manager-port=8076": node, "ray stop": "true", "make venv": "test -x .venv/bin/ray",
                         "--autoscaling-config=~/ray_bootstrap_config.yaml": only_head}.items():
            line = line.replace(old, new)
        done = subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    try:
        for line in (*config["setup_commands"], *config["head_start_ray_commands"]):
            run(line)
        for line in (*config["setup_commands"], *config["worker_start_ray_commands"]):
            run(line, second)
        yield run
    finally:
        processes.stop(installation, "cluster")
        shutil.rmtree(installation.ray_folder, ignore_errors=True)


@pytest.mark.slow
def test_its_lines_start_nodes_that_do_work(cluster: Callable[[str], str], tmp_path: Path):
    """A job submitted as documented runs in the checkout; its task on the second node, with the file's store."""
    program = ("import os, ray; ray.init(log_to_driver=False)\n"
               "@ray.remote(resources={'second': 1}, num_cpus=0)\n"
               "def where(): return os.getcwd(), os.environ['LLAVA_STORE'], ray.get_runtime_context().get_node_id()\n"
               "print('seen', os.getcwd(), ray.get_runtime_context().get_node_id(), *ray.get(where.remote()))")
    (tmp_path / "program.py").write_text(program)
    output = cluster(f". ~/.bashrc && ray job submit -- python {tmp_path}/program.py")
    seen = re.search(r"^seen (\S+) (\S+) (\S+) (\S+) (\S+)$", output, re.MULTILINE)
    assert seen, output
    driver_folder, driver_node, folder, store, node = seen.groups()
    assert {Path(driver_folder).resolve(), Path(folder).resolve()} == {ROOT}
    assert store == "s3://YOUR-BUCKET/llava"
    assert driver_node != node
