"""How an attempt ended, as one object in its own namespace: what decides whether it is worth another attempt.

The attempt writes it; the driver reads it. An attempt that was killed leaves none, and that too is a cause
(INFRASTRUCTURE): nothing about the end of an attempt is guessed from its output.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pipelines.stage import BadInput

if TYPE_CHECKING:
    from pipelines.store import ObjectStore

SCHEMA = 1


class AttemptLost(Exception):
    """The attempt no longer holds its place: it stops, and publishes nothing."""


class Cause(enum.Enum):
    """Why an attempt ended."""

    DONE = "done"  # published, or found published by another
    USER_CODE = "user_code"  # an exception in the stage: no retry, show the traceback
    BAD_INPUT = "bad_input"  # a person must mend the input
    CODE_CHANGED = "code_changed"  # the code here is not the code that the key names
    OUT_OF_MEMORY = "out_of_memory"  # stop, and say which knob helps
    INFRASTRUCTURE = "infrastructure"  # a node, the network, the store: retry within the budget
    TIMED_OUT = "timed_out"  # longer than run.timeout_s: retry within the budget
    PREEMPTED = "preempted"  # told to leave: retry without spending the budget
    LOST = "lost"  # another attempt holds the place
    CANCELLED = "cancelled"  # stopped by a person

    @property
    def retried(self) -> bool:
        return self in (Cause.INFRASTRUCTURE, Cause.TIMED_OUT, Cause.PREEMPTED, Cause.LOST)

    @property
    def spends_budget(self) -> bool:
        return self in (Cause.INFRASTRUCTURE, Cause.TIMED_OUT)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """cause: why. message: one line for a person. traceback: the stage's own, empty unless the code failed."""

    cause: Cause
    message: str = ""
    traceback: str = ""

    def to_json(self) -> bytes:
        return json.dumps({"schema": SCHEMA, **asdict(self), "cause": self.cause.value}).encode()

    @classmethod
    def from_json(cls, body: bytes) -> Outcome:
        raw = json.loads(body)
        if raw["schema"] > SCHEMA:
            raise BadInput(f"an attempt's outcome has schema {raw['schema']}, newer than this code's {SCHEMA}: update")
        return cls(cause=Cause(raw["cause"]), message=raw["message"], traceback=raw["traceback"])


def read_outcome(store: ObjectStore, attempt_prefix: str) -> Outcome | None:
    stored = store.get(f"{attempt_prefix}/outcome.json")
    return Outcome.from_json(stored.body) if stored else None


def write_outcome(store: ObjectStore, attempt_prefix: str, outcome: Outcome) -> None:
    store.put(f"{attempt_prefix}/outcome.json", outcome.to_json())


MEMORY = {"MemoryError", "OutOfMemoryError", "ObjectStoreFullError"}
MEMORY_WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory")
CLUSTER = {"RayActorError", "ActorUnavailableError", "WorkerCrashedError", "NodeDiedError", "ObjectLostError",
           "RaySystemError", "RpcError", "LocalRayletDiedError", "TaskUnschedulableError", "ActorUnschedulableError",
           "WorkerHealthCheckTimeoutError", "WorkerHealthCheckFailedError", "WorkerGroupStartupTimeoutError",
           "WorkerGroupStartupFailedError", "ControllerError", "StoreUnavailable", "ConnectionError",
           "EndpointConnectionError", "ReadTimeoutError", "ConnectTimeoutError"}  # ConnectionError: its kinds too


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error, what caused it, and what a framework wrapped in it (Ray's task and training errors), each once."""
    todo, seen = [error], set()
    while todo:
        if id(link := todo.pop(0)) in seen:
            continue
        seen.add(id(link))
        yield link
        wrapped = [link.__cause__, getattr(link, "cause", None), getattr(link, "training_failed_error", None)]
        failures = getattr(link, "worker_failures", None)  # Ray Train: rank -> its error
        wrapped += list(failures.values()) if isinstance(failures, dict) else []
        todo += [w for w in wrapped if isinstance(w, BaseException)]


def _is_a(error: BaseException, names: set[str]) -> bool:
    """By class name, so that nothing of Ray or boto3 need be imported to know its errors."""
    return any(kind.__name__ in names for kind in type(error).__mro__)


def classify(error: BaseException) -> tuple[Cause, BaseException]:
    """The cause of an exception, and the link of its chain that says so."""
    links = list(chain(error))
    for link in links:
        if isinstance(link, BadInput):
            return Cause.BAD_INPUT, link
        if isinstance(link, AttemptLost):
            return Cause.LOST, link
    for link in links:
        if _is_a(link, MEMORY) or any(w in str(link).lower() for w in MEMORY_WORDS):
            return Cause.OUT_OF_MEMORY, link
    for link in links:
        if isinstance(link, OSError) and link.errno == 28:  # ENOSPC: a person must make room
            return Cause.BAD_INPUT, BadInput(f"the disk is full: {link}; free space there, or point LLAVA_STATE "
                                             f"at a larger disk, and run again")
    for link in links:
        if _is_a(link, CLUSTER):
            return Cause.INFRASTRUCTURE, link
    return Cause.USER_CODE, error
