"""The services of the stack: how each is started, and how it is known to be ready.

Every listener binds the loopback address, and every port is explicit: S3 asks for keys and Ray for a token, but MLflow
and Ray's dashboard page would answer anybody. A probe asks for what a client needs, not whether a process lives.
"""

from __future__ import annotations

import functools
import sys
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.local.installation import BUCKET, REGION, Environment, Installation
from infra.local.ports import HOST

OBJECT_STORE_BYTES = 1 << 30
RAY_CPUS = 3  # logical: two training workers and a served model at once, on any machine
ABORTED_UPLOAD_DAYS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """One service. ports: names of its listeners; the first is the one that people use.

    probe: raises OSError while the service is not ready; it also does what makes it ready (the bucket).
    tries: how often it is launched before its failure counts.
    """

    name: str
    title: str
    ports: tuple[str, ...]
    command: Callable[[Installation], list[str]]
    probe: Callable[[Installation], None]
    extra: Callable[[Installation], Environment] = lambda _installation: {}
    timeout_s: float = 180.0
    tries: int = 1


def fetch(url: str, headers: Mapping[str, str] | None = None) -> None:
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

    client = _s3_client(installation.url("s3"), *installation.keys())
    try:
        client.head_bucket(Bucket=BUCKET)
        if not _has_lifecycle_rule(client):
            client.put_bucket_lifecycle_configuration(Bucket=BUCKET, LifecycleConfiguration={"Rules": [{
                "ID": "abort-unfinished-uploads", "Status": "Enabled", "Filter": {"Prefix": ""},
                "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": ABORTED_UPLOAD_DAYS}}]})
    except (BotoCoreError, ClientError) as error:
        raise OSError(str(error)) from error


def _has_lifecycle_rule(client: Any) -> bool:
    from botocore.exceptions import ClientError

    try:
        rules = client.get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"]
    except ClientError:
        return False
    return any("AbortIncompleteMultipartUpload" in rule for rule in rules)


@functools.lru_cache(maxsize=8)
def _s3_client(endpoint: str, access: str, secret: str) -> Any:
    """A boto3 client (which has no static type) that answers or fails at once."""
    from boto3.session import Session
    from botocore.config import Config

    session = Session(aws_access_key_id=access, aws_secret_access_key=secret, region_name=REGION)
    return session.client("s3", endpoint_url=endpoint,
                          config=Config(retries={"max_attempts": 0}, connect_timeout=2, read_timeout=5))


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
    fetch(f"{installation.url('ray.dashboard')}/api/jobs/", {"Authorization": f"Bearer {installation.token()}"})
    fetch(f"{installation.url('ray.agent')}/api/local_raylet_healthz")


def _pictures_command(installation: Installation) -> list[str]:
    return [sys.executable, "-m", "llava.demo.pictures", "--host", HOST, "--port", str(installation.ports["pictures"])]


SERVICES: Mapping[str, Service] = {s.name: s for s in (
    Service(name="s3", title="S3 (SeaweedFS)", command=_weed_command, extra=_weed_environment, probe=_probe_s3,
            ports=("s3", "s3.grpc", "s3.master", "s3.master.grpc", "s3.volume", "s3.volume.grpc", "s3.filer",
                   "s3.filer.grpc", "s3.admin", "s3.admin.grpc")),
    Service(name="mlflow", title="MLflow", ports=("mlflow",), command=_mlflow_command, extra=_mlflow_environment,
            probe=lambda i: fetch(f"{i.url('mlflow')}/health")),
    Service(name="pictures", title="Pictures of the demo", ports=("pictures",), command=_pictures_command,
            probe=lambda i: fetch(f"{i.url('pictures')}/health")),
    Service(name="ray", title="Ray", command=_ray_command, probe=_probe_ray,
            extra=lambda _i: {"RAY_agent_register_timeout_ms": "100000"},  # slow imports on a busy machine
            tries=3,  # it gives itself 30 seconds, which a busy machine may not have
            ports=("ray.dashboard", "ray.gcs", "ray.client", "ray.node_manager", "ray.object_manager", "ray.agent",
                   "ray.agent.grpc", "ray.runtime_env", "ray.metrics", "serve")),
)}
