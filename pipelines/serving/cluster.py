"""The application on the cluster: started, replaced and removed, and alive after the process that did so has ended.

Ray Serve's controller is detached, so nothing here holds the application up. Everything is level-triggered: to deploy
what already runs changes nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator

from pipelines.runners.ray_jobs import UP, ray_token
from pipelines.serving.served import Served
from pipelines.stage import BadInput

POLL_S = 0.5


class DeployFailed(Exception):
    """The application did not become ready. Says why, as its replicas said it."""


@contextlib.contextmanager
def connected() -> Iterator[None]:
    """This process as a driver of the cluster. Raises BadInput without a token or a cluster."""
    import ray

    if ray.is_initialized():
        yield
        return
    ray_token()
    address = _address()
    host, _, port = address.rpartition(":")
    try:
        if host:  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=5).close()
        ray.init(address=address, namespace="serve", log_to_driver=False, logging_level=logging.WARNING)
    except (OSError, RuntimeError, ValueError) as error:
        raise BadInput(f"no Ray cluster answers at {address} ({str(error).splitlines()[0]}): {UP}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _address() -> str:
    """Of the cluster's control store. RAY_ADDRESS names it inside a job; elsewhere it may be the dashboard's URL."""
    if known := os.environ.get("LLAVA_RAY_GCS"):
        return known
    if os.environ.get("RAY_ADDRESS", "").startswith("http"):
        del os.environ["RAY_ADDRESS"]  # ray.init reads it even when told another address
    return os.environ.get("RAY_ADDRESS") or "auto"


def deploy(served: Served, host: str, port: int, timeout_s: float, tell: Callable[[str], None]) -> None:
    """Make this the application of that name and wait until it runs; the one before serves until then.

    tell: gets what is waited for. Raises DeployFailed; the caller decides what is to run then.
    """
    from ray import serve
    from ray.serve.exceptions import RayServeException
    from ray.serve.schema import ApplicationStatus

    from pipelines.serving.application import build_application

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(proxy_location="EveryNode", http_options={"host": host, "port": port})
    try:
        target = serve.RunTarget(build_application(served), served.model, served.route_prefix)
        serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
    except RayServeException as error:
        raise DeployFailed(f"{served.fingerprint} cannot be deployed: {error}") from error
    until = time.monotonic() + timeout_s
    while True:
        overview = serve.status().applications.get(served.model)
        said = [*(d.message for d in overview.deployments.values()), overview.message] if overview else []
        reason = next((r for message in said if (r := _reason(message))), "no reason given")
        if overview and overview.status == ApplicationStatus.RUNNING:
            return
        if overview and overview.status == ApplicationStatus.DEPLOY_FAILED:
            raise DeployFailed(f"{served.fingerprint} did not start: {reason}")
        if time.monotonic() > until:
            raise DeployFailed(f"{served.fingerprint} did not start within {timeout_s:.0f} s: {reason}")
        tell(f"starts {served.fingerprint}" + (f": {reason}" if any(said) else ""))
        time.sleep(POLL_S)


def remove(model: str) -> None:
    """No application of that name; none is no error."""
    from ray import serve

    serve.delete(model)


def _reason(message: str) -> str:
    """The line of a status message that says what went wrong: the last of a traceback, or the first of a notice."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    errors = [line for line in lines if ": " in line and line.partition(": ")[0].replace(".", "").isidentifier()]
    return errors[-1] if errors else lines[0] if lines else ""
