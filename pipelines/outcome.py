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

from pipelines.schema import read_json
from pipelines.stage import BadInput

if TYPE_CHECKING:
    from pipelines.store import ObjectStore

SCHEMA = 1


class AttemptLost(Exception):
    """The attempt no longer holds its place: it stops, and publishes nothing."""


class Preempted(Exception):
    """Told to leave the node: the work goes on elsewhere."""


class Cancelled(Exception):
    """A person asked for it to stop."""


class CodeChanged(Exception):
    """The code here is not the code that the key names."""


class DamagedInput(Exception):
    """An input's bytes are not what its record says. step: whose output it is."""

    def __init__(self, step: str, message: str) -> None:
        super().__init__(message)
        self.step = step


class Cause(enum.Enum):
    """Why an attempt ended."""

    DONE = "done"  # published, or found published by another
    USER_CODE = "user_code"  # an exception in the stage: no retry, show the traceback
    BAD_INPUT = "bad_input"  # a person must mend the input
    CODE_CHANGED = "code_changed"  # the code here is not the code that the key names
    DAMAGED_INPUT = "damaged_input"  # an upstream artifact is missing or altered: it is made again first
    OUT_OF_MEMORY = "out_of_memory"  # stop, and say which knob helps
    INFRASTRUCTURE = "infrastructure"  # a node, the network, the store: retry within the budget
    TIMED_OUT = "timed_out"  # longer than run.timeout_s: retry within the budget
    PREEMPTED = "preempted"  # told to leave: retry without spending the budget
    LOST = "lost"  # another attempt holds the place
    CANCELLED = "cancelled"  # stopped by a person

    @property
    def retried(self) -> bool:
        return self.spends_budget or self in (Cause.PREEMPTED, Cause.LOST)

    @property
    def spends_budget(self) -> bool:
        return self in (Cause.INFRASTRUCTURE, Cause.TIMED_OUT, Cause.DAMAGED_INPUT)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """cause: why. message: for a person. traceback: the stage's own, empty unless the code failed.
    about: the upstream step, if one is to blame.
    """

    cause: Cause
    message: str = ""
    traceback: str = ""
    about: str = ""

    def to_json(self) -> bytes:
        return json.dumps({"schema": SCHEMA, **asdict(self), "cause": self.cause.value}).encode()

    @classmethod
    def from_json(cls, body: bytes) -> Outcome:
        raw = read_json(body, SCHEMA, "an attempt's outcome")
        return cls(cause=Cause(raw["cause"]), message=raw["message"], traceback=raw["traceback"],
                   about=raw["about"])


def read_outcome(store: ObjectStore, attempt_prefix: str) -> Outcome | None:
    stored = store.get(f"{attempt_prefix}/outcome.json")
    return Outcome.from_json(stored.body) if stored else None


def write_outcome(store: ObjectStore, attempt_prefix: str, outcome: Outcome) -> None:
    store.put(f"{attempt_prefix}/outcome.json", outcome.to_json())


KNOWN = {BadInput: Cause.BAD_INPUT, AttemptLost: Cause.LOST, Preempted: Cause.PREEMPTED, Cancelled: Cause.CANCELLED,
         CodeChanged: Cause.CODE_CHANGED, DamagedInput: Cause.DAMAGED_INPUT}
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
    for kind, cause in KNOWN.items():
        for link in links:
            if isinstance(link, kind):
                return cause, link
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
