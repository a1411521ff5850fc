"""A rollout: what runs becomes what should run, and a version that does not pass changes nothing for anybody.

    equal to what runs, and healthy     nothing to do
    else   verify the files of the wanted version · deploy it (each replica answers its canaries before it is ready, and
           the version before serves until then) · ask through the front door: health, then the canaries again
    any failure                         the version before is deployed again; the application is removed if nothing ran

What runs is asked of the running application over HTTP, not remembered, so a rollout that was killed anywhere is
completed by the next.
"""

from __future__ import annotations

import base64
import enum
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import httpx

from pipelines.serving import cluster
from pipelines.serving.cluster import DeployFailed
from pipelines.serving.served import Canary, Served
from pipelines.stage import BadInput

FRONT_DOOR_S = 30.0  # a proxy hears of new replicas a moment after the controller
POLL_S = 0.5


class Done(enum.Enum):
    """What a rollout did."""

    NOTHING = "nothing to do"  # the wanted version runs and is healthy
    DEPLOYED = "deployed"


class RolloutFailed(Exception):
    """The wanted version is not served. Says why, and what is served instead."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """What an application says of itself. healthy: it made a token in time, or was too busy to."""

    deployment: str
    fingerprint: str
    healthy: bool


def base_url(served: Served, host: str, port: int) -> str:
    return f"http://{host}:{port}{served.route_prefix.rstrip('/')}"


def look(served: Served, host: str, port: int) -> Running | None:
    """What runs under the model's name at its route; None when nothing does."""
    url = base_url(served, host, port)
    try:
        with httpx.Client(timeout=served.limits.health_deadline_s + 5, trust_env=False) as http:
            model = http.get(f"{url}/v1/models/{served.model}")
            if model.status_code != 200:
                return None
            health = http.get(f"{url}/health")
        said, alive = model.json(), health.json()
        fresh = health.status_code == 200 and alive["deployment"] == said["deployment"] and \
            alive["system_fingerprint"] == said["system_fingerprint"]
        return Running(deployment=said["deployment"], fingerprint=said["system_fingerprint"],
                       healthy=fresh or health.status_code == 429)
    except (httpx.HTTPError, ValueError, KeyError):
        return None


def check_route(served: Served, host: str, port: int) -> None:
    """Raises BadInput when another model answers at the route: Ray Serve would hand the route over without a word."""
    url = base_url(served, host, port)
    try:
        reply = httpx.get(f"{url}/v1/models", timeout=5, trust_env=False)
        other = reply.json()["data"][0]["id"] if reply.status_code == 200 else served.model
    except (httpx.HTTPError, ValueError, LookupError, TypeError):
        return
    if other != served.model:
        raise BadInput(f"{url}/ serves the model {other!r} already: serve {served.model!r} beside it with "
                       f"--set rollout.route_prefix=/{served.model}, or end all that is served with `serve shutdown`")


def roll_out(wanted: Served, before: Served | None, verify: Callable[[Served], object], *, host: str, port: int,
             timeout_s: float, tell: Callable[[str], None]) -> Done:
    """Serve ``wanted``. before: the version to return to. verify: raises unless its files are whole and allowed.

    Raises RolloutFailed, when ``before`` is served again; BadInput when another model has the route.
    """
    check_route(wanted, host, port)
    running = look(wanted, host, port)
    if running and running.healthy and running.deployment == wanted.deployment:
        return Done.NOTHING
    tell(f"verifies the files of {wanted.fingerprint}")
    verify(wanted)
    with cluster.connected():
        try:
            cluster.deploy(wanted, host, port, timeout_s, tell)
            ask_canaries(wanted, host, port)
        except (DeployFailed, NotAsItMust) as failure:
            back = _go_back(wanted, before, running, host, port, timeout_s, tell)
            raise RolloutFailed(f"{failure}; {back}") from failure
    return Done.DEPLOYED


def _go_back(wanted: Served, before: Served | None, ran: Running | None, host: str, port: int, timeout_s: float,
             tell: Callable[[str], None]) -> str:
    """What is served now, as a clause."""
    if before is None and ran is not None:  # the same version, served otherwise: its old replicas go on
        return "the replicas from before go on"
    if before is None:
        cluster.remove(wanted.model)
        return "nothing is served in its place"
    if ran is None or ran.deployment != before.deployment:  # it is to start anew, and today's canaries are not its own
        before = replace(before, canaries=())
    try:
        cluster.deploy(before, host, port, timeout_s, tell)
    except DeployFailed as second:
        return f"and the version before could not be brought back: {second}"
    return f"{before.fingerprint} goes on being served"


class NotAsItMust(Exception):
    """The application runs but does not do as it must at its front door."""


def ask_canaries(served: Served, host: str, port: int) -> None:
    """Health and every canary, as a client would ask."""
    until = time.monotonic() + FRONT_DOOR_S
    while not ((running := look(served, host, port)) and running.healthy and running.deployment == served.deployment):
        if time.monotonic() > until:
            said = f"answers as {running.fingerprint}" if running else "does not answer"
            raise NotAsItMust(f"{base_url(served, host, port)} {said} where {served.fingerprint} was deployed")
        time.sleep(POLL_S)
    for canary in served.canaries:
        reply = httpx.post(f"{base_url(served, host, port)}/v1/chat/completions", json=_question(served.model, canary),
                           timeout=served.limits.deadline_s + 5, trust_env=False)
        if reply.status_code != 200:
            raise NotAsItMust(f"{served.fingerprint} answered a canary with HTTP {reply.status_code}")
        if complaint := canary.complaint(reply.json()["choices"][0]["message"]["content"]):
            raise NotAsItMust(f"{served.fingerprint} does not pass its canary: {complaint}")


def _question(model: str, canary: Canary) -> dict[str, object]:
    url = f"data:image/png;base64,{base64.b64encode(canary.picture).decode()}"  # the format is told by the bytes
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": canary.question}]
    return {"model": model, "messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": 48}
