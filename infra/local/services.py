"""The local services: S3 (SeaweedFS), MLflow, Ray and the picture server.

``start`` is level-triggered: it starts what is not running, leaves alone what is ready, and clears away the rest of
what crashed before it starts it again. ``stop`` leaves no process. A service counts as running only while its main
process lives and its probe answers. Every one listens on the loopback address only.

    environment = start(Path(".state"))
    ...
    stop(Path(".state"))
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import functools
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from infra.local import processes
from infra.local.installation import BUCKET, REGION, Environment, Installation, open_installation
from infra.local.ports import HOST, free_ports, require_free, standard_ports
from pipelines.stage import BadInput

OBJECT_STORE_BYTES = 1 << 30
RAY_CPUS = 3  # logical: two training workers and a served model at once, on any machine
ABORTED_UPLOAD_DAYS = 2

Report = Callable[[str, str], None]  # service, what happens to it


class Health(enum.Enum):
    """What a service is now."""

    READY = "ready"  # its process lives and its probe answers
    UNREADY = "not answering"  # its process lives, its probe does not answer
    CRASHED = "crashed"  # it was started and its process is gone
    STOPPED = "stopped"


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """One service. ports: names of its listeners; the first is the one that people use.

    probe: raises OSError while the service is not ready; it also does what makes it ready (the bucket).
    """

    name: str
    title: str
    ports: tuple[str, ...]
    command: Callable[[Installation], list[str]]
    probe: Callable[[Installation], None]
    extra: Callable[[Installation], Environment] = lambda _installation: {}
    timeout_s: float = 120.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """A service's state. pid and since are None unless its process lives."""

    service: str
    title: str
    health: Health
    address: str
    port: int
    pid: int | None
    since: datetime | None
    log: Path


def start(state: Path, *, free: bool = False, which: Iterable[str] | None = None, offset: int | None = None,
          report: Report = lambda _service, _event: None) -> Environment:
    """Bring the named services up (all of them by default) and return what programs need to find them.

    free: at a new installation, pick free ports instead of the usual ones. offset: move the usual ones by so much.
    Raises BadInput when a port is taken, ServiceFailed when a service does not become ready.
    """
    names = set(which or SERVICES)
    wanted = [service for name, service in SERVICES.items() if name in names]
    state = state.expanduser().resolve()
    with _locked(state):
        installation = _installation(state, free, offset)
        starting = [s for s in wanted if _needs_start(installation, s, report)]
        require_free(installation.ports, [p for s in starting for p in s.ports])
        installation.keys()
        installation.token()
        installation.save()
        installation.write_environment()
        for service in starting:
            report(service.name, "starting")
            processes.launch(installation, service.name, service.command(installation), service.extra(installation))
        for service in starting:
            _wait_ready(installation, service)
            report(service.name, f"ready at {installation.url(service.ports[0])}")
        return installation.environment()


def stop(state: Path, *, report: Report = lambda _service, _event: None) -> int:
    """End every process of the installation; data, logs and credentials stay. Returns how many processes ended."""
    state = state.expanduser().resolve()
    if (installation := open_installation(state)) is None:
        return 0
    ended = 0
    with _locked(state):
        for service in reversed(SERVICES.values()):  # Ray's jobs write to the others, so it goes first
            if processes.recorded(installation, service.name) or processes.marked(installation, service.name):
                report(service.name, "stopping")
                ended += processes.stop(installation, service.name)
            report(service.name, "stopped")
        _remove_sockets(installation)
    return ended


def status(state: Path) -> list[Status]:
    """What every service is now. Empty when there never was an installation."""
    installation = open_installation(state.expanduser().resolve())
    return [_status(installation, s) for s in SERVICES.values()] if installation else []


class ServiceFailed(Exception):
    """A service ended or stayed silent while it was started; names its log."""


def _installation(state: Path, free: bool, offset: int | None) -> Installation:
    """The installation with its ports: those of before, unless others are asked for and nothing runs."""
    known = open_installation(state)
    asked = None if free and known else free_ports() if free else standard_ports(offset or 0)
    running = known is not None and any(processes.main_process(known, name) for name in SERVICES)
    if known and (running or asked is None or (offset is None and asked == standard_ports(0, {}))):
        moved = offset is not None and asked is not None and asked != known.ports
        if running and moved:
            raise BadInput("the services run on other ports; `llavactl down` first, then `up` with the new ones")
        return known
    assert asked is not None
    return Installation(state=state, ports=asked)


