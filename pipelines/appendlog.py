"""Append-only logs in an object store: numbered segments, each written once, in one order for everybody.

A segment's name is its number, created only if nobody has that number: who is refused reads what is there and takes the
next. So every reader sees the same order, nothing is ever written over, and several processes may append at once.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from pipelines.schema import read_json

if TYPE_CHECKING:
    from pipelines.store import ObjectStore

SCHEMA = 1
PARALLEL = 16
Lines = Sequence[dict[str, Any]]


class AppendLog:
    """The log under ``prefix``. Not for several threads at once; any number of processes."""

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self._store = store
        self._prefix = prefix
        self._next = 1

    def read_new(self) -> Iterator[tuple[int, Lines]]:
        """(number, lines) of every segment that this object has neither read nor written yet, in order."""
        numbers = sorted(n for info in self._store.list(f"{self._prefix}/")
                         if (n := int(info.key.rpartition("/")[2].partition(".")[0])) >= self._next)
        with ThreadPoolExecutor(PARALLEL, thread_name_prefix="log") as pool:
            for number, lines in zip(numbers, pool.map(self._read, numbers), strict=True):
                if number != self._next:
                    break  # a listing that is behind, as some servers give
                self._next = number + 1
                yield number, lines
        while stored := self._store.get(self._key(self._next)):
            self._next += 1
            yield self._next - 1, self._parse(stored.body, self._next - 1)

    def append(self, lines: Lines) -> int | None:
        """Write one segment behind all that were read; its number, or None when another's stands there: read on."""
        head = {"schema": SCHEMA, "nonce": secrets.token_hex(8)}
        body = b"".join(json.dumps(line, allow_nan=False).encode() + b"\n" for line in (head, *lines))
        number = self._next
        if self._store.create(self._key(number), body) is None:
            return None
        self._next = number + 1
        return number

    def _key(self, number: int) -> str:
        return f"{self._prefix}/{number:08d}.jsonl"

    def _read(self, number: int) -> Lines:
        if (stored := self._store.get(self._key(number))) is None:
            raise FileNotFoundError(f"{self._store.uri}/{self._key(number)} was listed and is gone")
        return self._parse(stored.body, number)

    def _parse(self, body: bytes, number: int) -> Lines:
        head, *lines = body.rstrip(b"\n").split(b"\n")
        read_json(head, SCHEMA, self._key(number))
        return [json.loads(line) for line in lines]
