"""What may be served: exactly what was registered, whole, and without code in it."""

from __future__ import annotations

import pytest

from pipelines.serving.fetch import fetch_assistant
from pipelines.serving.served import Served
from pipelines.stage import BadInput
from pipelines.store import Damaged, open_store
from tests.pipelines.serving import world


@pytest.fixture
def store(tmp_path):
    return open_store(f"file://{tmp_path}/store")


@pytest.fixture
def tuned(tmp_path):
    """A folder like a tuning step's output, with files of a few bytes."""
    for name in ("assistant/llava.json", "assistant/projector.safetensors", "hf/model.safetensors"):
        file = tmp_path / "tuned" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}")
    return tmp_path / "tuned"


def served(store, manifest, **changes) -> Served:
    return Served(**{"model": "tiny", "version": 1, "store_uri": store.uri, "step": manifest.step, "key": manifest.key,
                     "digest": manifest.digest} | changes)


def test_brings_the_assistant_alone(store, tuned, tmp_path):
    """The assistant's folder comes whole; the rest of the artifact stays where it is."""
    folder = fetch_assistant(served(store, world.commit(store, tuned, "a" * 64)), tmp_path / "cache")
    assert sorted(p.name for p in folder.iterdir()) == ["llava.json", "projector.safetensors"]
    assert not (folder.parent / "hf").exists()


def test_not_committed_or_another(store, tuned, tmp_path):
    """A version whose artifact is gone, or is not the one that was registered, is refused by name."""
    manifest = world.commit(store, tuned, "a" * 64)
    with pytest.raises(BadInput, match="is not committed"):
        fetch_assistant(served(store, manifest, key="b" * 64), tmp_path / "cache")
    with pytest.raises(BadInput, match="was registered with the content ffff"):
        fetch_assistant(served(store, manifest, digest="f" * 64), tmp_path / "cache")


def test_altered_bytes(store, tuned, tmp_path):
    """Bytes that are not what was published never reach a replica."""
    manifest = world.commit(store, tuned, "a" * 64)
    [entry] = [f for f in manifest.files if f.name.endswith("projector.safetensors")]
    store.put(manifest.at(entry), b"{]")
    with pytest.raises(Damaged, match="projector"):
        fetch_assistant(served(store, manifest), tmp_path / "cache")


def test_pickle_is_refused(store, tuned, tmp_path):
    """An artifact that holds anything but plain weights and their description is refused before it is loaded."""
    (tuned / "assistant" / "weights.pt").write_text("x")
    with pytest.raises(BadInput, match=r"weights\.pt is not of a kind"):
        fetch_assistant(served(store, world.commit(store, tuned, "a" * 64)), tmp_path / "cache")


def test_deployments_differ_by_what_matters(store, tuned):
    """Any difference in what is served, or how, is another deployment; none is none."""
    manifest = world.commit(store, tuned, "a" * 64)
    one = served(store, manifest)
    others = [served(store, manifest, **change) for change in (
        {"version": 2}, {"digest": "0"}, {"code": "1"}, {"num_replicas": 2}, {"route_prefix": "/x"}, {"threads": 2},
        {"description": "x"}, {"max_queued_requests": 1})]
    assert served(store, manifest).deployment == one.deployment
    assert len({one.deployment, *(o.deployment for o in others)}) == 9
