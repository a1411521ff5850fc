"""Processes of a service: all of them are found, and none of anybody else's.

A service's processes share its session, and carry a mark in their environment, which children inherit even when they
leave the session or outlive their parent (Ray's job drivers do both). ``stop`` returns only when none is left.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from infra.local.installation import ROOT, Installation, write_private
from pipelines.stage import BadInput

MARK = "LLAVA_SERVICE"
GRACE_S = 10.0


def mark(installation: Installation, service: str) -> str:
    return f"{installation.identity}#{service}"


def launch(installation: Installation, service: str, command: Sequence[str], extra: dict[str, str]) -> int:
    """Start the service's main process in its own session, from the repository root; returns its pid.

    Raises BadInput when its program is not installed.
    """
    log = installation.log(service)
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = installation.process_environment() | extra | {MARK: mark(installation, service)}
    try:
        with open(log, "ab") as out:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=out,
                                       stderr=subprocess.STDOUT, start_new_session=True)
    except FileNotFoundError:
        raise BadInput(f"{command[0]} is not installed: run `make venv`, which installs all that is pinned") from None
    started = psutil.Process(process.pid).create_time()
    write_private(installation.pid_file(service), json.dumps({"pid": process.pid, "started": started}))
    return process.pid


def recorded(installation: Installation, service: str) -> bool:
    """Whether the service was started and not stopped since."""
    return installation.pid_file(service).is_file()


def main_process(installation: Installation, service: str) -> psutil.Process | None:
    """The recorded main process while it lives; a number that another process got since does not count."""
    if (record := _recorded_main(installation, service)) is None:
        return None
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(record["pid"])
        if abs(process.create_time() - record["started"]) < 1 and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def marked(installation: Installation, service: str) -> list[psutil.Process]:
    """Every live process of the service, whichever parent it has: by its mark, its session, or its parent's.

    The mark alone is not enough: a process that gives itself a title, as Ray's do, overwrites its environment in part.
    """
    wanted, live = mark(installation, service), []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if process.status() != psutil.STATUS_ZOMBIE:
                live.append((process, os.getsid(process.pid)))
    roots = [p for p, _session in live if _environment(p).get(MARK) == wanted]
    leaders = {p.pid for p in roots}
    sessions = {session for _p, session in live if session in leaders}  # ours only: a mark may be in another's session
    if main := _recorded_main(installation, service):
        sessions.add(main["pid"])
        live = [(p, s) for p, s in live if s != main["pid"] or p.create_time() > main["started"] - 1]
    roots += [p for p, session in live if session in sessions]
    found = {p.pid: p for p in roots}
    for root in roots:
        with contextlib.suppress(psutil.Error):
            found |= {p.pid: p for p in root.children(recursive=True)}
    keep = {psutil.Process().pid, *(p.pid for p in psutil.Process().parents())}
    return [p for pid, p in found.items() if pid not in keep]


def _environment(process: psutil.Process) -> dict[str, str]:
    with contextlib.suppress(psutil.Error):
        return process.environ()
    return {}


def _recorded_main(installation: Installation, service: str) -> dict[str, Any] | None:
    with contextlib.suppress(FileNotFoundError):
        return json.loads(installation.pid_file(service).read_text())
    return None


def stop(installation: Installation, service: str) -> int:
    """End every process of the service: the main one is asked first, the rest is killed. Returns how many there were.

    Raises TimeoutError when one does not end even so.
    """
    ended = len(marked(installation, service))
    if main := main_process(installation, service):
        with contextlib.suppress(psutil.Error):
            main.terminate()
        psutil.wait_procs([main], timeout=GRACE_S)
    deadline = time.monotonic() + GRACE_S
    while left := marked(installation, service):
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes of {service} do not end: {', '.join(str(p.pid) for p in left)}")
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=1)
    installation.pid_file(service).unlink(missing_ok=True)
    return ended


def tail(path: Path, lines: int = 15) -> str:
    """The end of a log file."""
    text = path.read_text(errors="replace") if path.is_file() else ""
    return "\n".join(text.splitlines()[-lines:])
