"""The output of an attempt, kept in the bucket: readable when the process, its node and the cluster are gone.

Output goes to where it always went, and in segments (``log/000000.txt``, ...) to the attempt's namespace every ten
seconds and at the end. A segment is written once, so shipping costs no more for a long log than for a short one.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipelines.store import StoreUnavailable

if TYPE_CHECKING:
    from pipelines.store import ObjectStore

EVERY_S = 10.0


class AttemptLog:
    """Collects text and ships it. Losing the store for a while loses nothing: the text waits for the next time."""

    def __init__(self, store: ObjectStore, prefix: str, every_s: float = EVERY_S) -> None:
        self._store = store
        self._prefix = prefix
        self._every_s = every_s
        self._held = bytearray()
        self._lock = threading.Lock()
        self._segment = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="attempt-log", daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> None:
        with self._lock:
            self._held += data

    def ship(self) -> None:
        """Everything collected so far becomes one segment. The writer never waits for the store."""
        with self._lock:
            text = bytes(self._held)
            self._held.clear()
        if not text:
            return
        try:
            self._store.put(f"{self._prefix}/log/{self._segment:06d}.txt", text)
        except StoreUnavailable:
            with self._lock:
                self._held[:0] = text
            return
        self._segment += 1

    def close(self) -> None:
        self._done.set()
        self._thread.join()
        self.ship()

    def _loop(self) -> None:
        while not self._done.wait(self._every_s):
            self.ship()


@contextlib.contextmanager
def tee_output(log: AttemptLog) -> Iterator[None]:
    """Within, all that this process and its children write to stdout and stderr also goes to the log."""
    reading, writing = os.pipe()
    kept = {fd: os.dup(fd) for fd in (1, 2)}

    def copy() -> None:
        while data := os.read(reading, 1 << 16):
            os.write(kept[1], data)
            log.write(data)

    thread = threading.Thread(target=copy, name="attempt-output", daemon=True)
    thread.start()
    for fd in kept:
        os.dup2(writing, fd)
    os.close(writing)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for fd, saved in kept.items():
            os.dup2(saved, fd)
        thread.join(timeout=2.0)  # a child that outlives us may hold the pipe open
        log.close()


def read_log(store: ObjectStore, prefix: str, after: str = "") -> Iterator[tuple[str, str]]:
    """(segment's key, text) in order, beginning behind the segment ``after``."""
    for info in sorted(store.list(f"{prefix}/log/"), key=lambda i: i.key):
        if info.key > after and (stored := store.get(info.key)):
            yield info.key, stored.body.decode(errors="replace")
