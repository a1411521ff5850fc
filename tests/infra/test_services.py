"""Local services: started once, repaired when they crash, named when a port is taken, and gone after ``stop``."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import boto3
import psutil
import pytest
from botocore.exceptions import ClientError

from infra.local import processes, services
from infra.local.installation import Environment, open_installation
from infra.local.ports import asked_ports, free_ports, usual_ports
from infra.local.services import Health
from pipelines.stage import BadInput


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory):
    """An installation of these tests' own, with S3 alone."""
    folder = tmp_path_factory.mktemp("own")
    services.start(folder, free=True, which={"s3"})
    yield folder
    services.stop(folder)


def test_every_listener_has_a_port_of_its_own():
    """No two listeners share a port, neither usual, nor moved, nor free ones."""
    for ports in (usual_ports(), usual_ports(1000), free_ports()):
        assert len(set(ports.values())) == len(ports)
    assert not set(usual_ports().values()) & set(usual_ports(1000).values())


def test_a_ports_own_variable_wins_over_the_offset():
    """LLAVA_PORT_MLFLOW moves MLflow alone."""
    ports = asked_ports(usual_ports(1000), {"LLAVA_PORT_MLFLOW": "5555"})
    assert (ports["mlflow"], ports["s3"]) == (5555, 9333)


def test_a_variable_that_is_no_port_is_an_error_that_names_it():
    """LLAVA_PORT_S3=http is refused by name."""
    with pytest.raises(BadInput, match="LLAVA_PORT_S3='http'"):
        asked_ports(usual_ports(), {"LLAVA_PORT_S3": "http"})


def test_a_taken_port_names_its_owner_and_the_variable_that_moves_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The error says which process listens there, and nothing is started."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("LLAVA_PORT_MLFLOW", str(server.getsockname()[1]))
        with pytest.raises(BadInput, match=rf"(?s)pid {os.getpid()}\).*LLAVA_PORT_MLFLOW"):
            services.start(tmp_path, which={"mlflow"})
    assert services.status(tmp_path) == []


def test_a_service_that_ends_at_once_is_named_with_the_end_of_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What the service said last is in the error, and the log is named."""
    command = [sys.executable, "-c", "raise SystemExit('no!')"]
    broken = replace(services.SERVICES["pictures"], command=lambda _i: command)
    monkeypatch.setitem(services.SERVICES, "pictures", broken)  # type: ignore[arg-type]
    with pytest.raises(services.ServiceFailed, match=r"(?s)pictures\.log.*no!"):
        services.start(tmp_path, free=True, which={"pictures"})
    assert services.stop(tmp_path) == 0


def test_a_program_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The fix is in the error."""
    broken = replace(services.SERVICES["pictures"], command=lambda _i: [str(tmp_path / "weed")])
    monkeypatch.setitem(services.SERVICES, "pictures", broken)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"weed is not installed: run `make venv`"):
        services.start(tmp_path, free=True, which={"pictures"})


def test_started_again_the_same_process_serves(own: Path):
    """``start`` is idempotent: it leaves what is ready alone."""
    before = services.status(own)[0]
    services.start(own, free=True, which={"s3"})
    assert services.status(own)[0].pid == before.pid


def test_a_crash_is_seen_and_repaired_with_the_data_intact(own: Path):
    """kill -9: ``status`` says crashed, ``start`` brings the same bucket back on the same port."""
    installation = open_installation(own)
    assert installation is not None
    client = _client(installation.environment())
    client.put_object(Bucket="llava", Key="kept", Body=b"1")
    main = processes.main_process(installation, "s3")
    assert main is not None
    os.kill(main.pid, signal.SIGKILL)
    psutil.wait_procs([main], timeout=10)
    assert services.status(own)[0].health is Health.CRASHED
    services.start(own, free=True, which={"s3"})
    assert services.status(own)[0].health is Health.READY
    assert client.get_object(Bucket="llava", Key="kept")["Body"].read() == b"1"


