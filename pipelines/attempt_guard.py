"""What ends an attempt's process from outside the stage: a lost place, a time-out, a signal.

A stage that reports progress stops by itself when its place is lost. One that does not is ended here after a grace, so
that work in vain does not hold resources. Safety does not depend on it: a lost place cannot publish.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from pipelines.outcome import Cause, Outcome, Preempted, write_outcome

if TYPE_CHECKING:
    from pipelines.attempt_log import AttemptLog
    from pipelines.record import Holder
    from pipelines.spec import Spec
    from pipelines.store import ObjectStore

GRACE_S = 10.0


class Told(BaseException):
    """Thrown into the main thread by SIGTERM; a stage's own ``except Exception`` does not swallow it."""


class Guard:
    """Of one attempt that has its process to itself; made and used in the main thread."""

    def __init__(self, store: ObjectStore, spec: Spec, log: AttemptLog) -> None:
        self._store = store
        self._spec = spec
        self._log = log
        self._limit_s = float(spec.config["run"]["timeout_s"])

    @contextmanager
    def watching(self, holder: Holder) -> Iterator[None]:
        done = threading.Event()
        threading.Thread(target=self._watch, args=(holder, done), name="guard", daemon=True).start()
        before = signal.signal(signal.SIGTERM, self._told)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
            done.set()

    def _watch(self, holder: Holder, done: threading.Event) -> None:
        deadline = time.monotonic() + self._limit_s
        lost_since: float | None = None
        while not done.wait(0.5):
            if time.monotonic() > deadline:
                message = f"longer than {self._spec.step}.run.timeout_s = {self._limit_s:g} s"
                write_outcome(self._store, self._spec.prefix, Outcome(cause=Cause.TIMED_OUT, message=message))
                self._end(message)
            if holder.lost:
                lost_since = lost_since or time.monotonic()
                if time.monotonic() - lost_since > GRACE_S:
                    self._end("its place is lost")

    def _end(self, why: str) -> NoReturn:
        print(f"the attempt ends itself: {why}", file=sys.stderr, flush=True)
        self._log.close()
        os._exit(1)

    def _told(self, _signal: int, _frame: object) -> NoReturn:
        raise Told from Preempted("told to stop (SIGTERM)")
