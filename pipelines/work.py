"""What a driver knows of one step while it runs: its phase, and what it saw of its attempts. Lost with the driver."""

from __future__ import annotations

import enum
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from pipelines.artifact import Manifest
from pipelines.dag import Step
from pipelines.identity import Identity
from pipelines.outcome import Cause


class ExitCode(enum.IntEnum):
    """How a run ended, for whoever started it."""

    DONE = 0
    FAILED = 1
    BAD_INPUT = 2
    REJECTED = 10  # a gate said no: a result, not an error
    HELD = 20  # another driver's attempt holds a step, and --no-wait was given
    CANCELLED = 30  # stopped; what runs goes on running


class Phase(enum.Enum):
    """Where a step stands in this run."""

    WAITING = "waiting"  # for its inputs, for resources, or for its next attempt
    LIVE = "live"  # an attempt holds its place
    DONE = "done"
    FAILED = "failed"
    BLOCKED = "blocked"

    @property
    def final(self) -> bool:
        return self in (Phase.DONE, Phase.FAILED, Phase.BLOCKED)


@dataclass(kw_only=True)
class Work:
    """watched: attempts (generation, epoch) that were live under these eyes. running: those seen at work. judged: those
    whose end was dealt with. failures: what was spent of the budget. took_turn: an effect's own execution has begun in
    this run. said: the last reason for waiting that was shown. waits_since: for resources that no step holds.
    """

    step: Step
    phase: Phase = Phase.WAITING
    identity: Identity | None = None
    manifest: Manifest | None = None
    worked: bool = False
    cause: Cause | None = None
    exit: ExitCode | None = None
    reason: str = ""
    watched: set[tuple[int, int]] = field(default_factory=set)
    running: set[tuple[int, int]] = field(default_factory=set)
    judged: set[tuple[int, int]] = field(default_factory=set)
    failures: int = 0
    not_before: float = 0.0
    took_turn: bool = False
    said: str = ""
    waits_since: float | None = None
    live_since: float | None = None
    took_s: float | None = None

    def went_live(self) -> None:
        self.worked = True
        self.phase = Phase.LIVE
        if self.live_since is None:
            self.live_since = time.monotonic()

    def end(self, phase: Phase, reason: str, *, cause: Cause | None = None, exit: ExitCode | None = None) -> None:
        self.phase, self.reason, self.cause, self.exit = phase, reason, cause, exit
        if self.live_since is not None:
            self.took_s = time.monotonic() - self.live_since


def exit_code(works: Iterable[Work]) -> ExitCode:
    """The gravest end decides; a mistake in the input only if nothing else failed."""
    codes = {w.exit for w in works if w.exit is not None}
    for code in (ExitCode.CANCELLED, ExitCode.FAILED, ExitCode.BAD_INPUT, ExitCode.HELD, ExitCode.REJECTED):
        if code in codes:
            return code
    return ExitCode.DONE
