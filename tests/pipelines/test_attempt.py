"""An attempt publishes only under its record, only what the named code made, and always says why it ended."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines import record
from pipelines.attempt import perform
from pipelines.attempt_log import AttemptLog, read_log
from pipelines.identity import identify
from pipelines.outcome import Cause, Outcome, Preempted, classify, read_outcome, write_outcome
from pipelines.spec import Spec, make_spec, read_spec, write_spec
from pipelines.stage import BadInput
from tests.pipelines.toys import Workshop, step, workshop


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    return workshop(tmp_path, monkeypatch)


def ordered(shop: Workshop, **config) -> Spec:
    """An attempt at a number that is reserved, as a driver would leave it."""
    node = step("number@a", **config)
    identity = identify(node, 7, {}, {})
    seen = record.reserve(shop.store, node.name, identity.key, cluster="here")
    assert seen is not None
    spec = make_spec(node, identity, generation=seen.record.generation, epoch=seen.record.epoch, run_id="toy-1",
                     recipe="toy", seed=7, artifacts={})
    write_spec(shop.store, spec)
    return spec


def test_a_spec_survives_its_store(shop: Workshop):
    """And the first that was written stays."""
    spec = ordered(shop)
    key = write_spec(shop.store, replace(spec, run_id="another"))
    assert read_spec(shop.store, key) == spec


def test_an_attempt_publishes_and_says_so(shop: Workshop):
    """The record names its manifest; metrics are beside the digest, not in it."""
    spec = ordered(shop)
    assert perform(shop.store, spec, shop.settings).cause is Cause.DONE
    manifest = shop.manifests()["number@a"]
    assert [f.name for f in manifest.files] == ["number.txt"] and manifest.values == {"number": 1}
    assert manifest.producer["metrics"] == {"speed": 1.0}
    assert read_outcome(shop.store, spec.prefix) == Outcome(cause=Cause.DONE)


def test_an_attempt_whose_place_was_taken_does_nothing(shop: Workshop):
    """It does not even call the stage."""
    spec = ordered(shop)
    record.reserve(shop.store, spec.step, spec.key, cluster="here", over=record.read(shop.store, spec.step, spec.key),
                   ground=record.Ground.EXPIRED)
    assert perform(shop.store, spec, shop.settings).cause is Cause.LOST
    assert shop.executed() == [] and read_outcome(shop.store, spec.prefix) is None


def test_an_attempt_that_loses_its_place_publishes_nothing(shop: Workshop):
    """The next epoch is taken while it works."""
    spec = ordered(shop)
    gate = shop.hold("number@a")
    process = subprocess.Popen([sys.executable, "-m", "pipelines.attempt", "--store", shop.store.uri, "--spec",
                                f"{spec.prefix}/spec.json"], env=dict(os.environ), stderr=subprocess.DEVNULL)
    while not shop.executed():
        time.sleep(0.05)
    record.reserve(shop.store, spec.step, spec.key, cluster="here", over=record.read(shop.store, spec.step, spec.key),
                   ground=record.Ground.EXPIRED)
    gate.unlink()
    assert process.wait(30) == 1
    assert shop.manifests() == {}
    outcome = read_outcome(shop.store, spec.prefix)
    assert outcome is not None and outcome.cause is Cause.LOST


def test_other_code_than_the_key_names_is_refused_by_file(shop: Workshop):
    """Before the stage is called."""
    spec = ordered(shop)
    code = {**spec.document["code"], "tests/pipelines/toy_stages.py": "0" * 64}
    outcome = perform(shop.store, replace(spec, document={**spec.document, "code": code}), shop.settings)
    assert outcome.cause is Cause.CODE_CHANGED and "tests/pipelines/toy_stages.py changed" in outcome.message
    assert shop.executed() == []


def test_a_source_that_changed_since_the_plan_is_bad_input(shop: Workshop, tmp_path: Path):
    """It is named."""
    (tmp_path / "table").write_text("4")
    spec = ordered(shop, sources={"table": str(tmp_path / "table")})
    (tmp_path / "table").write_text("5")
    outcome = perform(shop.store, spec, shop.settings)
    assert outcome.cause is Cause.BAD_INPUT and "table changed since the run was planned" in outcome.message


def test_a_log_is_shipped_while_it_grows_and_read_in_order(shop: Workshop):
    """Each segment once; a reader goes on behind the last that it saw."""
    log = AttemptLog(shop.store, "attempts/x", every_s=0.05)
    log.write(b"one\n")
    while not (first := list(read_log(shop.store, "attempts/x"))):
        time.sleep(0.02)
    log.write(b"two\n")
    log.close()
    assert [text for _, text in first] == ["one\n"]
    assert [text for _, text in read_log(shop.store, "attempts/x", after=first[-1][0])] == ["two\n"]


def test_an_outcome_of_newer_code_is_refused(shop: Workshop):
    """With an instruction."""
    write_outcome(shop.store, "attempts/x", Outcome(cause=Cause.DONE))
    shop.store.put("attempts/x/outcome.json", b'{"schema": 99, "cause": "done"}')
    with pytest.raises(BadInput, match="newer code"):
        read_outcome(shop.store, "attempts/x")


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as caught:
        return caught


class WorkerGroupError(Exception):
    """As Ray Train wraps what its workers raise."""

    def __init__(self, failures: dict[int, Exception]) -> None:
        super().__init__("training failed")
        self.worker_failures = failures


@pytest.mark.parametrize(("error", "cause"), [
    (ValueError("a mistake"), Cause.USER_CODE), (BadInput("mend it"), Cause.BAD_INPUT),
    (raised(RuntimeError("task failed"), BadInput("mend it")), Cause.BAD_INPUT),
    (WorkerGroupError({1: MemoryError()}), Cause.OUT_OF_MEMORY),
    (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), Cause.OUT_OF_MEMORY),
    (raised(RuntimeError("x"), ConnectionResetError("peer")), Cause.INFRASTRUCTURE),
    (OSError(28, "No space left on device"), Cause.BAD_INPUT), (raised(KeyError("x"), Preempted()), Cause.PREEMPTED),
], ids=["mistake", "input", "wrapped", "worker", "cuda", "network", "disk", "preempted"])
def test_the_cause_is_found_however_it_is_wrapped(error, cause):
    """By what the chain holds, not by the outermost exception."""
    assert classify(error)[0] is cause
