"""Where the services are: read once from the environment, with a clear error for what is missing.

``llavactl up`` writes ``<state>/env.json``; variables already set in the environment win over it, so the same code
runs on a laptop and on a cluster whose nodes carry the variables themselves.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from pipelines.stage import BadInput

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Addresses and folders. Holds no secret: keys stay in the AWS credentials file and the Ray token file."""

    state: Path
    store_uri: str
    ray_address: str  # dashboard, for job submission
    mlflow_uri: str | None
    pictures_url: str | None
    serve_host: str
    serve_port: int
    lease_ttl_s: float

    @property
    def cache(self) -> Path:
        return self.state / "cache"


def state_folder() -> Path:
    return Path(os.environ.get("LLAVA_STATE") or ROOT / ".state").expanduser().resolve()


def load_environment() -> None:
    """Take what ``llavactl up`` wrote for every variable that is not set."""
    file = state_folder() / "env.json"
    if file.is_file():
        for name, value in json.loads(file.read_text()).items():
            os.environ.setdefault(name, str(value))


def load_settings() -> Settings:
    """Raises BadInput when no store is named."""
    load_environment()
    store_uri = os.environ.get("LLAVA_STORE")
    if not store_uri:
        raise BadInput("LLAVA_STORE is not set and no local services are up: run `make up` here, or export "
                       "LLAVA_STORE=s3://bucket/prefix on a cluster")
    return Settings(
        state=state_folder(),
        store_uri=store_uri,
        ray_address=os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS") or "http://127.0.0.1:8265",
        mlflow_uri=os.environ.get("MLFLOW_TRACKING_URI"),
        pictures_url=os.environ.get("LLAVA_PICTURES_URL"),
        serve_host=os.environ.get("LLAVA_SERVE_HOST", "127.0.0.1"),
        serve_port=int(os.environ.get("LLAVA_SERVE_PORT", "8000")),
        lease_ttl_s=float(os.environ.get("LLAVA_LEASE_TTL_S", "30")),
    )
