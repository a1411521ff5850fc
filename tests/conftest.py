"""Real services for tests: started once for a test session on free ports, and gone when it ends.

    def test_x(store_uri): ...          # a fresh ``s3://bucket/prefix`` on a real S3 server; AWS_* set for the test
    def test_y(s3): ...                 # the S3 server's environment, as a dict; nothing is set
    def test_z(services): ...           # S3, MLflow, Ray and the picture server; nothing is set
    def test_w(services_env): ...       # the same, with the environment set for the test
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from infra.local import services as local
from infra.local.installation import Environment


def _running(which: set[str]) -> Iterator[Environment]:
    with tempfile.TemporaryDirectory(prefix="llt-", ignore_cleanup_errors=True) as folder:
        try:
            yield local.start(Path(folder), free=True, which=which)
        finally:
            local.stop(Path(folder))


@pytest.fixture(scope="session")
def s3() -> Iterator[Environment]:
    """A real S3 server alone (a second or two)."""
    yield from _running({"s3"})


@pytest.fixture(scope="session")
def services() -> Iterator[Environment]:
    """The whole stack (about fifteen seconds)."""
    yield from _running(set(local.SERVICES))


@pytest.fixture
def store_uri(s3: Environment, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh, empty ``s3://`` prefix, with the environment that reaches it."""
    _set(monkeypatch, s3)
    return f"s3://llava/test/{uuid.uuid4().hex}"


@pytest.fixture
def services_env(services: Environment, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """The whole stack, with its environment set for this test and a store prefix of its own."""
    environment = services | {"LLAVA_STORE": f"s3://llava/test/{uuid.uuid4().hex}"}
    _set(monkeypatch, environment)
    return environment


def _set(monkeypatch: pytest.MonkeyPatch, environment: Environment) -> None:
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it remembers the credentials file of an earlier test
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
