"""S3 behind a bad network: every call ends with the truth, and nothing is written twice or read wrong."""

from __future__ import annotations

import os
import random
from contextlib import contextmanager

import pytest

from pipelines import record
from pipelines.observations import Observations
from pipelines.record import Holder, State
from pipelines.store import Damaged, StoreUnavailable, open_store, with_nonce
from tests.pipelines.faulty_proxy import FaultyProxy

pytestmark = pytest.mark.slow


@pytest.fixture
def behind(store_uri, monkeypatch):
    """behind(plan): the store as it is seen through a network with that plan, and the proxy."""
    upstream = os.environ["AWS_ENDPOINT_URL"]

    @contextmanager
    def through(plan, wait_s=20.0):
        with FaultyProxy(upstream, plan) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            yield open_store(store_uri, wait_s=wait_s), proxy
            monkeypatch.setenv("AWS_ENDPOINT_URL", upstream)

    return through


def first(method: str, action: str):
    """The first request of that method is hurt."""
    hurt = []

    def plan(asked: str, path: str, n: int) -> str:
        if asked == method and not hurt:
            hurt.append(n)
            return action
        return "pass"

    return plan


@pytest.mark.parametrize("action", ["503", "409", "reset", "lost", "slow"])
def test_a_create_that_was_hurt_still_has_one_winner(behind, action):
    with behind(first("PUT", action)) as (store, proxy):
        mine = with_nonce({"by": "me"})
        etag = store.create("k", mine)
        held = store.get("k")
        assert (etag, mine) == (held.etag, held.body)
        assert store.create("k", with_nonce({"by": "another"})) is None
        assert ("PUT", action) in proxy.done


@pytest.mark.parametrize("action", ["503", "409", "reset", "lost"])
def test_a_replace_that_was_hurt_is_carried_out_once(behind, action):
    with behind(lambda *_: "pass") as (store, _):
        before = store.put("k", with_nonce({"n": 0}))
    with behind(first("PUT", action)) as (store, _):
        body = with_nonce({"n": 1})
        etag = store.replace("k", body, before)
        held = store.get("k")
        assert (etag, body) == (held.etag, held.body)


@pytest.mark.parametrize("action", ["503", "reset", "truncate", "flip"])
def test_a_read_that_was_hurt_is_read_again(behind, action):
    with behind(first("GET", action)) as (store, proxy):
        store.put("k", b"0123456789")
        assert store.get("k").body == b"0123456789"
        assert [a for m, a in proxy.done if m == "GET"] == [action, "pass"]


@pytest.mark.parametrize("action", ["503", "reset", "truncate", "flip"])
def test_a_download_that_was_hurt_is_whole(behind, tmp_path, action):
    (tmp_path / "in").write_bytes(b"x" * 100_000)
    with behind(first("GET", action)) as (store, _):
        entry = store.upload(tmp_path / "in", "f")
        store.download("f", tmp_path / "out", entry.sha256)
    assert (tmp_path / "out").read_bytes() == b"x" * 100_000


def test_bytes_that_are_always_wrong_are_refused(behind, tmp_path):
    (tmp_path / "in").write_bytes(b"x" * 1000)
    with behind(lambda method, path, n: "flip" if method == "GET" else "pass", wait_s=1) as (store, _):
        store.upload(tmp_path / "in", "f")
        with pytest.raises(Damaged):
            store.download("f", tmp_path / "out")
        store.put("k", b"small")
        with pytest.raises(StoreUnavailable, match="did not arrive as it was stored"):
            store.get("k")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("action", ["503", "reset", "lost"])
def test_an_upload_in_parts_that_was_hurt_is_whole(behind, tmp_path, action):
    data = random.Random(1).randbytes(17 << 20)
    (tmp_path / "in").write_bytes(data)
    with behind(first("PUT", action)) as (store, _):
        store.upload(tmp_path / "in", "f")
    with behind(lambda *_: "pass") as (store, _):
        store.download("f", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data


@pytest.mark.parametrize("seed", [1, 2])
def test_an_attempt_in_a_storm_commits_once(behind, seed):
    """A fifth of all requests fail in some way; the attempt reserves, observes, publishes, and knows that it did."""
    dice = random.Random(seed)
    hurts = ("503", "409", "reset", "lost", *["pass"] * 16)

    def plan(method: str, path: str, n: int) -> str:
        action = dice.choice(hurts)
        return "503" if action == "409" and method != "PUT" else action

    with behind(plan, wait_s=60) as (store, proxy):
        taken = record.reserve(store, "s", "k", cluster="c")
        assert taken.record.epoch == 1
        with Holder(store, "s", "k", generation=1, epoch=1) as holder:
            answers = Observations(store, "s", "k")
            for i in range(6):
                assert answers.record(f"q{i}", {"n": i}) == {"n": i}
            assert holder.publish("m", "d").state is State.COMMITTED
        assert sum(action != "pass" for _, action in proxy.done) > 3
    with behind(lambda *_: "pass") as (store, _):
        held = record.read(store, "s", "k").record
        assert (held.state, held.epoch, held.manifest) == (State.COMMITTED, 1, "m")
        assert [Observations(store, "s", "k").get(f"q{i}") for i in range(6)] == [{"n": i} for i in range(6)]
