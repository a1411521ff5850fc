"""The journal: one order for all writers, and its fold."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from pipelines.journal import Journal, fold
from pipelines.store import open_store


@pytest.fixture
def store(tmp_path):
    return open_store(f"file://{tmp_path}/store")


def test_events_come_back_in_order(store):
    journal = Journal(store, "demo-1")
    journal.append("run_started", who="ann")
    journal.append("note", "gate@chat", text="x")
    events = Journal(store, "demo-1").read()
    assert [(e.seq, e.kind, e.step, dict(e.data)) for e in events] == [
        (1, "run_started", None, {"who": "ann"}), (2, "note", "gate@chat", {"text": "x"})]
    assert [e.seq for e in journal.read(after=1)] == [2]


def test_several_writers_lose_no_event(store):
    journals = [Journal(store, "r") for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: journals[i % 4].append("note", n=i), range(40)))
    seen = [[e.data["n"] for e in j.read()] for j in [*journals, Journal(store, "r")]]
    assert sorted(seen[0]) == list(range(40))
    assert all(s == seen[0] for s in seen)


def test_the_fold_tells_where_each_step_stands(store):
    journal = Journal(store, "r")
    journal.append("run_started")
    journal.append("planned", "a", action="RUN", reasons=["never ran"], key="k1")
    journal.append("planned", "b", action="RUN", reasons=["a will run"])
    journal.append("reserved", "a", key="k1", epoch=1)
    journal.append("submitted", "a", submission_id="a-k1-e1")
    journal.append("attempt_ended", "a", cause="infrastructure", error="the node is gone")
    journal.append("reserved", "a", key="k1", epoch=2)
    journal.append("something_new", "a", state="odd")
    journal.append("done", "a", digest="d", metrics={"loss": 1.5})
    journal.append("blocked", "b", reasons=["2 CPU are not free"])
    journal.append("run_ended", exit=1)
    run = fold(journal.read())
    a, b = run.steps["a"], run.steps["b"]
    assert (run.state, run.exit) == ("ended", 1)
    assert (a.state, a.action, a.reasons, a.attempts) == ("done", "RUN", ["never ran"], [1, 2])
    assert (a.digest, a.error) == ("d", None)
    assert a.started and a.ended and a.started <= a.ended
    assert (b.state, b.reasons, b.attempts) == ("blocked", ["2 CPU are not free"], [])


def test_a_run_that_goes_on_is_running_again(store):
    journal = Journal(store, "r")
    for kind in ("run_started", "run_ended", "run_started"):
        journal.append(kind, **({"exit": 1} if kind == "run_ended" else {}))
    assert (fold(journal.read()).state, fold(journal.read()).exit) == ("running", None)
