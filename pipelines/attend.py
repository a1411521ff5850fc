"""What a driver does with one step whose inputs are there, by what lies under its key:

    nothing, or damaged    reserve the next epoch (or generation), write the attempt's spec, submit its job
    reserved or running    the job is unknown here: submit that same id. It lives: watch. It ended without a commit:
                           judge why, and perhaps reserve the next epoch. Another cluster's: wait until it expires
    committed and present  done; an effect has its turn once in every run

Whoever is killed between two of these leaves a record from which the next driver goes on at the same place.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pipelines import record
from pipelines.dag import step_of
from pipelines.outcome import Cause, Outcome, read_outcome
from pipelines.plan import look
from pipelines.record import Ground, Observer, Seen, State
from pipelines.resources import demand_of, never_fits, waits_for
from pipelines.runners import Job, JobRunner, JobStatus, Order, Resources
from pipelines.spec import make_spec, write_spec
from pipelines.stage import Placement
from pipelines.work import ExitCode, Phase, Work

if TYPE_CHECKING:
    from pipelines.engine import Engine

BACK_OFF_S = 2.0  # before the first retry; doubled for each further one
LONGEST_BACK_OFF_S = 120.0
PLACEMENT_PATIENCE_S = 120.0  # for resources that no step holds


class Attendant:
    """The hands of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._observer = Observer(engine.settings.lease_ttl_s)
        self._resources: Resources | None = None
        self._asked = False

    def new_pass(self) -> None:
        """Resources are asked for at most once a pass, and again after each submission."""
        self._asked = False

    def attend(self, work: Work) -> None:
        assert work.identity is not None
        step, key = work.step, work.identity.key
        if time.monotonic() < work.not_before:
            return
        seen = record.read(self._engine.store, step.name, key)
        if seen is None:
            self._begin(work, None, None)
        elif seen.record.live:
            self._follow(work, seen)
        elif seen.record.state is State.DAMAGED:
            self._begin(work, seen, Ground.DAMAGED)
        elif step.stage.effect and not work.took_turn:
            self._begin(work, seen, Ground.AGAIN)
        else:
            self._finish(work)

    def _finish(self, work: Work) -> None:
        """Committed: done if its artifact is whole, else marked, so that the next look makes it again."""
        assert work.identity is not None
        found = look(self._engine.store, work.step.name, work.identity.key)
        if found.manifest is not None:
            self._engine.done(work, found.manifest)
        elif found.seen is not None and found.seen.record.state is State.COMMITTED:
            self._engine.display.event(work.step.name, "RETRY", f"damaged: {found.trouble}")
            record.damage(self._engine.store, found.seen, found.trouble)

    def _begin(self, work: Work, over: Seen | None, ground: Ground | None, reason: str = "") -> None:
        """Take the next epoch, if this run may and if it fits."""
        assert work.identity is not None
        engine, step = self._engine, work.step
        if step.name in engine.plan.outside:
            engine.block(work, "not among --only, and not there yet", ExitCode.FAILED)
            return
        if not self._has_room(work):
            return
        runner = engine.runners[step.stage.placement]
        taken = record.reserve(engine.store, step.name, work.identity.key, cluster=runner.cluster(), over=over,
                               ground=ground, reason=reason)
        if taken is None:
            return  # another driver was first: the next look sees what it did
        held = taken.record
        work.went_live()
        word = "IMPORTED" if step.imported else "RUN"
        self._journal(work, "reserved", seen=taken, reasons=[held.reason])
        job = runner.name(held.submission_id)
        engine.display.event(step.name, word, f"attempt {held.epoch} ({held.reason}) as {job}")
        self._submit(work, taken, runner)

    def _submit(self, work: Work, seen: Seen, runner: JobRunner) -> None:
        """Submit the reserved id. Whoever does it, and however often, it is one job."""
        assert work.identity is not None
        engine, held, step = self._engine, seen.record, work.step
        identity, manifests = work.identity, engine.manifests()
        named = [s for source in identity.sources.values() if (s := step_of(source.uri))]
        reads = {*identity.inputs.values(), *(name for name, _path in named)}
        spec = make_spec(step, identity, generation=held.generation, epoch=held.epoch, run_id=engine.run_id,
                         recipe=engine.pipeline.recipe, seed=engine.pipeline.seed,
                         artifacts={n: (manifests[n].key, manifests[n].digest) for n in sorted(reads)})
        threads = str(step.config.run.threads_per_worker)
        order = Order(store_uri=engine.store.uri, spec_key=write_spec(engine.store, spec), demand=demand_of(step),
                      environment={"OMP_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"},
                      metadata={"step": step.name, "run": engine.run_id})
        work.watched.add((held.generation, held.epoch))
        work.took_turn = True
        work.went_live()
        runner.submit(held.submission_id, order)
        self._asked = False
        self._journal(work, "submitted", seen=seen)

    def _follow(self, work: Work, seen: Seen) -> None:
        """Somebody has the place: a job of ours or of another driver, living or ended."""
        engine, held = self._engine, seen.record
        runner = engine.runners[work.step.stage.placement]
        attempt = (held.generation, held.epoch)
        if attempt in work.judged:
            self._begin(work, seen, Ground.JOB_ENDED)
        elif held.cluster != runner.cluster():
            self._follow_elsewhere(work, seen, runner)
        else:
            job = runner.job(held.submission_id)
            if job.status.live:
                self._watch(work, seen)
            elif job.status is not JobStatus.ABSENT:
                self._judge(work, seen, job)
            elif held.state is State.RESERVED:
                if self._has_room(work):
                    self._submit(work, seen, runner)
            elif self._observer.is_expired(seen):
                self._begin(work, seen, Ground.EXPIRED)

    def _follow_elsewhere(self, work: Work, seen: Seen, runner: JobRunner) -> None:
        held = seen.record
        if runner.gone(held.cluster):
            self._begin(work, seen, Ground.JOB_ENDED, "its driver is gone")
        elif self._observer.is_expired(seen):
            self._begin(work, seen, Ground.EXPIRED)
        else:
            self._watch(work, seen)

    def _watch(self, work: Work, seen: Seen) -> None:
        engine, held = self._engine, seen.record
        attempt = (held.generation, held.epoch)
        if attempt not in work.watched:
            if engine.no_wait:
                engine.block(work, f"held by {held.submission_id} on {held.cluster} (--no-wait)", ExitCode.HELD)
                return
            work.watched.add(attempt)
            work.took_turn = True
            work.went_live()
            self._journal(work, "attached", seen=seen)
            engine.display.event(work.step.name, "RESUME", f"attached to attempt {held.epoch}, {held.submission_id}")
        if held.state is State.RUNNING and attempt not in work.running:
            work.running.add(attempt)
            self._journal(work, "running", seen=seen)
        if told := held.progress:
            engine.display.progress(work.step.name, told["done"], told["total"], told["what"])

    def _judge(self, work: Work, seen: Seen, job: Job) -> None:
        """The job ended and its attempt did not commit. Decide whether there is another."""
        engine, held = self._engine, seen.record
        attempt = (held.generation, held.epoch)
        now = record.read(engine.store, held.step, held.key)
        if now is None or now.etag != seen.etag:
            return  # it committed, or somebody took the place, between the two looks
        outcome = _outcome(read_outcome(engine.store, held.prefix), job)
        work.judged.add(attempt)
        if attempt not in work.watched:
            self._begin(work, seen, Ground.JOB_ENDED, f"attempt {held.epoch} had ended: {outcome.cause.value}")
            return
        self._journal(work, "attempt_ended", seen=seen, cause=outcome.cause.value, error=outcome.message)
        work.failures += outcome.cause.spends_budget
        budget = work.step.config.run.retries
        if not outcome.cause.retried or work.failures > budget:
            spent = f" (after {work.failures} failures; run.retries = {budget})" if outcome.cause.retried else ""
            engine.fail(work, outcome.cause, outcome.message + spent, outcome.traceback)
            return
        delay = min(BACK_OFF_S * 2 ** max(0, work.failures - 1), LONGEST_BACK_OFF_S) if work.failures else 0.0
        work.not_before = time.monotonic() + delay
        work.phase = Phase.WAITING
        if outcome.cause is Cause.DAMAGED_INPUT:
            engine.reopen(outcome.about)
            work.identity = None
        engine.display.event(work.step.name, "RETRY",
                             f"{outcome.cause.value}: {outcome.message}; next attempt in {delay:.0f} s")

    def _has_room(self, work: Work) -> bool:
        """Whether the step's workers can be placed now. Blocks it when they never can, says for what it waits."""
        engine, step = self._engine, work.step
        demand = demand_of(step)
        if not demand.amounts or step.stage.placement is Placement.DRIVER:
            return True
        if not self._asked:
            self._resources, self._asked = engine.runners[step.stage.placement].resources(), True
        if self._resources is None:
            return False
        if why := never_fits(step, demand, self._resources):
            engine.block(work, why, ExitCode.FAILED)
            return False
        if (waits := waits_for(demand, self._resources)) is None:
            work.waits_since = None
            return True
        why, held_by_step = waits
        if work.waits_since is None or held_by_step:
            work.waits_since = time.monotonic()
        if time.monotonic() - work.waits_since > PLACEMENT_PATIENCE_S:
            engine.block(work, why, ExitCode.FAILED)
        elif why != work.said:
            work.said = why
            engine.display.event(step.name, "WAIT", why)
        return False

    def _journal(self, work: Work, kind: str, *, seen: Seen, **data: object) -> None:
        held = seen.record
        self._engine.journal.append(kind, work.step.name, key=held.key, epoch=held.epoch, generation=held.generation,
                                    submission_id=held.submission_id, **data)


def _outcome(written: Outcome | None, job: Job) -> Outcome:
    """What the attempt said, unless the place where it ran knows better or it could say nothing."""
    if job.status is JobStatus.STOPPED:
        return Outcome(cause=Cause.CANCELLED, message="its job was stopped by a person")
    if written is not None and written.cause is not Cause.DONE:
        return written
    said = job.message.strip().splitlines()
    return Outcome(cause=Cause.INFRASTRUCTURE, message=said[-1][:300] if said else "the job ended without a result")
