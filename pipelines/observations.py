"""Observations: answers of the outside world, asked for once and then final.

A web server, a teacher or a judge answers differently tomorrow. What it answered is written before it is used, the
first answer that was written stands for ever, and every later attempt of the key reads it: so a step that is killed and
run again comes to the same result. Attempts of all epochs share them.
"""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

from pipelines.appendlog import AppendLog
from pipelines.faults import crash_point

if TYPE_CHECKING:
    from pipelines.store import ObjectStore


class Observations:
    """What is known of one step's key. For any number of threads; answers that arrive together are written together."""

    def __init__(self, store: ObjectStore, step: str, key: str) -> None:
        self._log = AppendLog(store, f"observations/{step}/{key}")
        self._known: dict[str, dict[str, Any]] | None = None
        self._waiting: dict[str, dict[str, Any]] = {}
        self._state = threading.Lock()  # of the two dictionaries
        self._writing = threading.Lock()  # of the log

    def get(self, name: str) -> dict[str, Any] | None:
        """The final answer; None when nobody has recorded one."""
        self._load()
        with self._state:
            return (self._known or {}).get(name)

    def record(self, name: str, value: dict[str, Any]) -> dict[str, Any]:
        """Make the answer final and durable. Returns what is final: this value, or the one that was written first.

        value: JSON; small enough that all answers of a step fit into memory.
        """
        value = json.loads(json.dumps(value, allow_nan=False))  # what a later attempt will read
        self._load()
        with self._state:
            if (final := (self._known or {}).get(name)) is not None:
                return final
            self._waiting.setdefault(name, value)
        self.flush()
        with self._state:
            return (self._known or {})[name]

    def flush(self) -> None:
        """When it returns, everything that was recorded before is durable."""
        with self._writing:
            while True:
                with self._state:
                    lines = [{"name": n, "value": v} for n, v in self._waiting.items()]
                if not lines:
                    return
                if self._log.append(lines) is None:
                    self._read()  # another attempt wrote: its answers came first
                    continue
                crash_point("observe.after")
                self._learn(lines)

    def _load(self) -> None:
        if self._known is None:
            with self._writing:
                if self._known is None:
                    self._read()

    def _read(self) -> None:
        for _, lines in self._log.read_new():
            self._learn(lines)
        if self._known is None:
            self._known = {}

    def _learn(self, lines: Any) -> None:
        with self._state:
            known = self._known if self._known is not None else {}
            for line in lines:
                known.setdefault(line["name"], line["value"])
                self._waiting.pop(line["name"], None)
            self._known = known
