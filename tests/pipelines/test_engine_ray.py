"""The same engine on a real Ray cluster and a real S3 server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra.local.installation import Environment
from pipelines.drive import drive
from pipelines.journal import Journal, fold
from pipelines.runners import JobStatus
from pipelines.runners.ray_jobs import RayJobs
from pipelines.settings import load_settings
from pipelines.stage import BadInput
from pipelines.work import ExitCode
from tests.pipelines.toys import ROOT, Workshop, diamond, step

pytestmark = pytest.mark.slow


@pytest.fixture
def shop(services_env: Environment) -> Workshop:
    """Toy steps run on the cluster, and tell of it in its state folder."""
    folder = Path(services_env["LLAVA_STATE"]) / "toy"
    folder.mkdir(exist_ok=True)
    (folder / "effects").unlink(missing_ok=True)
    return Workshop(folder=folder, uri=services_env["LLAVA_STORE"])


def run(pipeline, **options) -> ExitCode:
    return drive(pipeline, load_settings(), poll_s=0.3, **options)


def test_each_working_step_is_a_ray_job_and_is_done_once(shop: Workshop, capfd):
    """Two runs, one execution of each; the record's id is the job's; its log is in the bucket."""
    assert run(diamond()) is ExitCode.DONE
    assert run(diamond()) is ExitCode.DONE
    assert [n for n in shop.executed() if n != "announce"] == ["add", "decide", "number@a", "number@b"]
    jobs = RayJobs(load_settings().ray_address, shop.store.uri)
    state = fold(Journal(shop.store, sorted(shop.run_ids())[0]).read())
    submitted = {n: s.submission_id for n, s in state.steps.items() if s.submission_id}
    assert jobs.job(submitted["add"]).status is JobStatus.SUCCEEDED
    assert jobs.job(submitted["decide"]).status is JobStatus.ABSENT
    assert "working on add" in shop.log("add")


def test_a_killed_driver_leaves_the_ray_job_running_and_the_next_attaches(shop: Workshop):
    """One execution, by the process that the first driver's job started."""
    gate = shop.hold("add")
    code = "import sys; from tests.pipelines.test_engine_ray import diamond, run; sys.exit(run(diamond(value=3)))"
    driver = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=dict(os.environ))
    deadline = time.monotonic() + 60
    while "add" not in shop.executed():
        assert time.monotonic() < deadline and driver.poll() is None
        time.sleep(0.2)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    second = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=dict(os.environ), stdout=subprocess.PIPE)
    while not (len(shop.run_ids()) > 1 and "attached" in [e.kind for e in Journal(shop.store, shop.last_run()).read()]):
        assert time.monotonic() < deadline and second.poll() is None
        time.sleep(0.2)
    gate.unlink()
    out, _ = second.communicate(timeout=60)
    assert second.returncode == 0 and b"attached to attempt 1" in out
    assert shop.executed().count("add") == 1


def test_a_job_that_is_stopped_by_a_person_is_cancelled(shop: Workshop):
    """Exit 30; a rerun takes the next epoch."""
    pipeline = diamond(number__a=step("number@a", value=4)).until(["number@a"])
    jobs = RayJobs(load_settings().ray_address, shop.store.uri)
    gate = shop.hold("number@a")
    code = ("import sys; from tests.pipelines.test_engine_ray import *; "
            "sys.exit(run(diamond(number__a=step('number@a', value=4)).until(['number@a'])))")
    driver = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=dict(os.environ))
    while not shop.executed():
        time.sleep(0.1)
    state = fold(Journal(shop.store, shop.last_run()).read())
    jobs.stop(str(state.steps["number@a"].submission_id))
    assert driver.wait(60) == ExitCode.CANCELLED
    gate.unlink()
    assert run(pipeline) is ExitCode.DONE
    assert shop.manifests()["number@a"].epoch == 2


def test_no_cluster_a_missing_token_and_a_wrong_one_are_each_named(services_env, monkeypatch, tmp_path):
    """One sentence with the fix, before anything is planned."""
    address = services_env["RAY_API_SERVER_ADDRESS"]
    with pytest.raises(BadInput, match=r"no Ray cluster answers at http://127\.0\.0\.1:9 .*make up"):
        RayJobs("http://127.0.0.1:9", "s3://x/y")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(BadInput, match=r"token file .*none cannot be read"):
        RayJobs(address, "s3://x/y")
    (tmp_path / "none").write_text("0" * 64)
    with pytest.raises(BadInput, match="refused the token"):
        RayJobs(address, "s3://x/y")
    monkeypatch.delenv("RAY_AUTH_MODE")
    with pytest.raises(BadInput, match=r"refused the token \(HTTP 401\).*RAY_AUTH_MODE=token"):
        RayJobs(address, "s3://x/y")
