"""Fenced: at most one attempt can publish a key; one that lost its place changes nothing that readers see."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from pipelines import record
from pipelines.record import AttemptLost, Ground, Holder, Observer, State
from pipelines.store import ObjectStore, open_store
from tests.pipelines.attempts import STEP, start, visible

WRITERS = 16
KEYS = ("1" * 64, "2" * 64, "3" * 64, "4" * 64)


def race(store: ObjectStore, key: str, number: int) -> tuple[int, bool]:
    """Reserve if nobody has, take over whatever is there on the ground that its job has ended, and publish.

    Returns the epoch that was taken (0 for none) and whether it was committed.
    """
    seen = record.read(store, STEP, key)
    if seen is not None and not seen.record.live:
        return 0, False
    taken = record.reserve(store, STEP, key, cluster="c", over=seen, ground=Ground.JOB_ENDED if seen else None)
    if taken is None:
        return 0, False
    try:
        with Holder(store, STEP, key, generation=1, epoch=taken.record.epoch) as holder:
            holder.publish(f"attempts/by/{number}", str(number))
            return taken.record.epoch, True
    except AttemptLost:
        return taken.record.epoch, False


def racer(uri: str, number: int, barrier, results) -> None:
    store = open_store(uri, wait_s=30)
    for key in KEYS:
        barrier.wait()
        results.put((key, number, *race(store, key, number)))


@pytest.mark.parametrize("kind", [pytest.param("s3", marks=pytest.mark.slow), "directory"])
def test_sixteen_processes_race_and_one_commits(kind, request, tmp_path):
    """Each may take over from the others at any moment; epochs are never shared, and the record names the winner."""
    uri = request.getfixturevalue("store_uri") if kind == "s3" else f"file://{tmp_path}/store"
    store = open_store(uri)
    store.now()  # what is imported here, the forked processes need not import
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(WRITERS), context.Queue()
    racers = [context.Process(target=racer, args=(uri, n, barrier, results)) for n in range(WRITERS)]
    for process in racers:
        process.start()
    said = [results.get(timeout=120) for _ in range(WRITERS * len(KEYS))]
    for process in racers:
        process.join()
    for key in KEYS:
        epochs = [epoch for k, _, epoch, _ in said if k == key and epoch]
        assert len(set(epochs)) == len(epochs)
        [(winner, epoch)] = [(number, epoch) for k, number, epoch, won in said if k == key and won]
        held = record.read(store, STEP, key).record
        assert (held.state, held.epoch, held.digest) == (State.COMMITTED, epoch, str(winner))


def wait_stopped(pid: int) -> None:
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.01)


@pytest.mark.parametrize("other_commits_first", [True, False])
@pytest.mark.parametrize("point", ["publish.before_files", "publish.between_files", "publish.before_commit"])
def test_a_stalled_attempt_that_wakes_changes_nothing(point, other_commits_first, tmp_path):
    """It stands still in the midst of publishing until its lease is over and another has its place; then it wakes."""
    uri, key = f"file://{tmp_path}/store", "d" * 64
    store = open_store(uri)
    first = record.reserve(store, STEP, key, cluster="c")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    stalled = start(uri, key, 1, 1, tmp_path / "one", ttl_s=0.6, environment={"PIPELINE_FAULT": f"{point}:stall"})
    try:
        wait_stopped(stalled.pid)
        observer = Observer(0.6)
        while not observer.is_expired(seen := record.read(store, STEP, key)):
            time.sleep(0.05)
        taken = record.reserve(store, STEP, key, cluster="c", over=seen, ground=Ground.EXPIRED)
        assert taken.record.epoch == first.record.epoch + 1

        def other() -> None:
            process = start(uri, key, 1, 2, tmp_path / "two")
            assert process.communicate(timeout=60)[0] == "committed\n"

        if other_commits_first:
            other()
        before = store.get(record.record_key(STEP, key)).body
        os.kill(stalled.pid, signal.SIGCONT)
        assert stalled.communicate(timeout=60)[0].startswith("lost ")
        assert store.get(record.record_key(STEP, key)).body == before
        if not other_commits_first:
            other()
    finally:
        stalled.kill()
    assert visible(store, key)
    assert record.read(store, STEP, key).record.epoch == 2


@pytest.mark.parametrize("kind", ["s3", "directory"])
@pytest.mark.parametrize("nth", [1, 2])
def test_a_lost_answer_at_the_claim_or_the_commit_costs_nothing(kind, nth, request, tmp_path):
    """The store did it and could not say so: the attempt finds out, goes on and ends as the one that committed."""
    uri, key = request.getfixturevalue("store_uri") if kind == "s3" else f"file://{tmp_path}/store", "e" * 64
    store = open_store(uri)
    record.reserve(store, STEP, key, cluster="c")
    (tmp_path / "out").mkdir()
    process = start(uri, key, 1, 1, tmp_path / "out",
                    environment={"PIPELINE_FAULT": f"store.replace.reply:drop-reply:{nth}"})
    assert process.communicate(timeout=60)[0] == "committed\n"
    assert visible(store, key)


def test_forget_fences_the_live_attempt_and_the_next_starts_afresh(tmp_path):
    store = open_store(f"file://{tmp_path}/store")
    record.reserve(store, STEP, "k", cluster="c")
    with Holder(store, STEP, "k", generation=1, epoch=1) as holder:
        forgotten = record.forget(store, record.read(store, STEP, "k"), "wrong data")
        taken = record.reserve(store, STEP, "k", cluster="c", over=forgotten, ground=Ground.DAMAGED)
        with pytest.raises(AttemptLost):
            holder.publish("m", "d")
    assert (taken.record.generation, taken.record.epoch) == (2, 2)
    assert record.read(store, STEP, "k").record == taken.record