def test_stop_ends_also_a_child_that_left_its_session_and_its_parent(tmp_path: Path):
    """A job's driver outlives the process that started it: it belongs to the service all the same."""
    services.start(tmp_path, free=True, which={"s3"})
    installation = open_installation(tmp_path)
    assert installation is not None
    environment = {**os.environ, processes.MARK: processes.mark(installation, "s3")}
    subprocess.run(["sh", "-c", "setsid sleep 600 & "], env=environment, check=True)
    stranger = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        assert len(processes.marked(installation, "s3")) == 2
        services.stop(tmp_path)
        assert processes.marked(installation, "s3") == []
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_credentials_are_private_and_of_this_installation_alone(own: Path):
    """Files with keys have mode 600; the environment, the logs and the records hold no key."""
    installation = open_installation(own)
    assert installation is not None
    secrets = [installation.keys()[1], installation.token()]
    for file in (installation.credentials, installation.ray_token, own / "env.json", own / "env.sh"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    for file in (p for p in own.rglob("*") if p.is_file() and "credentials" not in p.parts):
        assert not any(secret.encode() in file.read_bytes() for secret in secrets), file


def test_wrong_keys_and_unknown_buckets_are_refused(s3: Environment, store_uri: str):
    """S3 checks signatures, and makes no bucket on its own."""
    stranger = boto3.client("s3", aws_access_key_id="x", aws_secret_access_key="y")
    with pytest.raises(ClientError, match="InvalidAccessKeyId"):
        stranger.list_objects_v2(Bucket="llava")
    with pytest.raises(ClientError, match="NoSuchBucket"):
        boto3.client("s3").put_object(Bucket="not-there", Key="x", Body=b"")


def test_unfinished_uploads_expire(s3: Environment, store_uri: str):
    """The bucket has a lifecycle rule for multiparts that were never completed."""
    rules = boto3.client("s3").get_bucket_lifecycle_configuration(Bucket="llava")["Rules"]
    assert [r["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] for r in rules] == [2]


def test_a_shell_that_sources_env_sh_finds_the_services(own: Path):
    """env.sh says what env.json says, and drops keys of another account."""
    expected = json.loads((own / "env.json").read_text())
    printed = subprocess.run(["sh", "-c", f". {own}/env.sh; env"], capture_output=True, text=True, check=True,
                             env={"PATH": os.environ["PATH"], "AWS_ACCESS_KEY_ID": "stranger"}).stdout
    found = dict(line.split("=", 1) for line in printed.splitlines() if "=" in line)
    assert {k: found.get(k) for k in expected} == expected
    assert "AWS_ACCESS_KEY_ID" not in found


@pytest.mark.slow
def test_everything_listens_on_loopback_only(services_env: Environment):
    """No process of any service accepts a connection from another machine."""
    installation = open_installation(Path(services_env["LLAVA_STATE"]))
    assert installation is not None
    listeners = [(p.name(), c.laddr) for name in services.SERVICES for p in processes.marked(installation, name)
                 for c in p.net_connections(kind="tcp") if c.status == psutil.CONN_LISTEN]
    assert len(listeners) > 15
    assert {re.sub("^::ffff:", "", address.ip) for _name, address in listeners} <= {"127.0.0.1", "::1"}


@pytest.mark.slow
def test_a_job_typed_as_documented_runs_at_the_repository_root_with_the_environment(services_env: Environment):
    """``ray job submit -- python ...`` needs no flag: token, addresses and store come from the environment."""
    program = "import os, pipelines; print('seen', os.getcwd(), os.environ['AWS_ENDPOINT_URL'])"
    path = f"{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(["ray", "job", "submit", "--", "python", "-c", program], capture_output=True, text=True,
                          env={**os.environ, "PATH": path}, timeout=120)
    assert f"seen {Path(services.__file__).parents[2]} {services_env['AWS_ENDPOINT_URL']}" in done.stdout, done.stderr


@pytest.mark.slow
def test_a_ray_whose_heart_stopped_is_seen_and_replaced_as_a_whole(tmp_path: Path):
    """kill -9 of Ray's own store ends the head; ``start`` clears every process of it away and brings up another."""
    services.start(tmp_path, free=True, which={"ray"})
    try:
        installation = open_installation(tmp_path)
        assert installation is not None
        before = processes.marked(installation, "ray")
        [gcs] = [p for p in before if p.name() == "gcs_server"]
        gcs.kill()
        main = processes.main_process(installation, "ray")
        assert main is not None
        psutil.wait_procs([main], timeout=60)
        assert {s.service: s.health for s in services.status(tmp_path)}["ray"] is Health.CRASHED
        services.start(tmp_path, free=True, which={"ray"})
        assert {s.service: s.health for s in services.status(tmp_path)}["ray"] is Health.READY
        assert not {p.pid for p in before} & {p.pid for p in processes.marked(installation, "ray")}
    finally:
        services.stop(tmp_path)


def _client(environment: Environment):
    access, secret = re.findall(r" = (\S+)", Path(environment["AWS_SHARED_CREDENTIALS_FILE"]).read_text())
    return boto3.client("s3", endpoint_url=environment["AWS_ENDPOINT_URL"], region_name="us-east-1",
                        aws_access_key_id=access, aws_secret_access_key=secret)
