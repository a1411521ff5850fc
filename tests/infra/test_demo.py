"""The demo watches one driver: it submits it as documented, follows one that is at work, and passes on how it ended."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from infra.demo import _jobs, run_pipeline
from infra.local.installation import ROOT, Environment


@pytest.mark.slow
def test_a_driver_at_work_is_followed_and_its_end_passed_on(services_env: Environment, capfd):
    """A second demo submits no second driver; an unknown recipe ends with the driver's own exit code 2."""
    recipe = "no-such-recipe"
    entrypoint = f"python jobs/full_pipeline.py --recipe {recipe}"
    ray = Path(sys.prefix) / "bin" / "ray"
    subprocess.run([ray, "job", "submit", "--no-wait", "--", *entrypoint.split()], cwd=ROOT, check=True)
    assert run_pipeline(recipe, services_env) == 2
    assert len(_jobs(services_env, entrypoint)) == 1
    assert "following" in capfd.readouterr().out
    assert run_pipeline(recipe, services_env) == 2
    assert len(_jobs(services_env, entrypoint)) == 2
    assert f"no recipe '{recipe}'" in capfd.readouterr().out