def _needs_start(installation: Installation, service: Service, report: Report) -> bool:
    health = _health(installation, service)
    if health is Health.READY:
        report(service.name, f"already running at {installation.url(service.ports[0])}")
        return False
    if health is not Health.STOPPED or processes.marked(installation, service.name):
        report(service.name, f"{health.value}: clearing away what is left of it")
        processes.stop(installation, service.name)
    return True


def _health(installation: Installation, service: Service) -> Health:
    if processes.main_process(installation, service.name) is None:
        return Health.CRASHED if processes.recorded(installation, service.name) else Health.STOPPED
    try:
        service.probe(installation)
    except OSError:
        return Health.UNREADY
    return Health.READY


def _status(installation: Installation, service: Service) -> Status:
    main = processes.main_process(installation, service.name)
    return Status(
        service=service.name, title=service.title, health=_health(installation, service),
        address=installation.url(service.ports[0]), port=installation.ports[service.ports[0]],
        pid=main.pid if main else None, since=datetime.fromtimestamp(main.create_time()) if main else None,
        log=installation.log(service.name))


def _wait_ready(installation: Installation, service: Service) -> None:
    deadline = time.monotonic() + service.timeout_s
    while True:
        try:
            service.probe(installation)
            return
        except OSError as error:
            reason = error
        if processes.main_process(installation, service.name) is None:
            raise ServiceFailed(_failure(installation, service, "ended while it was started"))
        if time.monotonic() > deadline:
            raise ServiceFailed(_failure(installation, service, f"is not ready after {service.timeout_s:.0f} s ({reason})"))
        time.sleep(0.2)


def _failure(installation: Installation, service: Service, what: str) -> str:
    log = installation.log(service.name)
    return f"{service.title} {what}; the end of {log}:\n{processes.tail(log)}"


