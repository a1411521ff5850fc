"""Attempts as processes of this machine, under the rules of a cluster: an id is used once, and its end is kept.

``<folder>/<id>/`` is made by exactly one submitter (mkdir is atomic); the process is its own session, so it outlives
the driver; a small shell keeps the exit status, so the end is known to whoever asks later. A process that is gone
without a status was killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from pipelines.runners import Job, JobStatus, Order, Resources

SHELL = """
trap : TERM
"$@" >"$JOB_HOME/output" 2>&1
echo $? >"$JOB_HOME/status.part" && mv "$JOB_HOME/status.part" "$JOB_HOME/status"
"""
SETTLE_S = 5.0  # a submitter that died between mkdir and the process leaves an id that will never start


def process_start(pid: int) -> str | None:
    """The kernel's start time of a live process: with the pid it names one process for ever. None when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in ("Z", "X") else fields[19]


class ProcessJobs:
    """folder: where jobs and their output are kept. cpus: what the machine is said to have."""

    def __init__(self, folder: Path, cpus: float = 3.0) -> None:
        self.folder = folder
        self.cpus = cpus
        folder.mkdir(parents=True, exist_ok=True)

    def cluster(self) -> str:
        return f"processes:{self.folder.resolve()}"

    def name(self, submission_id: str) -> str:
        return submission_id

    def gone(self, cluster: str) -> bool:
        return False

    def submit(self, submission_id: str, order: Order) -> None:
        home = self.folder / submission_id
        try:
            home.mkdir()
        except FileExistsError:
            return
        (home / "demand.json").write_text(json.dumps(dict(order.demand.amounts)))
        command = [sys.executable, *order.arguments]
        with open(os.devnull) as nothing:
            process = subprocess.Popen(["sh", "-c", SHELL, "sh", *command], start_new_session=True, stdin=nothing,
                                       env={**os.environ, **order.environment, "JOB_HOME": str(home)},
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        part = home / "pid.part"
        part.write_text(f"{process.pid} {process_start(process.pid)}")
        part.rename(home / "pid")

    def job(self, submission_id: str) -> Job:
        home = self.folder / submission_id
        if not home.is_dir():
            return Job(status=JobStatus.ABSENT)
        alive = self._alive(home)
        status = home / "status"
        if status.exists():  # read after liveness: the status is written before the shell ends
            code = int(status.read_text())
            if (home / "stopped").exists():
                return Job(status=JobStatus.STOPPED)
            return Job(status=JobStatus.SUCCEEDED) if code == 0 else Job(
                status=JobStatus.FAILED, message=f"exit status {code}{self._tail(home)}")
        if alive:
            return Job(status=JobStatus.RUNNING)
        if alive is None and time.time() - home.stat().st_mtime < SETTLE_S:
            return Job(status=JobStatus.PENDING)
        if (home / "stopped").exists():
            return Job(status=JobStatus.STOPPED)
        return Job(status=JobStatus.FAILED, message="the process is gone without an exit status: it was killed")

    def stop(self, submission_id: str) -> None:
        home = self.folder / submission_id
        if self._alive(home):
            (home / "stopped").touch()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid(submission_id), signal.SIGTERM)

    def pid(self, submission_id: str) -> int:
        """The leader of the job's process group."""
        return int((self.folder / submission_id / "pid").read_text().split()[0])

    def resources(self) -> Resources:
        holders = {home.name: json.loads((home / "demand.json").read_text()) for home in self.folder.iterdir()
                   if (home / "demand.json").exists() and self.job(home.name).status.live}
        return Resources(total={"CPU": self.cpus, "GPU": 0.0}, holders=holders)

    def _alive(self, home: Path) -> bool | None:
        """None when the process was never noted."""
        try:
            pid, started = (home / "pid").read_text().split()
        except FileNotFoundError:
            return None
        return process_start(int(pid)) == started

    @staticmethod
    def _tail(home: Path) -> str:
        output = home / "output"
        lines = output.read_text(errors="replace").strip().splitlines()[-3:] if output.exists() else []
        return ": " + " | ".join(lines) if lines else ""
