"""The contract of object stores, for S3 and for a directory."""

from __future__ import annotations

import hashlib
import os
import pickle
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipelines.stage import BadInput
from pipelines.store import BucketMissing, Damaged, StoreDenied, StoreUnavailable, open_store, with_nonce


@pytest.fixture(params=["s3", "directory"])
def store(request, tmp_path):
    if request.param == "s3":
        return open_store(request.getfixturevalue("store_uri"), wait_s=20)
    return open_store(f"file://{tmp_path}/store")


def test_get_gives_what_was_put_with_the_stores_own_times(store):
    etag = store.put("a/b.json", b"{}")
    stored = store.get("a/b.json")
    assert (stored.body, stored.etag) == (b"{}", etag)
    assert timedelta(seconds=-1) <= stored.now - stored.last_modified < timedelta(seconds=10)


def test_nothing_is_none(store):
    assert store.get("nothing") is None
    assert store.head("no/thing") is None


def test_create_has_one_winner(store):
    """Sixteen writers at once: one gets an ETag, and its body is what everybody reads."""
    bodies = [with_nonce({"writer": i}) for i in range(16)]
    won: list[tuple[str | None, bytes]] = []

    def write(body: bytes) -> None:
        won.append((store.create("one", body), body))

    threads = [threading.Thread(target=write, args=(b,)) for b in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [(etag, body) for etag, body in won if etag]
    held = store.get("one")
    assert winners == [(held.etag, held.body)]


def test_create_of_an_equal_body_is_ones_own(store):
    """A writer whose first answer was lost finds its own body there and is told so."""
    body = with_nonce({"x": 1})
    etag = store.create("k", body)
    assert etag and store.create("k", body) == etag


def test_replace_needs_the_version_it_names(store):
    first = store.put("k", with_nonce({"n": 1}))
    second = store.replace("k", with_nonce({"n": 2}), first)
    assert second and second != first
    assert store.replace("k", with_nonce({"n": 3}), first) is None
    assert b'"n": 2' in store.get("k").body


def test_replace_of_what_is_gone_is_refused(store):
    etag = store.put("k", b"1")
    store.delete("k")
    assert store.replace("k", b"2", etag) is None
    assert store.get("k") is None


@pytest.mark.parametrize("operation", ["create", "replace", "put"])
def test_a_lost_answer_is_read_back(store, operation, monkeypatch):
    """The write happened, its answer did not arrive: the writer still learns that it won."""
    before = store.put("k", with_nonce({"n": 0})) if operation == "replace" else None
    body = with_nonce({"n": 1})
    monkeypatch.setenv("PIPELINE_FAULT", f"store.{operation}.reply:drop-reply")
    monkeypatch.setattr("pipelines.faults._passes", Counter())
    etag = store.replace("k", body, before) if operation == "replace" else getattr(store, operation)("k", body)
    held = store.get("k")
    assert (held.body, held.etag) == (body, etag)


def test_list_gives_every_object_under_a_prefix_in_order(store):
    for name in ("b/2", "b/1", "bc", "a/x/y"):
        store.put(name, name.encode())
    assert [i.key for i in store.list("b/")] == ["b/1", "b/2"]
    assert [i.key for i in store.list("b")] == ["b/1", "b/2", "bc"]
    assert [(i.key, i.size) for i in store.list()] == [("a/x/y", 5), ("b/1", 3), ("b/2", 3), ("bc", 2)]


@pytest.mark.parametrize("size", [0, 10, 17 << 20])
def test_files_travel_whole_with_their_checksum(store, tmp_path, size):
    """An empty file, a small one, and one that goes in several parts."""
    data = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "in").write_bytes(data[:size])
    entry = store.upload(tmp_path / "in", "files/x.bin")
    assert (entry.size, entry.sha256) == (size, hashlib.sha256(data[:size]).hexdigest())
    head = store.head("files/x.bin")
    assert (head.size, head.sha256) == (entry.size, entry.sha256)
    store.download("files/x.bin", tmp_path / "new" / "out", sha256=entry.sha256)
    assert (tmp_path / "new" / "out").read_bytes() == data[:size]


def test_altered_bytes_are_never_handed_out(store, tmp_path):
    (tmp_path / "in").write_bytes(b"good")
    entry = store.upload(tmp_path / "in", "x")
    store.put("x", b"evil")
    with pytest.raises(Damaged, match="x has the sha256"):
        store.download("x", tmp_path / "out", sha256=entry.sha256)
    assert not list(tmp_path.glob("*out*"))
    with pytest.raises(Damaged, match="y is missing"):
        store.download("y", tmp_path / "out")


def test_bulk_data_is_reached_through_pyarrow(store):
    filesystem, root = store.filesystem()
    store.put("bulk/a", b"bytes")
    with filesystem.open_input_stream(f"{root}/bulk/a") as stream:
        assert stream.read() == b"bytes"


def test_the_clock_is_the_stores(store):
    assert abs(store.now() - datetime.now(UTC)) < timedelta(seconds=5)


def test_a_store_travels_to_another_process_without_its_secrets(store):
    store.put("k", b"1")
    packed = pickle.dumps(store)
    assert b"secret" not in packed.lower()
    assert pickle.loads(packed).get("k").body == b"1"


def test_keys_stay_inside(store):
    for key in ("../x", "a//b", "", "/a"):
        with pytest.raises(ValueError, match="not a key"):
            store.put(key, b"")


def test_a_missing_bucket_is_named(store_uri):
    store = open_store("s3://no-such-bucket/x", wait_s=2)
    for call in (lambda: store.get("k"), lambda: store.head("k"), lambda: store.put("k", b""),
                 lambda: list(store.list()), lambda: store.create("k", b"")):
        with pytest.raises(BucketMissing, match="'no-such-bucket' does not exist at http"):
            call()


def test_wrong_keys_are_denied_without_being_shown(store_uri, monkeypatch, tmp_path):
    file = tmp_path / "credentials"
    file.write_text("[default]\naws_access_key_id = wrong\naws_secret_access_key = hidden\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    with pytest.raises(StoreDenied, match="profile 'default'") as error:
        open_store(store_uri, wait_s=2).get("k")
    assert "hidden" not in str(error.value)


def test_credentials_are_read_again_when_they_are_refused(store_uri, monkeypatch, tmp_path):
    """Keys that were rotated while a program runs are picked up without a restart."""
    good = Path(os.environ["AWS_SHARED_CREDENTIALS_FILE"]).read_text()
    file = tmp_path / "credentials"
    file.write_text("[default]\naws_access_key_id = old\naws_secret_access_key = old\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    store = open_store(store_uri, wait_s=2)
    with pytest.raises(StoreDenied):
        store.get("k")
    file.write_text(good)
    assert store.create("k", b"1")


def test_an_unknown_profile_is_denied_by_name(store_uri, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StoreDenied, match="'nobody'"):
        open_store(store_uri, wait_s=2).get("k")


def test_no_server_is_unavailable_and_named(store_uri, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:9"):
        open_store(store_uri, wait_s=0.3).get("k")


def test_an_unknown_kind_of_store_is_bad_input():
    with pytest.raises(BadInput, match="s3://bucket/prefix"):
        open_store("/tmp/x")
