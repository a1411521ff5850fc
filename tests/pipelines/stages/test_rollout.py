"""The rollout stage where it needs no cluster: what it wants, what it leaves alone, what it refuses."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest
from pydantic import ValidationError

from pipelines import registry
from pipelines.registry import Held
from pipelines.serving.rollout import NotAsItMust, ask_canaries
from pipelines.stage import BadInput
from pipelines.stages import rollout
from pipelines.store import open_store
from tests import tiny
from tests.pipelines.serving import local, world

MODEL = "tiny"


@pytest.fixture(scope="module")
def assistant_folder(tmp_path_factory):
    return world.write_assistant(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def store(tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in {"LLAVA_STATE": str(tmp_path), "LLAVA_STORE": f"file://{tmp_path}/store",
                        "LLAVA_SERVE_PORT": str(port), "RAY_AUTH_MODE": "token",
                        "RAY_AUTH_TOKEN_PATH": str(tmp_path / "no-token"), "LLAVA_RAY_GCS": "127.0.0.1:1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    return open_store(f"file://{tmp_path}/store")


@pytest.fixture
def manifest(store, assistant_folder):
    return world.commit(store, assistant_folder.parent, "a" * 64)


def test_no_champion(store, tmp_path):
    """Without a champion there is nothing to serve, and the message says how one is made."""
    with pytest.raises(BadInput, match=r"tiny has no champion.*llavactl promote"):
        rollout.run(world.context(store, tmp_path, "x", {"model": MODEL}))


def test_disabled(store, tmp_path, capsys):
    """Switched off, it touches nothing, not even the registry."""
    rollout.run(world.context(store, tmp_path, "x", {"model": MODEL, "enabled": False}))
    assert "stays as it is" in capsys.readouterr().out and not list(store.list("aliases/"))


def test_route_prefix():
    """A prefix that Ray Serve would not take is an error of the recipe."""
    for prefix in ("chat", "/chat/", "/Chat", "/a b"):
        with pytest.raises(ValidationError):
            rollout.Config(route_prefix=prefix)


def test_cluster_is_needed_only_for_a_change(store, manifest, tmp_path):
    """When something is to be deployed and the token is missing, that is said before anything is tried."""
    world.crown(store, MODEL, manifest)
    with pytest.raises(BadInput, match=r"Ray token file .*no-token"):
        rollout.run(world.context(store, tmp_path, manifest.digest, {"model": MODEL}))
    assert "serving" not in registry.read(store, MODEL).aliases


def test_what_runs_is_left_alone(store, manifest, assistant_folder, tmp_path, capsys):
    """The champion runs already: nothing is deployed, and an alias that a killed rollout left behind is mended."""
    version = world.crown(store, MODEL, manifest)
    context = world.context(store, tmp_path, manifest.digest, {"model": MODEL})
    served = rollout._served(context, version, rollout._canaries(context))
    with local.serving(served, assistant_folder, context.settings.serve_port):
        result = rollout.run(context)
    assert "nothing to do" in capsys.readouterr().out
    assert (result.values["version"], result.metrics["deployed"]) == (1, 0.0)
    assert registry.read(store, MODEL).aliases["serving"] == 1


def test_route_of_another_model(store, manifest, assistant_folder, tmp_path):
    """A model never takes another's route: the message names the other and gives the way out."""
    version = world.crown(store, MODEL, manifest)
    context = world.context(store, tmp_path, manifest.digest, {"model": MODEL})
    other = replace(rollout._served(context, version, ()), model="other")
    with local.serving(other, assistant_folder, context.settings.serve_port), \
            pytest.raises(BadInput, match=r"'other' already.*rollout\.route_prefix=/tiny"):
        rollout.run(context)


def test_hold(store, manifest, assistant_folder, tmp_path):
    """After a rollback the champion that a person chose is served, and a newer model is told why it is not."""
    world.crown(store, MODEL, manifest)
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "x.json").write_text("{}")
    version = world.crown(store, MODEL, world.commit(store, tmp_path / "newer", "b" * 64))
    state = registry.rollback(store, MODEL, why="it answers badly")
    assert state.aliases["champion"] == 1 and version.number == 2
    context = world.context(store, tmp_path, "of the newer model", {"model": MODEL})
    served = rollout._served(context, state.version(1), rollout._canaries(context))
    with local.serving(served, assistant_folder, context.settings.serve_port), \
            pytest.raises(Held, match=r"on hold .*it answers badly.*llavactl promote"):
        rollout.run(context)
    assert registry.read(store, MODEL).aliases["serving"] == 1


def test_canary_picture(store, tmp_path):
    """A given picture is shown to the canary as a PNG; a file that is none is an error that names it."""
    context = world.context(store, tmp_path, "x", {"model": MODEL, "canary_picture": "p"})
    (tmp_path / "p.gif").write_bytes(tiny.picture())
    context.source_paths = {"canary_picture": lambda: tmp_path / "p.gif"}
    [canary] = rollout._canaries(context)
    assert canary.picture.startswith(b"\x89PNG") and canary.question == "What is in the picture?"
    (tmp_path / "p.gif").write_text("no picture")
    with pytest.raises(BadInput, match=r"p\.gif"):
        rollout._canaries(context)


def test_canaries_at_the_front_door(store, manifest, assistant_folder, tmp_path):
    """A deployed version is asked as a client would ask it, and an answer without the expected word is a failure."""
    version = world.crown(store, MODEL, manifest)
    context = world.context(store, tmp_path, manifest.digest, {"model": MODEL})
    canaries = rollout._canaries(context)
    served = rollout._served(context, version, canaries)
    port = context.settings.serve_port
    with local.serving(served, assistant_folder, port):
        ask_canaries(served, "127.0.0.1", port)
    expecting = replace(served, canaries=(replace(canaries[0], expect=("zebra",)),))
    with local.serving(expecting, assistant_folder, port), pytest.raises(NotAsItMust, match="none of zebra"):
        ask_canaries(expecting, "127.0.0.1", port)
