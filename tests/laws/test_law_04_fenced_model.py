"""Fenced, as a model: random interleavings of drivers, attempts, lost answers and jumps of time on one record.

The store and both clocks are simulated, so thousands of schedules take seconds. What is asked of every schedule: epochs
only grow, each is committed at most once and only while it is the record's own, whoever is told "committed" has
committed, and (as long as the store's clock runs evenly) nobody's place is taken for want of a heartbeat while its
holder still believes in it. Where the clock jumps, two may believe, and still only one can publish.
"""

from __future__ import annotations

import contextlib
import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from pipelines import record
from pipelines.record import AttemptLost, Ground, Holder, Observer, Request, State, StepRecord
from pipelines.store import Stored, StoreUnavailable

STEP, KEY, TTL_S = "s", "k", 30.0


class SimulatedStore:
    """One object store in memory. fault: what happens to the next write: its answer is lost, or it is not done."""

    uri = "memory://"

    def __init__(self) -> None:
        self.seconds = 0.0  # the processes' monotonic clock
        self.skew = 0.0  # how far the store's clock is from it
        self.held: tuple[bytes, str, datetime] | None = None
        self.history: list[StepRecord] = []
        self.fault = ""

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds + self.skew)

    def within(self, wait_s: float) -> SimulatedStore:
        return self

    def get(self, key: str) -> Stored | None:
        if self.held is None:
            return None
        body, etag, modified = self.held
        return Stored(body=body, etag=etag, last_modified=modified, now=self.now())

    def create(self, key: str, body: bytes) -> str | None:
        return self._write(body) if self.held is None else None

    def replace(self, key: str, body: bytes, etag: str) -> str | None:
        return self._write(body) if self.held is not None and self.held[1] == etag else None

    def _write(self, body: bytes) -> str:
        fault, self.fault = self.fault, ""
        if fault == "refused":
            raise StoreUnavailable("not done")
        self.history.append(StepRecord.from_json(body))
        self.held = body, str(len(self.history)), self.now()
        if fault == "lost":
            raise StoreUnavailable("done, but nobody said so")
        return self.held[1]


class SteppedHolder(Holder):
    """Renews when the schedule says so."""

    def _keep_renewing(self) -> None:
        pass


class OneRecord(RuleBasedStateMachine):
    epochs = Bundle("epochs")
    holders = Bundle("holders")

    def __init__(self) -> None:
        super().__init__()
        self.store = SimulatedStore()
        self.observers = [Observer(TTL_S, clock=lambda: self.store.seconds) for _ in range(2)]
        self.started: list[tuple[SteppedHolder, int]] = []
        self.told_committed: set[int] = set()

    def read(self):
        return record.read(self.store, STEP, KEY)

    @rule(seconds=st.sampled_from([3.0, 8.0, 14.0, 16.0, 31.0]))
    def time_passes(self, seconds):
        self.store.seconds += seconds

    @initialize(jumps=st.booleans())
    def the_stores_clock(self, jumps):
        self.jumps = jumps

    @precondition(lambda self: self.jumps)
    @rule(seconds=st.sampled_from([-3600.0, -20.0, 40.0, 3600.0]))
    def the_stores_clock_jumps(self, seconds):
        self.store.skew += seconds

    @rule(fault=st.sampled_from(["lost", "refused"]))
    def the_next_write_is_hurt(self, fault):
        self.store.fault = fault

    @rule(target=epochs, who=st.integers(0, 1))
    def a_driver_looks(self, who):
        """It reserves what nobody has. The job may start at any later time."""
        return self.look(who)

    @rule(target=holders, who=st.integers(0, 1))
    def a_driver_looks_and_its_job_starts(self, who):
        reserved = self.look(who)
        return self.a_job_starts(reserved) if isinstance(reserved, tuple) else multiple()

    def look(self, who):
        seen = self.read()
        ground = None
        if seen is not None:
            expired = seen.record.live and self.observers[who].is_expired(seen)
            ground = Ground.EXPIRED if expired else Ground.DAMAGED if seen.record.state is State.DAMAGED else None
            if ground is None:
                return multiple()
        try:
            taken = record.reserve(self.store, STEP, KEY, cluster="c", over=seen, ground=ground)
        except StoreUnavailable:
            taken = None
        if ground is Ground.EXPIRED and not self.jumps and self.read().etag != seen.etag:
            assert all(h.lost for h, epoch in self.started if epoch == seen.record.epoch)
        return (taken.record.generation, taken.record.epoch) if taken else multiple()

    @rule(target=holders, reserved=epochs)
    def a_job_starts_late_or_twice(self, reserved):
        return self.a_job_starts(reserved)

    def a_job_starts(self, reserved):
        generation, epoch = reserved
        holder = SteppedHolder(self.store, STEP, KEY, generation=generation, epoch=epoch, ttl_s=TTL_S,
                               clock=lambda: self.store.seconds)
        try:
            holder.start()
        except (AttemptLost, StoreUnavailable):
            return multiple()
        self.started.append((holder, epoch))
        return holder, epoch

    @rule(held=holders)
    def a_holder_renews(self, held):
        with contextlib.suppress(AttemptLost, StoreUnavailable):
            held[0].renew()

    @rule(held=holders)
    def a_holder_publishes(self, held):
        holder, epoch = held
        try:
            published = holder.publish(f"m{epoch}", f"d{epoch}")
        except (AttemptLost, StoreUnavailable):
            return
        assert (published.epoch, published.manifest) == (epoch, f"m{epoch}")
        self.told_committed.add(epoch)

    @rule(held=consumes(holders), meant=st.booleans())
    def a_holder_is_killed(self, held, meant):
        if meant:
            self.started.remove(held)

    @rule(wanted=st.sampled_from(list(Request)))
    def somebody_asks(self, wanted):
        if seen := self.read():
            with contextlib.suppress(StoreUnavailable):
                record.request(self.store, STEP, KEY, seen.record.epoch, wanted)

    @precondition(lambda self: self.store.held is not None and self.read().record.state is State.COMMITTED)
    @rule()
    def the_artifact_is_damaged(self):
        with contextlib.suppress(StoreUnavailable):
            record.damage(self.store, self.read(), "a file is missing")

    @precondition(lambda self: self.started)
    @rule(meant=st.sampled_from([False, False, False, True]))
    def somebody_forgets_what_there_is(self, meant):
        if meant:
            with contextlib.suppress(StoreUnavailable):
                record.forget(self.store, self.read(), "wanted anew")

    @invariant()
    def epochs_only_grow_and_are_reserved_once(self):
        history = self.store.history
        places = [(r.generation, r.epoch) for r in history]
        assert places == sorted(places)
        reserved = [r.epoch for r, before in zip(history, [None, *history], strict=False)
                    if r.state is State.RESERVED and (before is None or before.epoch != r.epoch)]
        assert len(set(reserved)) == len(reserved)

    @invariant()
    def an_epoch_is_committed_once_and_by_its_own_holder(self):
        history = self.store.history
        commits = [(before, r) for before, r in itertools.pairwise(history) if r.state is State.COMMITTED]
        assert len({r.epoch for _, r in commits}) == len(commits)
        for before, r in commits:
            assert before.state is State.RUNNING
            assert (before.epoch, before.holder, r.manifest) == (r.epoch, r.holder, f"m{r.epoch}")
        assert self.told_committed <= {r.epoch for _, r in commits}


OneRecord.TestCase.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)


@pytest.mark.slow
class TestOneRecord(OneRecord.TestCase):
    """Two hundred random schedules."""
