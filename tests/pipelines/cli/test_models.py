"""The registry's verbs: a person sees what each alias names, goes back, and goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines import registry
from pipelines.cli import app
from pipelines.store import open_store


@pytest.fixture
def uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store with two versions of ``toy``, the second champion; no MLflow."""
    monkeypatch.setenv("LLAVA_STATE", str(tmp_path))
    monkeypatch.setenv("LLAVA_STORE", f"file://{tmp_path}/store")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = open_store(f"file://{tmp_path}/store")
    for digest in ("aaaa", "bbbb"):
        version = registry.register(store, "toy", step="tune_chat", key="k" * 64, digest=digest, scores={}, why="made")
        registry.promote(store, "toy", version.number, why="better")
    return store.uri


def test_models_shows_what_each_alias_names(uri: str):
    """One line a version, with its aliases."""
    lines = CliRunner().invoke(app, ["models", "--store", uri]).stdout.splitlines()
    assert [line.split()[:2] for line in lines if line[:1].isdigit()] == [["1", "previous"], ["2", "champion"]]


def test_rollback_holds_and_promote_lets_go(uri: str):
    """The hold is shown with who and why; promoting clears it."""
    back = CliRunner().invoke(app, ["rollback", "toy", "--why", "riddles", "--store", uri])
    assert back.exit_code == 0 and "ON HOLD" in back.stdout and "riddles" in back.stdout
    assert registry.read(open_store(uri), "toy").aliases["champion"] == 1
    on = CliRunner().invoke(app, ["promote", "toy", "2", "--why", "mended", "--store", uri])
    assert on.exit_code == 0 and "ON HOLD" not in on.stdout


def test_an_unknown_version_is_bad_input(uri: str):
    """Exit code 2 and a sentence that names those that exist."""
    result = CliRunner().invoke(app, ["promote", "toy", "9", "--why", "x", "--store", uri])
    assert result.exit_code == 2
    assert "it has 1, 2" in result.stderr
