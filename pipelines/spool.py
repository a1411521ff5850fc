"""A spool: records that could not be sent, kept in order in a file of bounded size, until they can be.

A file belongs to the process that holds its lock, so a spool that a dead process left is taken up by the next process
that replays, and by one only. A file is removed once all its records were sent; a crash in between sends some again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

Record = dict[str, Any]


class Spool:
    """Records of this process, and those that others left in the same folder."""

    def __init__(self, folder: Path, name: str, limit_bytes: int) -> None:
        self._path = folder / f"{name}-{os.getpid()}-{secrets.token_hex(4)}.jsonl"
        self._limit = limit_bytes
        self._file: IO[str] | None = None
        self.count = 0

    def append(self, records: list[Record]) -> int:
        """Keep the records; returns how many had no room (or no disk) and are lost."""
        kept = 0
        with contextlib.suppress(OSError):
            if records and self._file is None:
                self._file = self._open()
            for record in records:
                assert self._file is not None
                if self._file.tell() >= self._limit:
                    break
                self._file.write(json.dumps(record) + "\n")
                kept += 1
            if self._file:
                self._file.flush()
        self.count += kept
        return len(records) - kept

    def replay(self, send: Callable[[list[Record]], None]) -> None:
        """Send everything that waits, others' leftovers first. What ``send`` raises ends it, and nothing is lost."""
        for path in sorted(self._path.parent.glob("*.jsonl")):
            if path != self._path:
                with open(path) as left, contextlib.suppress(BlockingIOError):
                    fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    send(_records(left))
                    path.unlink(missing_ok=True)
        if self._file:
            self._file.seek(0)
            send(_records(self._file))
            self._path.unlink(missing_ok=True)
            self._file.close()
            self._file, self.count = None, 0

    def _open(self) -> IO[str]:
        """The file, locked. Another process that saw it before the lock takes it for a leftover and removes it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            file = open(self._path, "a+")  # noqa: SIM115 - held, with its lock, until it was sent
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file.fileno()).st_nlink:
                return file
            file.close()

    def close(self) -> None:
        """Let go of the file: it stays, for another process to send."""
        if self._file:
            self._file.close()
            self._file = None


def _records(file: IO[str]) -> list[Record]:
    """Its records; a last line that a crash cut short is no record."""
    records = []
    for line in file:
        with contextlib.suppress(ValueError):
            records.append(json.loads(line))
    return records
