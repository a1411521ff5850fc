"""llavactl reads what a run left, and says mistakes in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pipelines.cli import app
from pipelines.cli.show import draw
from pipelines.work import ExitCode
from tests.pipelines.toys import Workshop, diamond, workshop


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    return workshop(tmp_path, monkeypatch)


def ctl(shop: Workshop, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--store", shop.store.uri])


def test_show_draws_every_step_with_its_state_and_reason(shop: Workshop):
    """The newest run by default; a failed step shows its error."""
    shop.fail("number@a", "user")
    shop.run(diamond())
    out = ctl(shop, "show").stdout
    assert "exit 1" in out and "✘ number@a  failed" in out and "ValueError: the stage has a mistake" in out
    assert "✔ number@b  done" in out and "◼ add  blocked" in out and "needs number@a, which failed" in out


def test_logs_show_what_an_attempt_printed_and_why_it_ended(shop: Workshop, monkeypatch):
    """Earlier attempts too; a step without one is named."""
    monkeypatch.setattr("pipelines.attend.BACK_OFF_S", 0.0)
    shop.fail("number@a", "network")
    shop.run(diamond().until(["number@a"]))
    assert "working on number@a" in ctl(shop, "logs", "last", "number@a").stdout
    first = ctl(shop, "logs", "last", "number@a", "--epoch", "1").stdout
    assert "working on number@a" in first and "infrastructure: ConnectionError: the network is away" in first
    missing = ctl(shop, "logs", "last", "nothing")
    assert missing.exit_code == ExitCode.BAD_INPUT and "no attempt at 'nothing'" in missing.stderr


def test_runs_are_listed_with_their_ends(shop: Workshop):
    """Oldest first."""
    shop.run(diamond().until(["number@a"]))
    shop.run(diamond(minimum=100))
    lines = ctl(shop, "runs").stdout.strip().splitlines()
    assert "exit 0" in lines[-2] and "1 done" in lines[-2]
    assert "exit 10" in lines[-1] and "1 rejected" in lines[-1]


def test_an_unknown_run_is_one_sentence(shop: Workshop):
    """Exit code 2; a traceback only with --debug."""
    shop.run(diamond().until(["number@a"]))
    answer = ctl(shop, "show", "nonsense")
    assert answer.exit_code == ExitCode.BAD_INPUT
    assert answer.stderr == "error: no run 'nonsense'; `llavactl runs` lists them\n"
    assert ctl(shop, "show", "nonsense", "--debug").exception is not None


def test_the_picture_keeps_every_edge():
    """A diamond: the two branches leave the first step and meet in the last."""
    assert draw({"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"]}) == [
        ("●  ", "a"), ("├─●", "b"), ("● │", "c"), ("●─┘", "d")]


@pytest.mark.parametrize("verb", ["plan", "run", "show", "logs", "runs", "recipe"])
def test_help_teaches_with_an_example(verb):
    """Each verb shows how it is typed."""
    arguments = [verb, "show", "--help"] if verb == "recipe" else [verb, "--help"]
    assert f"llavactl {verb}" in CliRunner().invoke(app, arguments).stdout
