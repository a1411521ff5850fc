"""Short control steps, in threads of the driver, under the same rules as jobs.

The "cluster" is the driver's own process, named so that another driver on this machine can see at once that it is gone.
The threads are daemons: a driver that is told to stop does not wait for them, and the record lets the next one go on.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from pipelines.runners import Job, JobStatus, Order, Resources
from pipelines.runners.processes import process_start


@lru_cache
def this_machine() -> str:
    """The host's name and this boot of it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
    except OSError:
        boot = "unknown"
    return f"{socket.gethostname()}/{boot}"


class DriverThreads:
    """execute: runs the attempt of an order to its end and says whether it succeeded."""

    def __init__(self, execute: Callable[[Order], bool]) -> None:
        self._execute = execute
        self._jobs: dict[str, JobStatus] = {}

    def cluster(self) -> str:
        return f"driver:{this_machine()}:{os.getpid()}:{process_start(os.getpid())}"

    def name(self, submission_id: str) -> str:
        return submission_id

    def gone(self, cluster: str) -> bool:
        kind, _, rest = cluster.partition(":")
        machine, _, process = rest.partition(":")
        if kind != "driver" or machine != this_machine():
            return False
        pid, _, started = process.partition(":")
        return process_start(int(pid)) != started

    def submit(self, submission_id: str, order: Order) -> None:
        if submission_id in self._jobs:
            return
        self._jobs[submission_id] = JobStatus.RUNNING
        threading.Thread(target=self._run, args=(submission_id, order), name=submission_id, daemon=True).start()

    def _run(self, submission_id: str, order: Order) -> None:
        done = False
        try:
            done = self._execute(order)
        finally:
            self._jobs[submission_id] = JobStatus.SUCCEEDED if done else JobStatus.FAILED

    def job(self, submission_id: str) -> Job:
        return Job(status=self._jobs.get(submission_id, JobStatus.ABSENT))

    def stop(self, submission_id: str) -> None:
        """A thread cannot be stopped; it stops itself when its place is lost."""

    def resources(self) -> Resources | None:
        return None
