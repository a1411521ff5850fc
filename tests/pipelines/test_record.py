"""The step record: reserve, claim, renew, publish, take over."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from datetime import timedelta

import pytest

from pipelines import record
from pipelines.record import AttemptLost, Ground, Holder, Observer, Request, State
from pipelines.stage import BadInput
from pipelines.store import StoreUnavailable, open_store

STEP, KEY = "tune_chat", "a" * 64


@pytest.fixture
def store(tmp_path):
    return open_store(f"file://{tmp_path}/store")


def reserve(store, over=None, ground=None):
    return record.reserve(store, STEP, KEY, cluster="here", over=over, ground=ground)


def hold(store, seen, **options):
    return Holder(store, STEP, KEY, generation=seen.record.generation, epoch=seen.record.epoch, **options)


def committed(store):
    with hold(store, reserve(store)) as holder:
        holder.publish("attempts/x/manifest.json", "d1")
    return record.read(store, STEP, KEY)


def test_the_first_reservation_is_epoch_one_and_only_one_gets_it(store):
    first = reserve(store)
    assert (first.record.generation, first.record.epoch, first.record.state) == (1, 1, State.RESERVED)
    assert first.record.submission_id == f"tune_chat-{'a' * 12}-e1"
    assert reserve(store) is None


def test_a_published_record_names_the_manifest(store):
    seen = committed(store)
    assert (seen.record.state, seen.record.manifest, seen.record.digest) == (
        State.COMMITTED, "attempts/x/manifest.json", "d1")


@pytest.mark.parametrize(("ground", "generation"), [(Ground.EXPIRED, 1), (Ground.JOB_ENDED, 1)])
def test_an_ended_attempt_is_followed_by_the_next_epoch(store, ground, generation):
    taken = reserve(store, reserve(store), ground)
    assert (taken.record.generation, taken.record.epoch) == (generation, 2)


def test_of_two_who_take_over_one_wins(store):
    seen = reserve(store)
    assert reserve(store, seen, Ground.JOB_ENDED)
    assert reserve(store, seen, Ground.JOB_ENDED) is None


def test_a_committed_key_is_not_taken_for_want_of_a_heartbeat(store):
    with pytest.raises(ValueError, match="COMMITTED"):
        reserve(store, committed(store), Ground.EXPIRED)


def test_damage_and_forget_start_a_new_generation_under_a_higher_epoch(store):
    damaged = record.damage(store, committed(store), "a.bin is missing")
    assert (damaged.record.state, damaged.record.reason) == (State.DAMAGED, "a.bin is missing")
    again = reserve(store, damaged, Ground.DAMAGED)
    assert (again.record.generation, again.record.epoch, again.record.manifest) == (2, 2, None)
    forgotten = record.forget(store, again, "asked by ann")
    third = reserve(store, forgotten, Ground.DAMAGED)
    assert (third.record.generation, third.record.epoch, third.record.submission_id[-4:]) == (3, 3, "g3e3")


def test_an_effect_takes_turns_over_its_own_commit(store):
    again = reserve(store, committed(store), Ground.AGAIN)
    assert (again.record.generation, again.record.epoch, again.record.state) == (1, 2, State.RESERVED)


def test_an_attempt_does_not_start_in_anothers_place(store):
    seen = reserve(store)
    reserve(store, seen, Ground.JOB_ENDED)
    with pytest.raises(AttemptLost, match="epoch 2"):
        hold(store, seen).start()


def test_a_reservation_is_claimed_once(store):
    seen = reserve(store)
    with hold(store, seen), pytest.raises(AttemptLost, match="RUNNING"):
        hold(store, seen).start()


def test_the_heartbeat_goes_on_by_itself_and_carries_progress(store):
    with hold(store, reserve(store), ttl_s=1.2) as holder:
        holder.report({"done": 3, "total": 9})
        deadline = time.monotonic() + 10
        while record.read(store, STEP, KEY).record.heartbeat < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        seen = record.read(store, STEP, KEY)
        holder.check()
    assert seen.record.heartbeat >= 2
    assert seen.record.progress == {"done": 3, "total": 9}


def test_a_holder_that_lost_its_place_cannot_publish(store):
    first = reserve(store)
    with hold(store, first, ttl_s=600) as holder:
        reserve(store, record.read(store, STEP, KEY), Ground.EXPIRED)
        with pytest.raises(AttemptLost):
            holder.publish("m", "d")
        assert holder.lost
    assert record.read(store, STEP, KEY).record.epoch == 2


def test_a_holder_stops_itself_half_a_ttl_after_its_last_renewal(store):
    """By its own monotonic clock, before anybody else may take the place."""
    now = [0.0]
    with hold(store, reserve(store), ttl_s=600, clock=lambda: now[0]) as holder:
        now[0] = 299.0
        holder.renew()
        now[0] = 598.0
        holder.check()
        now[0] = 600.0
        with pytest.raises(AttemptLost, match="no renewal"):
            holder.publish("m", "d")
    assert record.read(store, STEP, KEY).record.state is State.RUNNING


def test_a_request_reaches_the_holder_and_does_not_cost_it_its_place(store):
    with hold(store, reserve(store), ttl_s=600) as holder:
        assert record.request(store, STEP, KEY, 1, Request.CANCEL)
        assert holder.request is None
        holder.renew()
        assert holder.request is Request.CANCEL
        holder.publish("m", "d")
    assert not record.request(store, STEP, KEY, 1, Request.CANCEL)


def test_an_adopted_checkpoint_is_named_at_once(store):
    with hold(store, reserve(store), ttl_s=600) as holder:
        holder.adopt("attempts/x/checkpoint_000003")
        assert record.read(store, STEP, KEY).record.adopted == "attempts/x/checkpoint_000003"


def test_an_observer_trusts_its_own_clock_and_the_stores(store):
    now = [100.0]
    observer = Observer(30, clock=lambda: now[0])
    seen = reserve(store)
    assert not observer.is_expired(seen)
    now[0] += 29
    assert not observer.is_expired(seen)
    changed = record.swap(store, seen, replace(seen.record, heartbeat=1))
    now[0] += 2
    assert not observer.is_expired(changed)
    now[0] += 31
    assert observer.is_expired(changed)
    assert record.is_expired(replace(seen, now=seen.last_modified + timedelta(seconds=33)), 30)
    assert not record.is_expired(replace(seen, now=seen.last_modified + timedelta(seconds=32)), 30)


def test_a_record_of_newer_code_is_refused(store):
    seen = reserve(store)
    body = json.loads(store.get(record.record_key(STEP, KEY)).body) | {"schema": 99}
    store.replace(record.record_key(STEP, KEY), json.dumps(body).encode(), seen.etag)
    with pytest.raises(BadInput, match="schema 99"):
        record.read(store, STEP, KEY)


class AwayStore:
    """A store behind a cable that a test can pull."""

    def __init__(self, store):
        self.store, self.away = store, False

    def __getattr__(self, name):
        def call(*args, **kwargs):
            if self.away:
                raise StoreUnavailable("the cable is out")
            return getattr(self.store, name)(*args, **kwargs)
        return call

    def within(self, wait_s):
        return self


def test_a_store_that_is_away_for_long_costs_the_place_and_a_short_while_does_not(store):
    cable = AwayStore(store)
    with hold(cable, reserve(store), ttl_s=2.4) as holder:
        cable.away = True
        time.sleep(0.5)
        cable.away = False
        before = record.read(store, STEP, KEY).record.heartbeat
        while record.read(store, STEP, KEY).record.heartbeat == before:
            time.sleep(0.02)
        holder.check()
        cable.away = True
        gone = threading.Event()
        while not holder.lost:
            gone.wait(0.05)
        cable.away = False
        with pytest.raises(AttemptLost):
            holder.publish("m", "d")
