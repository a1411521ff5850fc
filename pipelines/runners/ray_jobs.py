"""Attempts as Ray jobs. The entry point claims nothing; what a step's workers claim is its demand.

Only HTTP to the head's dashboard: no driver connects to the cluster here, so a control process stays light and cannot
be hurt by the cluster's end. The token is looked for first, because without one Ray fails with a bare ConnectionError.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx

from pipelines.runners import Job, JobStatus, Order, Resources, RunnerUnreachable
from pipelines.stage import BadInput

T = TypeVar("T")
UP = "start the services with `make up`, or point RAY_API_SERVER_ADDRESS at a cluster's dashboard"
GROWS_TO = "LLAVA_CLUSTER_RESOURCES"  # JSON: what an autoscaled cluster can grow to, as {"CPU": 64, "GPU": 8}
GIVEN_BY_RAY = {"PENDING": JobStatus.PENDING, "RUNNING": JobStatus.RUNNING, "SUCCEEDED": JobStatus.SUCCEEDED,
                "FAILED": JobStatus.FAILED, "STOPPED": JobStatus.STOPPED}


def ray_token() -> str | None:
    """The cluster's token, or None where token authentication is off.

    Raises BadInput naming the variable or file that is missing.
    """
    if os.environ.get("RAY_AUTH_MODE", "disabled").lower() != "token":
        return None
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    try:
        token = path.read_text().strip()
    except OSError as error:
        raise BadInput(f"the Ray token file {path} cannot be read ({error.strerror}): run `make up`, or set "
                       f"RAY_AUTH_TOKEN_PATH to the cluster's token file") from None
    if not token:
        raise BadInput(f"the Ray token file {path} is empty: run `make up`, or put the cluster's token there")
    return token


class RayJobs:
    """address: the dashboard's URL. store_uri: whose jobs these are; jobs of two stores on one cluster never meet.

    Raises BadInput when there is no cluster or it refuses the token.
    """

    def __init__(self, address: str, store_uri: str) -> None:
        self.address = address.rstrip("/")
        self._owner = hashlib.sha256(store_uri.encode()).hexdigest()[:4]
        token = ray_token()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(base_url=self.address, timeout=20.0, trust_env=False, headers=headers)
        try:
            self._cluster = str(self._get("/api/version")["session_name"])
        except RunnerUnreachable as error:
            raise BadInput(f"no Ray cluster answers at {self.address} ({error}): {UP}") from None
        from ray.job_submission import JobSubmissionClient

        # the token is given, because Ray remembers for the life of a process whether and which one there was
        self._client = JobSubmissionClient(self.address, headers=dict(headers))

    def cluster(self) -> str:
        return self._cluster

    def name(self, submission_id: str) -> str:
        return f"{submission_id}-{self._owner}"

    def gone(self, cluster: str) -> bool:
        return False

    def submit(self, submission_id: str, order: Order) -> None:
        try:
            self._guard(lambda: self._client.submit_job(
                entrypoint=shlex.join(["python", *order.arguments]),
                submission_id=self.name(submission_id), runtime_env={"env_vars": dict(order.environment)},
                metadata={**order.metadata, "demand": json.dumps(dict(order.demand.amounts))}))
        except RuntimeError:
            if self.job(submission_id).status is JobStatus.ABSENT:  # refused for another reason than "exists"
                raise

    def job(self, submission_id: str) -> Job:
        answer = self._request("GET", f"/api/jobs/{self.name(submission_id)}")
        if answer.status_code == 404:
            return Job(status=JobStatus.ABSENT)
        raw = self._json(answer)
        return Job(status=GIVEN_BY_RAY[raw["status"]], message=raw.get("message") or "")

    def stop(self, submission_id: str) -> None:
        self._guard(lambda: self._client.stop_job(self.name(submission_id)))

    def resources(self) -> Resources | None:
        status = (self._get("/api/cluster_status").get("data") or {}).get("clusterStatus") or {}
        usage = (status.get("loadMetricsReport") or {}).get("usage")
        if not usage:
            return None
        jobs = self._json(self._request("GET", "/api/jobs/"))
        holders = {j["submission_id"]: json.loads(j["metadata"]["demand"]) for j in jobs
                   if GIVEN_BY_RAY.get(j["status"], JobStatus.FAILED).live and "demand" in (j.get("metadata") or {})}
        total = {name: offered for name, (_used, offered) in usage.items()}
        for name, amount in json.loads(os.environ.get(GROWS_TO) or "{}").items():
            total[name] = max(total.get(name, 0.0), float(amount))
        return Resources(total=total, used={name: used for name, (used, _offered) in usage.items()}, holders=holders)

    def _get(self, path: str) -> Any:
        return self._json(self._request("GET", path))

    def _request(self, method: str, path: str) -> httpx.Response:
        try:
            return self._http.request(method, path)
        except httpx.HTTPError as error:
            raise RunnerUnreachable(str(error) or type(error).__name__) from error

    def _json(self, answer: httpx.Response) -> Any:
        if answer.status_code in (401, 403):
            raise BadInput(f"the Ray cluster at {self.address} refused the token (HTTP {answer.status_code}): set "
                           f"RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the token file of that cluster; "
                           f"`make up` prints both")
        if answer.status_code >= 500:
            raise RunnerUnreachable(f"HTTP {answer.status_code}")
        try:
            answer.raise_for_status()
            return answer.json()
        except (httpx.HTTPStatusError, ValueError) as error:
            raise BadInput(f"{self.address} is not a Ray dashboard ({error}): {UP}") from None

    def _guard(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except (ConnectionError, OSError) as error:
            raise RunnerUnreachable(str(error) or type(error).__name__) from error