@contextlib.contextmanager
def _locked(state: Path) -> Iterator[None]:
    """One ``up`` or ``down`` of an installation at a time."""
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(state / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch(url: str, headers: Mapping[str, str] | None = None) -> None:
    """GET; raises OSError (of which HTTPError is one) unless the answer is a success."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(url, headers=dict(headers or {})), timeout=5) as reply:
        reply.read(1)


def _weed_command(installation: Installation) -> list[str]:
    p = installation.ports
    data = installation.state / "s3"
    data.mkdir(parents=True, exist_ok=True)
    sockets = installation.ray_folder.parent if len(str(data)) > 80 else data
    return [str(Path(sys.prefix) / "bin" / "weed"), "mini", f"-dir={data}", f"-ip={HOST}", f"-ip.bind={HOST}",
            f"-bucket={BUCKET}", "-s3.autoCreateBucket=false", "-admin.ui=false", "-webdav=false",
            "-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
            f"-master.port={p['s3.master']}", f"-master.port.grpc={p['s3.master.grpc']}",
            f"-volume.port={p['s3.volume']}", f"-volume.port.public={p['s3.volume']}",
            f"-volume.port.grpc={p['s3.volume.grpc']}",
            f"-filer.port={p['s3.filer']}", f"-filer.port.grpc={p['s3.filer.grpc']}",
            f"-s3.port={p['s3']}", f"-s3.port.grpc={p['s3.grpc']}",
            f"-admin.port={p['s3.admin']}", f"-admin.port.grpc={p['s3.admin.grpc']}",
            f"-filer.localSocket={sockets}/filer-{p['s3.filer']}.sock",
            f"-s3.localSocket={sockets}/s3-{p['s3']}.sock"]


def _weed_environment(installation: Installation) -> Environment:
    access, secret = installation.keys()
    return {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret}


def _probe_s3(installation: Installation) -> None:
    """Ready when the bucket exists and has its rule for uploads that were never finished."""
    from botocore.exceptions import BotoCoreError, ClientError

    client = s3_client(installation)
    try:
        client.head_bucket(Bucket=BUCKET)
        if not _has_lifecycle_rule(client):
            client.put_bucket_lifecycle_configuration(Bucket=BUCKET, LifecycleConfiguration={"Rules": [{
                "ID": "abort-unfinished-uploads", "Status": "Enabled", "Filter": {"Prefix": ""},
                "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": ABORTED_UPLOAD_DAYS}}]})
    except (BotoCoreError, ClientError) as error:
        raise OSError(str(error)) from error


def _has_lifecycle_rule(client: object) -> bool:
    from botocore.exceptions import ClientError

    try:
        rules = client.get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"]  # type: ignore[attr-defined]
    except ClientError:
        return False
    return any("AbortIncompleteMultipartUpload" in rule for rule in rules)


@functools.lru_cache(maxsize=8)
def _s3_client(endpoint: str, access: str, secret: str) -> object:
    import boto3
    from botocore.config import Config

    session = boto3.session.Session(aws_access_key_id=access, aws_secret_access_key=secret, region_name=REGION)
    return session.client("s3", endpoint_url=endpoint,
                          config=Config(retries={"max_attempts": 0}, connect_timeout=2, read_timeout=5))


def s3_client(installation: Installation):  # noqa: ANN201 - boto3's clients have no static type
    """A boto3 client for the local S3 server with the installation's own keys, without retries."""
    return _s3_client(installation.url("s3"), *installation.keys())


def _mlflow_command(installation: Installation) -> list[str]:
    database = installation.state / "mlflow"
    database.mkdir(parents=True, exist_ok=True)
    return [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(installation.ports["mlflow"]),
            "--workers", "1", "--backend-store-uri", f"sqlite:///{database}/mlflow.db",
            "--serve-artifacts", "--artifacts-destination", f"s3://{BUCKET}/mlflow"]


def _mlflow_environment(installation: Installation) -> Environment:
    return {"MLFLOW_S3_ENDPOINT_URL": installation.url("s3"), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}


def _ray_command(installation: Installation) -> list[str]:
    p = installation.ports
    installation.ray_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return [str(Path(sys.prefix) / "bin" / "ray"), "start", "--head", "--block", f"--node-ip-address={HOST}",
            f"--port={p['ray.gcs']}", f"--num-cpus={RAY_CPUS}", f"--object-store-memory={OBJECT_STORE_BYTES}",
            "--include-dashboard=true", f"--dashboard-host={HOST}", f"--dashboard-port={p['ray.dashboard']}",
            f"--ray-client-server-port={p['ray.client']}", f"--node-manager-port={p['ray.node_manager']}",
            f"--object-manager-port={p['ray.object_manager']}", f"--dashboard-agent-listen-port={p['ray.agent']}",
            f"--dashboard-agent-grpc-port={p['ray.agent.grpc']}",
            f"--runtime-env-agent-port={p['ray.runtime_env']}", f"--metrics-export-port={p['ray.metrics']}",
            "--min-worker-port=0", "--max-worker-port=0",  # any free port: the default range is one for all heads
            f"--temp-dir={installation.ray_folder}", "--disable-usage-stats"]


def _probe_ray(installation: Installation) -> None:
    """Ready when jobs can be submitted: the dashboard reaches the cluster's store, and this node is alive."""
    _fetch(f"{installation.url('ray.dashboard')}/api/jobs/", {"Authorization": f"Bearer {installation.token()}"})
    _fetch(f"{installation.url('ray.agent')}/api/local_raylet_healthz")


def _pictures_command(installation: Installation) -> list[str]:
    return [sys.executable, "-m", "llava.demo.pictures", "--host", HOST, "--port", str(installation.ports["pictures"])]


def _probe_pictures(installation: Installation) -> None:
    """Ready when it answers at all: it has no page of its own."""
    with contextlib.suppress(urllib.error.HTTPError):
        _fetch(installation.url("pictures"))


def _remove_sockets(installation: Installation) -> None:
    """SeaweedFS leaves its sockets, which it names by port, in the temporary folder."""
    for name, port in installation.ports.items():
        if name.startswith("s3") and name.endswith(".grpc"):
            kind = name.split(".")[1] if name.count(".") == 2 else "s3"
            Path(f"/tmp/seaweedfs-{kind}-grpc-{port}.sock").unlink(missing_ok=True)


SERVICES: Mapping[str, Service] = {s.name: s for s in (
    Service(name="s3", title="S3 (SeaweedFS)", command=_weed_command, extra=_weed_environment, probe=_probe_s3,
            ports=("s3", "s3.grpc", "s3.master", "s3.master.grpc", "s3.volume", "s3.volume.grpc", "s3.filer",
                   "s3.filer.grpc", "s3.admin", "s3.admin.grpc")),
    Service(name="mlflow", title="MLflow", ports=("mlflow",), command=_mlflow_command, extra=_mlflow_environment,
            probe=lambda i: _fetch(f"{i.url('mlflow')}/health")),
    Service(name="pictures", title="Pictures of the demo", ports=("pictures",), command=_pictures_command,
            probe=_probe_pictures),
    Service(name="ray", title="Ray", command=_ray_command, probe=_probe_ray,
            ports=("ray.dashboard", "ray.gcs", "ray.client", "ray.node_manager", "ray.object_manager", "ray.agent",
                   "ray.agent.grpc", "ray.runtime_env", "ray.metrics", "serve")),
)}
