"""A run: who started what, against which champions, and which artifacts it planned to read. Written once, at planning.

What happened afterwards is the run's journal (``runs/<run_id>/events/``); nothing here is ever changed.
"""

from __future__ import annotations

import getpass
import json
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pipelines.schema import read_json
from pipelines.stage import BadInput

if TYPE_CHECKING:
    from pipelines.store import ObjectStore

SCHEMA = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """steps: name -> {stage, depends_on}, in running order. champions: model -> the champion that gates compare with.
    roots: step -> key, for every key that was known at planning. driver: where the driver runs.
    """

    run_id: str
    recipe: str
    started: str
    who: str
    driver: Mapping[str, Any]
    steps: Mapping[str, Mapping[str, Any]]
    champions: Mapping[str, Any]
    roots: Mapping[str, str]
    resolved: Mapping[str, Any]

    def to_json(self) -> bytes:
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1).encode()


def new_run_id(recipe: str, now: datetime) -> str:
    """``<recipe>-<UTC stamp>-<4 hex>``; ids of one recipe sort by time, as far as the store's clock tells it apart."""
    stamp = now.astimezone(UTC)
    return f"{recipe}-{stamp:%Y%m%dT%H%M%S}.{stamp.microsecond // 1000:03d}Z-{secrets.token_hex(2)}"


def here() -> dict[str, Any]:
    """The driver as a person would look for it."""
    job = os.environ.get("RAY_JOB_SUBMISSION_ID")
    return {"host": socket.gethostname(), "pid": os.getpid(), **({"ray_job": job} if job else {})}


def who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a uid without a name, as in many containers
        return str(os.getuid())


def write_run(store: ObjectStore, run: Run) -> None:
    store.create(f"runs/{run.run_id}/run.json", run.to_json())


def read_run(store: ObjectStore, run_id: str) -> Run:
    """Raises BadInput for an unknown run, or one written by newer code."""
    stored = store.get(f"runs/{run_id}/run.json")
    if stored is None:
        raise BadInput(f"no run {run_id!r} in {store.uri}; `llavactl runs` lists them")
    return Run(**read_json(stored.body, SCHEMA, f"the run {run_id}"))


def run_ids(store: ObjectStore) -> list[str]:
    """Every run of the store, oldest first."""
    ids = [i.key.split("/")[1] for i in store.list("runs/") if i.key.endswith("/run.json")]
    return sorted(ids, key=lambda run_id: run_id.rsplit("-", 2)[1:])
