"""Whole: a reader sees a complete, verified artifact or none, wherever its maker was killed."""

from __future__ import annotations

import signal

import pytest

from pipelines import record
from pipelines.record import Ground
from pipelines.store import open_store
from tests.pipelines.attempts import STEP, start, visible

KEY = "c" * 64
BEFORE = ("claim.before", "claim.after", "publish.before_files", "publish.between_files", "publish.before_manifest",
          "publish.before_commit")


def make(uri, tmp_path, fault=None):
    """One more attempt at the key, as a driver would start it; returns its exit status."""
    store = open_store(uri, wait_s=20)
    seen = record.read(store, STEP, KEY)
    seen = record.reserve(store, STEP, KEY, cluster="here", over=seen, ground=Ground.JOB_ENDED if seen else None)
    folder = tmp_path / f"out{seen.record.epoch}"
    folder.mkdir()
    process = start(uri, KEY, 1, seen.record.epoch, folder,
                    environment={"PIPELINE_FAULT": f"{fault}:kill"} if fault else {})
    process.communicate(timeout=60)
    return process.returncode


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("control")
    uri = f"file://{folder}/store"
    assert make(uri, folder) == 0
    return visible(open_store(uri), KEY)


@pytest.mark.parametrize("point", BEFORE)
def test_killed_before_the_commit_there_is_nothing_and_the_next_attempt_makes_the_same(point, tmp_path, undisturbed):
    uri = f"file://{tmp_path}/store"
    assert make(uri, tmp_path, point) == -signal.SIGKILL
    assert visible(open_store(uri), KEY) is None
    assert make(uri, tmp_path) == 0
    assert visible(open_store(uri), KEY) == undisturbed


def test_killed_after_the_commit_everything_is_there(tmp_path, undisturbed):
    uri = f"file://{tmp_path}/store"
    assert make(uri, tmp_path, "publish.after_commit") == -signal.SIGKILL
    assert visible(open_store(uri), KEY) == undisturbed


def test_on_a_real_s3_server_too(store_uri, tmp_path, undisturbed):
    assert make(store_uri, tmp_path, "publish.before_commit") == -signal.SIGKILL
    assert visible(open_store(store_uri), KEY) is None
    assert make(store_uri, tmp_path) == 0
    assert visible(open_store(store_uri), KEY) == undisturbed
