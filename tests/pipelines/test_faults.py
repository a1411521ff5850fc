"""Crash points: nothing unless asked, then exactly what was asked, where and when it was asked."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from pipelines import faults
from pipelines.faults import POINTS, Fault, ReplyDropped, crash_point
from pipelines.stage import BadInput

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def ask(monkeypatch):
    monkeypatch.setattr(faults, "_passes", Counter())
    return lambda text: monkeypatch.setenv("PIPELINE_FAULT", text)


def test_without_a_fault_nothing_happens(monkeypatch):
    monkeypatch.delenv("PIPELINE_FAULT", raising=False)
    for name in POINTS:
        crash_point(name)


def test_only_the_named_point_fails_and_only_at_its_nth_pass(ask):
    ask("publish.before_commit:raise:2")
    crash_point("publish.before_manifest")
    crash_point("publish.before_commit")
    with pytest.raises(Fault, match=r"publish\.before_commit"):
        crash_point("publish.before_commit")
    crash_point("publish.before_commit")


def test_a_dropped_reply_looks_like_the_network(ask):
    ask("store.put.reply:drop-reply")
    with pytest.raises(ConnectionError) as error:
        crash_point("store.put.reply")
    assert isinstance(error.value, ReplyDropped)


def test_a_kill_is_a_kill():
    code = "from pipelines.faults import crash_point\ncrash_point('reserve.after')\nprint('alive')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                          env={"PIPELINE_FAULT": "reserve.after:kill", "PATH": ""})
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "")


@pytest.mark.parametrize("text", ["nowhere:kill", "publish.before_commit", "publish.before_commit:explode",
                                  "publish.before_commit:kill:0", "publish.before_commit:kill:x"])
def test_a_fault_that_means_nothing_is_refused(ask, text):
    ask(text)
    with pytest.raises(BadInput, match="PIPELINE_FAULT="):
        crash_point("publish.before_commit")


def test_the_list_names_every_point_in_the_code_and_no_other():
    code = "".join(f.read_text() for f in (ROOT / "pipelines").rglob("*.py") if f.name != "faults.py")
    used = re.findall(r'crash_point\("([^"]+)"\)', code) + re.findall(r'"(store\.[a-z]+\.reply)"', code)
    assert set(used) == set(POINTS)
