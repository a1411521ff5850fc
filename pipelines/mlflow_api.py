"""MLflow's REST API, as much of it as the pipeline writes.

Every call answers or fails within seconds: MLflow's own client retries for minutes, which a training run must not wait
for. Two failures are told apart, since only one of them is worth trying again: MlflowDown and MlflowRefused.
Credentials, where a server wants them, come from MLflow's own variables (MLFLOW_TRACKING_TOKEN, or _USERNAME and
_PASSWORD).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from pipelines.stage import BadInput

TIMEOUT_S = 10.0


class MlflowDown(Exception):
    """The server cannot be reached, or is in trouble: the same call may succeed later."""


class MlflowRefused(Exception):
    """The server understood and said no. code: MLflow's error code, such as RESOURCE_DOES_NOT_EXIST."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class MlflowApi:
    """One server. Raises BadInput when the URI is not one of a server."""

    def __init__(self, uri: str, timeout_s: float = TIMEOUT_S) -> None:
        import httpx

        if not uri.startswith(("http://", "https://")):
            raise BadInput(f"MLFLOW_TRACKING_URI={uri!r} is no server; give http://host:port, or unset it to record "
                           f"nothing in MLflow")
        token, user = os.environ.get("MLFLOW_TRACKING_TOKEN"), os.environ.get("MLFLOW_TRACKING_USERNAME")
        self._client = httpx.Client(
            base_url=uri.rstrip("/"), timeout=timeout_s,
            headers={"Authorization": f"Bearer {token}"} if token else None,
            auth=(user, os.environ.get("MLFLOW_TRACKING_PASSWORD", "")) if user and not token else None)

    def post(self, endpoint: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._call("POST", f"/api/2.0/mlflow/{endpoint}", json=body)

    def get(self, endpoint: str, query: Mapping[str, Any]) -> dict[str, Any]:
        return self._call("GET", f"/api/2.0/mlflow/{endpoint}", params=query)

    def delete(self, endpoint: str, body: Mapping[str, Any]) -> None:
        self._call("DELETE", f"/api/2.0/mlflow/{endpoint}", json=body)

    def put_artifact(self, artifact_uri: str, name: str, content: bytes) -> None:
        """Write one file of a run through the server. A run whose artifacts lie elsewhere is refused."""
        scheme, _, path = artifact_uri.partition(":")
        if scheme != "mlflow-artifacts":
            raise MlflowRefused(f"MLflow does not serve this run's artifacts, they lie at {artifact_uri}", "ELSEWHERE")
        target = quote(f"{path.strip('/')}/{name}")
        self._call("PUT", f"/api/2.0/mlflow-artifacts/artifacts/{target}", content=content)

    def close(self) -> None:
        self._client.close()

    def _call(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        import httpx

        try:
            reply = self._client.request(method, path, **request)
        except httpx.HTTPError as error:
            raise MlflowDown(f"MLflow at {self._client.base_url} does not answer: {error}") from error
        if reply.status_code >= 500 or reply.status_code == 429:
            raise MlflowDown(f"MLflow answers {reply.status_code} to {path}")
        try:
            answer = reply.json() if reply.content else {}
        except ValueError:
            answer = {"message": reply.text[:200]}
        if reply.status_code >= 400:
            raise MlflowRefused(f"MLflow refuses {path}: {answer.get('message', reply.status_code)}",
                                answer.get("error_code", str(reply.status_code)))
        return answer
