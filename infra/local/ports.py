"""Ports: every listener of an installation has a named port of its own, so that two installations can coexist.

A port is never shared by luck: it is free when it is assigned or the owner that holds it is named. Ports that people
type (S3, MLflow, Ray, pictures, serve) have the customary numbers; those that only services use are in one quiet block.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
from collections.abc import Iterable, Mapping

import psutil

from pipelines.stage import BadInput

HOST = "127.0.0.1"
PUBLIC = {
    "s3": 8333,
    "mlflow": 5000,
    "ray.gcs": 6379,
    "ray.dashboard": 8265,
    "pictures": 8900,
    "serve": 8000,
}
INTERNAL = (
    "s3.grpc", "s3.master", "s3.master.grpc", "s3.volume", "s3.volume.grpc", "s3.filer", "s3.filer.grpc",
    "ray.client", "ray.node_manager", "ray.object_manager", "ray.agent", "ray.agent.grpc", "ray.runtime_env",
    "ray.metrics",
)
INTERNAL_BASE = 18300
ADMIN_BASE = 13646
ADMIN_GRPC_OFFSET = 10_000  # SeaweedFS's own worker looks for its admin server there, whatever the flag says
FREE_RANGE = (14_000, 30_000)  # below the ports that Linux hands out for outgoing connections


def variable(name: str) -> str:
    """The environment variable that sets the port: ``ray.gcs`` is LLAVA_PORT_RAY_GCS; ``serve`` is LLAVA_SERVE_PORT."""
    return "LLAVA_SERVE_PORT" if name == "serve" else f"LLAVA_PORT_{name.replace('.', '_').upper()}"


def usual_ports(offset: int = 0) -> dict[str, int]:
    """The customary port of every listener, moved by ``offset``."""
    usual = PUBLIC | {name: INTERNAL_BASE + i for i, name in enumerate(INTERNAL)} | {"s3.admin": ADMIN_BASE}
    return _with_admin_grpc({name: number + offset for name, number in usual.items()})


def asked_ports(ports: Mapping[str, int], environ: Mapping[str, str] = os.environ) -> dict[str, int]:
    """The same ports, except those that an environment variable sets. Raises BadInput for what is no port number."""
    return _with_admin_grpc({name: _from_environment(name, environ) or port for name, port in ports.items()})


def free_ports() -> dict[str, int]:
    """A free port for every listener, for installations beside others (tests)."""
    ports: dict[str, int] = {}
    for name in (*PUBLIC, *INTERNAL):
        ports[name] = _draw(ports.values(), 0)
    ports["s3.admin"] = _draw(ports.values(), ADMIN_GRPC_OFFSET)
    return _with_admin_grpc(ports)


def is_free(port: int) -> bool:
    """Whether a server could listen there now. A connection that is only being closed does not count."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def require_free(ports: Mapping[str, int], names: Iterable[str]) -> None:
    """Raises BadInput that names every taken port, its owner and the variable that moves it."""
    taken = [f"port {ports[n]} ({n}) is taken by {owner(ports[n])}; stop it, or move ours with {variable(n)}=PORT"
             for n in names if not is_free(ports[n])]
    if taken:
        raise BadInput("\n".join([*taken, "or move all of them at once: llavactl up --port-offset 1000"]))


def owner(port: int) -> str:
    """Who listens on the port, as ``name (pid N): command``."""
    try:
        listeners = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:  # macOS tells this to root only
        listeners = []
    for c in listeners:
        if c.laddr and c.laddr.port == port and c.status == psutil.CONN_LISTEN and c.pid:
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(c.pid)
                return f"{process.name()} (pid {c.pid}): {' '.join(process.cmdline())[:80]}"
    return "a process of another user"


def _with_admin_grpc(ports: Mapping[str, int]) -> dict[str, int]:
    return {**ports, "s3.admin.grpc": ports["s3.admin"] + ADMIN_GRPC_OFFSET}


def _from_environment(name: str, environ: Mapping[str, str]) -> int | None:
    text = environ.get(variable(name))
    if not text:
        return None
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise BadInput(f"{variable(name)}={text!r} is not a port number (1 to 65535)")
    return int(text)


def _draw(used: Iterable[int], also: int) -> int:
    while True:
        port = random.SystemRandom().randrange(*FREE_RANGE)
        if port not in used and is_free(port) and is_free(port + also):
            return port
