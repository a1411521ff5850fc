"""Named crash points: with nothing set, a point costs one look into the environment and does nothing.

``PIPELINE_FAULT=<point>:<what>[:nth]`` switches one on in every process that inherits it; ``what`` is

    kill         the process ends at once, as by the kernel (SIGKILL)
    raise        the point raises Fault
    stall        the whole process stops, heartbeat included, until it is sent SIGCONT
    drop-reply   the store did what it was asked, and the answer is lost on the way

and ``nth`` counts the process's own passes of that point, from 1. So any interleaving can be built on purpose.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter

from pipelines.stage import BadInput

VARIABLE = "PIPELINE_FAULT"

POINTS: dict[str, str] = {
    "store.create.reply": "a conditional create was carried out; its answer is on the way",
    "store.replace.reply": "a conditional replace was carried out; its answer is on the way",
    "store.put.reply": "a plain write was carried out; its answer is on the way",
    "reserve.before": "the driver is about to reserve an epoch",
    "reserve.after": "an epoch is reserved, nothing is submitted yet",
    "claim.before": "the attempt is about to turn its reservation into its place",
    "claim.after": "the attempt holds its place, the stage has not begun",
    "publish.before_files": "the stage is done, no file of it is in the store",
    "publish.between_files": "a file of the artifact is in the store, others may not be",
    "publish.before_manifest": "all files are in the store, the manifest is not",
    "publish.before_commit": "the manifest is in the store, the record does not name it",
    "publish.after_commit": "the record names the manifest, the attempt has not ended",
    "damage.before": "the record is about to be marked as damaged or forgotten",
    "observe.after": "an outside answer is in the store, its asker does not know yet",
    "register.before_champion": "the version is registered as candidate, the champion has not moved",
    "journal.after": "an event is in the journal, the driver has not gone on",
}


class Fault(Exception):
    """Raised by a crash point that was told to raise."""


class ReplyDropped(ConnectionError):
    """Raised by a crash point that was told to lose the answer."""


_passes: Counter[str] = Counter()
_lock = threading.Lock()


def crash_point(name: str) -> None:
    """Do what PIPELINE_FAULT says about this point. Raises BadInput when it names no known point or action."""
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    point, what, nth = _parse(wanted)
    if name not in POINTS:
        raise KeyError(f"the crash point {name!r} is not listed in pipelines/faults.py")
    if point != name:
        return
    with _lock:
        _passes[name] += 1
        if _passes[name] != nth:
            return
    match what:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stall":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "drop-reply":
            raise ReplyDropped(f"the answer was lost at {name}")
        case _:
            raise Fault(f"told to fail at {name}")


def _parse(wanted: str) -> tuple[str, str, int]:
    point, _, rest = wanted.partition(":")
    what, _, nth = rest.partition(":")
    if point not in POINTS:
        raise BadInput(f"{VARIABLE}={wanted}: no crash point {point!r}; there are {', '.join(POINTS)}")
    if what not in ("kill", "raise", "stall", "drop-reply"):
        raise BadInput(f"{VARIABLE}={wanted}: write it as <point>:<kill|raise|stall|drop-reply>[:nth]")
    if nth and not (nth.isdigit() and int(nth) > 0):
        raise BadInput(f"{VARIABLE}={wanted}: {nth!r} is not a count from 1")
    return point, what, int(nth or 1)
