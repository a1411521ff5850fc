"""A tiny assistant with random weights as a folder; and one that is served on the real services."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import DefaultHttpxClient, OpenAI

from infra.local.installation import Environment
from pipelines import registry
from pipelines.artifact import Manifest
from pipelines.registry import Registered, Version
from pipelines.store import ObjectStore, open_store
from tests.pipelines.serving import world

MODEL = "tiny"
DESCRIPTION = "I say random words about red cats and blue dogs."


@pytest.fixture(scope="session")
def assistant_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world.write_assistant(tmp_path_factory.mktemp("tiny"))


@dataclass(kw_only=True)
class Live:
    """The stack with a model on it. Two versions are in the store; the first is served to begin with."""

    store: ObjectStore
    folder: Path
    url: str
    manifests: tuple[Manifest, Manifest]

    @property
    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=120, trust_env=False)

    @property
    def client(self) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0,
                      http_client=DefaultHttpxClient(timeout=120, trust_env=False))

    @property
    def state(self) -> Registered:
        return registry.read(self.store, MODEL)

    def crown(self, version: int) -> Version:
        return world.crown(self.store, MODEL, self.manifests[version - 1])

    def roll_out(self, **config: Any):
        """Run the rollout stage for whatever is champion, in a process of its own."""
        champion = self.state.alias("champion")
        assert champion is not None
        usual = {"model": MODEL, "description": DESCRIPTION, "example_questions": ["What is in the picture?"]}
        return world.roll_out(self.folder, champion.digest, **(usual | config))


@pytest.fixture(scope="package")
def live(services: Environment, assistant_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("live")
    environment = services | {"LLAVA_STORE": f"s3://llava/test/{folder.name}-{id(folder)}", "OMP_NUM_THREADS": "1"}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            patch.delenv(name, raising=False)
        for name, value in environment.items():
            patch.setenv(name, value)
        store = open_store(environment["LLAVA_STORE"])
        second = world.write_assistant(folder, seed=1)
        manifests = (world.commit(store, assistant_folder.parent, "a" * 64),
                     world.commit(store, second.parent, "b" * 64))
        made = Live(store=store, folder=folder, manifests=manifests,
                    url=f"http://127.0.0.1:{environment['LLAVA_SERVE_PORT']}")
        made.crown(1)
        done = made.roll_out()
        assert done.returncode == 0, done.stdout + done.stderr
        yield made
