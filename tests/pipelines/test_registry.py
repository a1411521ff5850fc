"""The registry: one consistent object a model, changed by compare-and-swap, that decides what MLflow shows."""

from __future__ import annotations

import threading
import uuid
from pathlib import Path

import pytest

from infra.local.installation import Environment
from pipelines import registry
from pipelines.mlflow_api import MlflowApi
from pipelines.registry import Held, Superseded
from pipelines.registry_mirror import mirror
from pipelines.stage import BadInput
from pipelines.store import ObjectStore, open_store


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(f"file://{tmp_path}/store")


def add(store: ObjectStore, digest: str, model: str = "toy") -> int:
    return registry.register(store, model, step="tune_chat", key=f"key-{digest}", digest=digest,
                             scores={"overall": 0.5}, why="made").number


def crown(store: ObjectStore, digest: str) -> int:
    """Register and accept against the present champion."""
    champion = registry.read(store, "toy").aliases.get("champion")
    number = add(store, digest)
    registry.accept(store, "toy", number, against={"version": champion} if champion else None, why="better")
    return number


def test_versions_are_numbered_and_one_content_is_one_version(store: ObjectStore):
    """The same digest gets the same number whoever makes it again, under whatever key."""
    assert [add(store, "a"), add(store, "b"), add(store, "a")] == [1, 2, 1]
    again = registry.register(store, "toy", step="tune_chat", key="other", digest="b", scores={}, why="made")
    assert (again.number, again.key) == (2, "key-b")


def test_an_accepted_candidate_is_champion_and_the_one_before_it_previous(store: ObjectStore):
    """champion, previous and candidate move together, in one object."""
    crown(store, "a")
    crown(store, "b")
    assert registry.read(store, "toy").aliases == {"champion": 2, "previous": 1}


def test_registering_alone_moves_no_champion(store: ObjectStore):
    """A new version is a candidate, nothing more."""
    crown(store, "a")
    add(store, "b")
    assert registry.read(store, "toy").aliases == {"champion": 1, "candidate": 2}


def test_doing_it_again_writes_nothing(store: ObjectStore):
    """Level-triggered: a repeated step leaves the object as it is, history included."""
    crown(store, "a")
    before = store.get(registry.alias_key("toy"))
    crown(store, "a")
    after = store.get(registry.alias_key("toy"))
    assert before and after and before.etag == after.etag


def test_a_candidate_that_was_compared_with_an_older_champion_is_not_crowned(store: ObjectStore):
    """Law 9: between gate and register another became champion, with which this one was never compared."""
    crown(store, "a")
    late = add(store, "late")
    crown(store, "b")
    with pytest.raises(Superseded, match="was not compared"):
        registry.accept(store, "toy", late, against={"version": 1}, why="better than 1")
    assert registry.read(store, "toy").aliases["champion"] == 3


def test_a_rollback_goes_back_holds_and_only_promote_clears_it(store: ObjectStore):
    """After a rollback an accepted candidate stays candidate until a person promotes."""
    crown(store, "a")
    crown(store, "b")
    state = registry.rollback(store, "toy", why="speaks in riddles", who="ada")
    assert (state.aliases["champion"], state.aliases["previous"]) == (1, 2)
    assert state.hold and "ada" in state.hold and "riddles" in state.hold
    number = add(store, "c")
    with pytest.raises(Held, match=r"llavactl promote toy 3"):
        registry.accept(store, "toy", number, against={"version": 1}, why="better")
    state = registry.promote(store, "toy", number, why="checked by hand", who="ada")
    assert (state.aliases["champion"], state.hold) == (3, None)


def test_a_rollback_without_a_previous_champion_is_refused(store: ObjectStore):
    """There is nothing to go back to, and nothing changes."""
    crown(store, "a")
    with pytest.raises(BadInput, match="no previous champion"):
        registry.rollback(store, "toy", why="")
    assert registry.read(store, "toy").hold is None


def test_promoting_an_unknown_version_names_those_that_exist(store: ObjectStore):
    """The error is a sentence a person can act on."""
    crown(store, "a")
    with pytest.raises(BadInput, match="no version 7; it has 1"):
        registry.promote(store, "toy", 7, why="")


def test_history_says_who_what_and_why(store: ObjectStore):
    """Each change leaves its line, in order."""
    crown(store, "a")
    crown(store, "b")
    registry.rollback(store, "toy", why="riddles", who="ada")
    last = registry.read(store, "toy").history[-1]
    assert (last.who, last.what, last.why) == ("ada", "rolled back: champion -> 1", "riddles")
    assert [h.what for h in registry.read(store, "toy").history][:2] == ["candidate -> 1", "champion -> 1"]


def test_racing_writers_lose_nothing(store_uri: str):
    """Eight writers at once on a real S3 server: every version is there once, and numbers are unique."""
    stores = [open_store(store_uri) for _ in range(8)]
    threads = [threading.Thread(target=add, args=(s, f"d{i % 4}")) for i, s in enumerate(stores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    versions = registry.read(stores[0], "toy").versions
    assert sorted(v.digest for v in versions) == ["d0", "d1", "d2", "d3"]
    assert [v.number for v in versions] == [1, 2, 3, 4]


def test_newer_codes_object_is_refused(store: ObjectStore):
    """An older checkout does not guess at a newer schema."""
    store.create(registry.alias_key("toy"), b'{"schema": 99, "model": "toy"}')
    with pytest.raises(BadInput, match="newer code"):
        registry.read(store, "toy")


@pytest.mark.slow
def test_mlflow_is_repaired_from_the_store(store: ObjectStore, services: Environment):
    """Whatever somebody did in MLflow, the S3 object decides: aliases move back, no version is made twice."""
    model = f"toy-{uuid.uuid4().hex[:8]}"
    api = MlflowApi(services["MLFLOW_TRACKING_URI"])
    for digest in ("a", "b"):
        number = add(store, digest, model)
        registry.promote(store, model, number, why="")
    assert mirror(api, "s3://llava/main", registry.read(store, model)) > 0
    api.post("registered-models/alias", {"name": model, "alias": "champion", "version": "1"})
    api.delete("registered-models/alias", {"name": model, "alias": "previous"})
    assert mirror(api, "s3://llava/main", registry.read(store, model)) == 2
    assert mirror(api, "s3://llava/main", registry.read(store, model)) == 0
    shown = api.get("registered-models/get", {"name": model})["registered_model"]
    assert {a["alias"]: a["version"] for a in shown["aliases"]} == {"champion": "2", "previous": "1"}
    found = api.get("model-versions/search", {"filter": f"name='{model}'"})["model_versions"]
    tags = [{t["key"]: t["value"] for t in v["tags"]}["llava.digest"] for v in found]
    assert sorted(tags) == ["a", "b"]
