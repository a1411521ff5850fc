"""Observations: the first answer that was written is final, for everybody and for ever."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from pipelines.observations import Observations
from pipelines.store import open_store


@pytest.fixture(params=["s3", "directory"])
def store(request, tmp_path):
    if request.param == "s3":
        return open_store(request.getfixturevalue("store_uri"), wait_s=20)
    return open_store(f"file://{tmp_path}/store")


def test_an_answer_is_there_for_the_next_attempt(store):
    assert Observations(store, "s", "k").record("shard/1", {"status": 200}) == {"status": 200}
    later = Observations(store, "s", "k")
    assert later.get("shard/1") == {"status": 200}
    assert later.get("shard/2") is None
    assert Observations(store, "s", "other").get("shard/1") is None


def test_the_first_answer_stays(store):
    """A second attempt that asked again is told the answer that came first, and nothing changes it."""
    first, second = Observations(store, "s", "k"), Observations(store, "s", "k")
    assert second.get("q") is None
    assert first.record("q", {"answer": "a"}) == {"answer": "a"}
    assert second.record("q", {"answer": "b"}) == {"answer": "a"}
    assert second.record("other", {"answer": "c"}) == {"answer": "c"}
    assert first.record("other", {"answer": "d"}) == {"answer": "c"}
    assert Observations(store, "s", "k").get("q") == {"answer": "a"}


def test_attempts_that_race_agree(store):
    """Four attempts with eight threads each answer the same forty questions differently: all end with one answer."""
    attempts = [Observations(store, "s", "k") for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(lambda i: (i % 40, attempts[i // 40].record(f"q{i % 40}", {"by": i // 40})), range(160)))
    reader = Observations(store, "s", "k")
    assert all(answer == reader.get(f"q{n}") for n, answer in said)
    assert len({str(n) for n, _ in said}) == 40


def test_answers_keep_any_text_and_their_order(store):
    value = {"z": 1, "text": "line\u2028break\n\x85 ü", "list": [1, 2.5, None]}
    Observations(store, "s", "k").record("x", value)
    later = Observations(store, "s", "k").get("x")
    assert later == value
    assert list(later) == list(value)
