"""The reconciler: looks at what is, and takes the next step towards what should be, until nothing is left to do.

It keeps nothing that it could not read again from the store, so it may be killed between any two lines: the next
driver attaches to the jobs that are still running. Independent branches go on at the same time as far as resources
allow; a failed branch stops only what needs it. What is done with one step is in ``pipelines.attend``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipelines.artifact import Manifest
from pipelines.attend import Attendant
from pipelines.dag import Pipeline
from pipelines.display import Display
from pipelines.identity import identify
from pipelines.journal import Journal
from pipelines.outcome import Cause
from pipelines.plan import Plan, hold, rejection
from pipelines.runners import JobRunner, RunnerUnreachable
from pipelines.settings import Settings
from pipelines.stage import BadInput, Placement
from pipelines.store import ObjectStore, StoreUnavailable
from pipelines.work import ExitCode, Phase, Work, exit_code

PATIENCE_S = 600.0  # how long the store or the cluster may be away before the driver gives up


@dataclass(kw_only=True)
class Engine:
    """One driver of one run. stop: set it, and the driver leaves; what runs goes on running."""

    pipeline: Pipeline
    store: ObjectStore
    settings: Settings
    plan: Plan
    run_id: str
    runners: Mapping[Placement, JobRunner]
    display: Display
    journal: Journal
    no_wait: bool = False
    poll_s: float = 1.0
    stop: threading.Event = field(default_factory=threading.Event)
    works: dict[str, Work] = field(init=False)

    def __post_init__(self) -> None:
        self.works = {s.name: Work(step=s) for s in self.pipeline.steps}
        self._attendant = Attendant(self)

    def run(self) -> ExitCode:
        """Work until every step has ended. Raises StoreUnavailable or RunnerUnreachable when one stays away."""
        away_since: float | None = None
        while not self.stop.is_set():
            try:
                self._pass()
                away_since = None
            except (StoreUnavailable, RunnerUnreachable) as error:
                if away_since is None:
                    away_since = time.monotonic()
                    self.display.event("", "WAIT", f"{error}; trying again for {PATIENCE_S / 60:.0f} minutes")
                if time.monotonic() - away_since > PATIENCE_S:
                    raise
            if all(w.phase.final for w in self.works.values()):
                return exit_code(self.works.values())
            self.stop.wait(self.poll_s)
        return ExitCode.CANCELLED

    def _pass(self) -> None:
        """One look at every step that has not ended. They stand in order, so what ends lets others begin at once."""
        self._attendant.new_pass()
        for work in self.works.values():
            if not work.phase.final:
                self._look_after(work)

    def _look_after(self, work: Work) -> None:
        if self._blocked(work) or any(self.works[n].phase is not Phase.DONE for n in work.step.depends_on):
            return
        try:
            if work.identity is None:
                manifests = self.manifests()
                work.step = self.plan.champions.into(work.step, manifests, self.store)
                work.identity = identify(work.step, self.pipeline.seed, manifests, self.plan.source_digests)
            self._attendant.attend(work)
        except BadInput as error:
            self.fail(work, Cause.BAD_INPUT, str(error))

    def manifests(self) -> dict[str, Manifest]:
        """Of every step that is done."""
        return {n: w.manifest for n, w in self.works.items() if w.manifest is not None}

    def _blocked(self, work: Work) -> bool:
        """End the step if it can never run in this run."""
        upstream = [self.works[n] for n in work.step.depends_on]
        if why := rejection(work.step, self.manifests()):
            self.block(work, why, ExitCode.REJECTED)
        elif why := hold(work.step, self.plan.champions):
            self.block(work, why)
        elif ended := [w for w in upstream if w.phase in (Phase.FAILED, Phase.BLOCKED)]:
            how = "failed" if ended[0].phase is Phase.FAILED else "is blocked"
            self.block(work, f"needs {ended[0].step.name}, which {how}")
        return work.phase.final

    def done(self, work: Work, manifest: Manifest) -> None:
        work.manifest = manifest
        metrics = manifest.producer.get("metrics") or {}
        if work.worked:
            work.end(Phase.DONE, f"content {manifest.digest[:12]}")
            self.journal.append("done", work.step.name, key=manifest.key, digest=manifest.digest, metrics=metrics,
                                epoch=manifest.epoch)
            self.display.event(work.step.name, "DONE", work.reason)
        else:
            work.end(Phase.DONE, "; ".join(self.plan.decision(work.step.name).reasons))
            self.journal.append("reused", work.step.name, key=manifest.key, digest=manifest.digest, metrics=metrics)
            self.display.event(work.step.name, "REUSE", f"content {manifest.digest[:12]}")
        self.display.ended(work.step.name)

    def fail(self, work: Work, cause: Cause, message: str, traceback: str = "") -> None:
        code = {Cause.BAD_INPUT: ExitCode.BAD_INPUT, Cause.CANCELLED: ExitCode.CANCELLED}.get(cause, ExitCode.FAILED)
        work.end(Phase.FAILED, message, cause=cause, exit=code)
        kind = "cancelled" if cause is Cause.CANCELLED else "failed"
        self.journal.append(kind, work.step.name, cause=cause.value, error=traceback or message)
        self.display.event(work.step.name, "FAILED", f"{cause.value}: {message}")
        if traceback:
            self.display.event(work.step.name, "FAILED", f"traceback:\n{traceback.rstrip()}")
        self.display.ended(work.step.name)

    def block(self, work: Work, why: str, exit: ExitCode | None = None) -> None:
        work.end(Phase.BLOCKED, why, exit=exit)
        self.journal.append("rejected" if exit is ExitCode.REJECTED else "blocked", work.step.name, reasons=[why])
        self.display.event(work.step.name, "BLOCKED", why)
        self.display.ended(work.step.name)

    def reopen(self, name: str) -> None:
        """A step that was done turned out to be damaged: it, and what has not ended since, is looked at again."""
        work = self.works[name]
        if work.phase is Phase.DONE:
            work.phase, work.manifest, work.worked = Phase.WAITING, None, False
