"""The verbs of the local services, as a person types them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from infra.llavactl import build
from infra.local import processes, services
from infra.local.installation import Environment, open_installation

run = CliRunner()


def test_every_verb_teaches():
    """--help of the program names each verb; --help of up says what to do next."""
    listed = run.invoke(build(), ["--help"]).output
    verbs = ("up", "down", "status", "env", "doctor", "plan", "run", "show", "logs", "ask")
    assert [verb for verb in verbs if f" {verb} " not in listed] == []
    assert "llavactl env" in run.invoke(build(), ["up", "--help"]).output


@pytest.mark.parametrize("verb", ["status", "env"])
def test_before_the_first_up_the_error_says_what_to_do(verb: str, tmp_path: Path):
    """Exit code 2, one sentence, no traceback."""
    result = run.invoke(build(), [verb, "--state", str(tmp_path)])
    assert result.exit_code == 2
    assert "run `llavactl up`" in result.stderr and "Traceback" not in result.output


def test_down_where_nothing_runs_is_no_error(tmp_path: Path):
    """``down`` may be called at any time."""
    result = run.invoke(build(), ["down", "--state", str(tmp_path)])
    assert (result.exit_code, result.stdout) == (0, "nothing was running\n")


def test_status_shows_a_crash_and_down_clears_it(tmp_path: Path):
    """A killed service is named with its state and exit code 1; after down its files remain and no process does."""
    services.start(tmp_path, free=True, which={"pictures"})
    installation = open_installation(tmp_path)
    assert installation is not None
    main = processes.main_process(installation, "pictures")
    assert main is not None
    os.kill(main.pid, signal.SIGKILL)
    psutil.wait_procs([main], timeout=10)
    result = run.invoke(build(), ["status", "--state", str(tmp_path)])
    assert result.exit_code == 1
    [line] = [text for text in result.stdout.splitlines() if text.startswith("Pictures")]
    assert "crashed" in line
    run.invoke(build(), ["down", "--state", str(tmp_path)])
    assert {s.health for s in services.status(tmp_path)} == {services.Health.STOPPED}
    assert installation.log("pictures").is_file()


def test_env_prints_what_a_shell_can_evaluate(s3: Environment):
    """Every address of the installation, quoted for a shell."""
    printed = run.invoke(build(), ["env", "--state", s3["LLAVA_STATE"]]).stdout
    assert f"export AWS_ENDPOINT_URL={s3['AWS_ENDPOINT_URL']}\n" in printed


@pytest.mark.slow
def test_up_on_a_running_stack_changes_nothing_and_says_where_it_is(services: Environment, monkeypatch):
    """All are ready and named with their addresses; no process is another one than before."""
    monkeypatch.delenv("LLAVA_SERVE_PORT", raising=False)
    from infra.local.services import status

    state = Path(services["LLAVA_STATE"])
    before = [s.pid for s in status(state)]
    result = run.invoke(build(), ["up", "--state", str(state)])
    assert result.exit_code == 0, result.output
    assert [s.pid for s in status(state)] == before
    assert services["RAY_API_SERVER_ADDRESS"] in result.stdout and 'eval "$(llavactl env)"' in result.stdout
