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
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from infra.local import processes
from infra.local.installation import Environment, Installation, open_installation
from infra.local.ports import asked_ports, free_ports, require_free, usual_ports
from infra.local.stack import SERVICES, Service, fetch
from pipelines.stage import BadInput

PATIENCE_S = 30.0  # a busy machine is slow to answer, and restarting Ray would stop the work that runs on it

Report = Callable[[str, str], None]  # service, what happens to it


class Health(enum.Enum):
    """What a service is now."""

    READY = "ready"  # its process lives and its probe answers
    UNREADY = "not answering"  # its process lives, its probe does not answer
    CRASHED = "crashed"  # it was started and its process is gone
    STOPPED = "stopped"


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
            _launch(installation, service, report)
        for service in starting:
            _bring_up(installation, service, report)
            report(service.name, f"ready at {installation.url(service.ports[0])}")
        return installation.environment()


def stop(state: Path, *, report: Report = lambda _service, _event: None) -> int:
    """End every process of the installation; data, logs and credentials stay. Returns how many processes ended."""
    state = state.expanduser().resolve()
    if (installation := open_installation(state)) is None:
        return 0
    ended = 0
    with _locked(state):
        for service in reversed(tuple(SERVICES.values())):  # Ray's jobs write to the others, so it goes first
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


def assistant_address(state: Path) -> tuple[str, bool]:
    """Where the pipeline serves its model, and whether something answers there now."""
    installation = open_installation(state.expanduser().resolve())
    if installation is None:
        return "", False
    address = installation.url("serve")
    try:
        fetch(f"{address}/health")
    except OSError:
        return address, False
    return address, True


class ServiceFailed(Exception):
    """A service ended or stayed silent while it was started; names its log."""


def _installation(state: Path, free: bool, offset: int | None) -> Installation:
    """The installation with its ports: those of before, unless others are asked for while nothing runs."""
    known = open_installation(state)
    if free:
        return known or Installation(state=state, ports=free_ports())
    before = known.ports if known and offset is None else usual_ports(offset or 0)
    wanted = Installation(state=state, ports=asked_ports(before))
    if known and known.ports != wanted.ports and any(processes.main_process(known, name) for name in SERVICES):
        raise BadInput(f"the services of {state} run on other ports; `llavactl down`, then `llavactl up` with the new")
    return wanted


def _needs_start(installation: Installation, service: Service, report: Report) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while (health := _health(installation, service)) is Health.UNREADY and time.monotonic() < deadline:
        report(service.name, "runs but does not answer: waiting for it")
        time.sleep(1)
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


def _launch(installation: Installation, service: Service, report: Report) -> None:
    report(service.name, "starting")
    processes.launch(installation, service.name, service.command(installation), service.extra(installation))


def _bring_up(installation: Installation, service: Service, report: Report) -> None:
    """Wait until the launched service is ready, launching it again as often as it may be."""
    for tries_left in reversed(range(service.tries)):
        try:
            return _wait_ready(installation, service)
        except ServiceFailed:
            if not tries_left:
                raise
            report(service.name, "ended while it was started: trying again")
            processes.stop(installation, service.name)
            _launch(installation, service, report)


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
            silent = f"is not ready after {service.timeout_s:.0f} s ({reason})"
            raise ServiceFailed(_failure(installation, service, silent))
        time.sleep(0.2)


def _failure(installation: Installation, service: Service, what: str) -> str:
    log = installation.log(service.name)
    return f"{service.title} {what}; the end of {log}:\n{processes.tail(log)}"


def _remove_sockets(installation: Installation) -> None:
    """SeaweedFS leaves its sockets, which it names by port, in the temporary folder."""
    for name, port in installation.ports.items():
        if name.startswith("s3") and name.endswith(".grpc"):
            kind = name.split(".")[1] if name.count(".") == 2 else "s3"
            Path(f"/tmp/seaweedfs-{kind}-grpc-{port}.sock").unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(state: Path) -> Iterator[None]:
    """One ``up`` or ``down`` of an installation at a time."""
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(state / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
