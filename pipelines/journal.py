"""The journal of a run: events, appended and never changed, and their fold into the run's state.

Nothing decides by the journal (the step records do); it is what people read: ``runs``, ``show``, the page of a run.
Several processes may write to one run's journal, and all readers see one order.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pipelines.appendlog import AppendLog
from pipelines.faults import crash_point

if TYPE_CHECKING:
    from pipelines.store import ObjectStore


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """kind: one of those that ``fold`` knows, or any other, which is kept and shown. time: the writer's clock, UTC."""

    seq: int
    time: str
    kind: str
    step: str | None
    data: Mapping[str, Any]


class Journal:
    """The journal of one run. For any number of threads and processes."""

    def __init__(self, store: ObjectStore, run_id: str) -> None:
        self._log = AppendLog(store, f"runs/{run_id}/events")
        self._events: list[Event] = []
        self._lock = threading.Lock()

    def append(self, kind: str, step: str | None = None, **data: Any) -> Event:
        """Add one event behind all others. data: JSON."""
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "kind": kind, "step": step, "data": data}
        with self._lock:
            while (number := self._log.append([line])) is None:
                self._read()
            event = Event(seq=number, **line)
            self._events.append(event)
        crash_point("journal.after")
        return event

    def read(self, after: int = 0) -> list[Event]:
        """Every event behind that number, in order."""
        with self._lock:
            self._read()
            return [e for e in self._events if e.seq > after]

    def _read(self) -> None:
        for number, lines in self._log.read_new():
            self._events += [Event(seq=number, **line) for line in lines]


@dataclass(kw_only=True, slots=True)
class StepState:
    """What the journal says of one step. state: planned, reserved, submitted, running, done, reused, failed, blocked,
    rejected or cancelled. attempts: epochs that this run saw.
    """

    state: str = "planned"
    action: str = ""
    reasons: list[str] = field(default_factory=list)
    key: str | None = None
    epoch: int | None = None
    submission_id: str | None = None
    attempts: list[int] = field(default_factory=list)
    started: str | None = None
    ended: str | None = None
    digest: str | None = None
    cause: str | None = None
    error: str | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True, slots=True)
class RunState:
    """What the journal says of a run. state: planned, running or ended. exit: of its last driver."""

    state: str = "planned"
    exit: int | None = None
    started: str | None = None
    ended: str | None = None
    steps: dict[str, StepState] = field(default_factory=dict)


LIVE = {"reserved": "reserved", "submitted": "submitted", "attached": "running", "running": "running"}
FINAL = ("done", "reused", "failed", "blocked", "rejected", "cancelled")
TOLD = ("action", "key", "epoch", "submission_id", "digest", "cause", "error", "metrics")


def fold(events: Iterable[Event]) -> RunState:
    """The state of the run after these events. Kinds that it does not know change nothing."""
    run = RunState()
    for event in events:
        if event.kind == "run_started":
            run.state, run.exit, run.ended = "running", None, None
            run.started = run.started or event.time
        elif event.kind == "run_ended":
            run.state, run.exit, run.ended = "ended", event.data.get("exit"), event.time
        elif event.step is not None:
            _fold_step(run.steps.setdefault(event.step, StepState()), event)
    return run


def _fold_step(step: StepState, event: Event) -> None:
    if event.kind == "planned":
        step.state = "planned"
    elif event.kind in LIVE:
        step.state, step.ended, step.cause, step.error = LIVE[event.kind], None, None, None
        step.started = step.started or event.time
    elif event.kind in FINAL:
        step.state, step.ended = event.kind, event.time
    elif event.kind != "attempt_ended":
        return
    for name in TOLD:
        if event.data.get(name) is not None:
            setattr(step, name, event.data[name])
    if "reasons" in event.data:
        step.reasons = list(event.data["reasons"])
    epoch = event.data.get("epoch")
    if epoch is not None and epoch not in step.attempts:
        step.attempts.append(epoch)
