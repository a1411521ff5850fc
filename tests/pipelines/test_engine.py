"""The reconciler on real processes and a directory store: what runs, what does not, and what survives a kill."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines import record, registry
from pipelines.journal import Journal, fold
from pipelines.work import ExitCode
from tests.pipelines.toys import Workshop, diamond, step, workshop


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    return workshop(tmp_path, monkeypatch)


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


ALL = ["add", "announce", "decide", "number@a", "number@b"]


def test_a_pipeline_runs_once_and_is_then_reused(shop: Workshop, capsys):
    """Every step executes; a second run executes nothing but the effect."""
    assert shop.run(diamond()) is ExitCode.DONE
    assert shop.executed() == ALL
    assert shop.manifests()["add"].values == {"number": 11}
    shop.forget_executions()
    assert shop.run(diamond()) is ExitCode.DONE
    assert shop.executed() == ["announce"]
    assert "REUSE" in capsys.readouterr().out


def test_a_change_runs_again_only_what_it_reaches(shop: Workshop):
    """number@b has the same key in both runs."""
    shop.run(diamond())
    shop.forget_executions()
    shop.run(diamond(value=2))
    assert shop.executed() == ["add", "announce", "decide", "number@a"]


@pytest.mark.slow
def test_equal_output_stops_a_change(shop: Workshop, tmp_path: Path):
    """A source moved elsewhere, with equal bytes, is the same work; other bytes are not."""
    (tmp_path / "t1").write_text("5"), (tmp_path / "t2").write_text("5"), (tmp_path / "t3").write_text("6")

    def with_table(name: str):
        return diamond(number__a=step("number@a", sources={"table": str(tmp_path / name)}))

    shop.run(with_table("t1"))
    shop.forget_executions()
    shop.run(with_table("t2"))
    assert shop.executed() == ["announce"]
    shop.run(with_table("t3"))
    assert "number@a" in shop.executed()


@pytest.mark.slow
def test_a_part_of_another_step_s_artifact_is_a_source(shop: Workshop):
    """``step://`` reads one file of it, through its record."""
    assert shop.run(diamond(number__b=step("number@b", value=1, sources={"table": "step://number@a/number.txt"}))) == 0
    assert shop.manifests()["number@b"].values == {"number": 2}


def test_a_given_output_is_imported_instead_of_made(shop: Workshop, tmp_path: Path):
    """The stage validates it; what it holds is what downstream sees."""
    (tmp_path / "given").write_text("32")
    assert shop.run(diamond(number__a=step("number@a", imported=str(tmp_path / "given")))) is ExitCode.DONE
    assert "number@a" not in shop.executed()
    assert shop.manifests()["add"].values == {"number": 42}


def test_a_failed_branch_does_not_stop_the_others(shop: Workshop, capsys):
    """The mistake is shown with its traceback; what needs it is blocked; the rest is done."""
    shop.fail("number@a", "user")
    assert shop.run(diamond()) is ExitCode.FAILED
    assert set(shop.manifests()) == {"number@b"}
    out = capsys.readouterr().out
    assert "ValueError: the stage has a mistake" in out and "needs number@a, which failed" in out
    assert shop.executed().count("number@a") == 1


def test_bad_input_is_one_message_and_exit_2(shop: Workshop, capsys):
    """No traceback, no retry."""
    shop.fail("number@a", "bad")
    assert shop.run(diamond()) is ExitCode.BAD_INPUT
    out = capsys.readouterr().out
    assert "row 7 of the table is malformed: mend it" in out and "Traceback" not in out


@pytest.mark.slow
@pytest.mark.parametrize(("words", "executions", "code"), [
    (["network"], 2, ExitCode.DONE), (["kill"], 2, ExitCode.DONE), (["network"] * 3, 3, ExitCode.FAILED),
    (["memory"], 1, ExitCode.FAILED)], ids=["network", "killed", "budget", "memory"])
def test_retries_by_cause(shop: Workshop, monkeypatch, words, executions, code):
    """Infrastructure is tried again within the budget; out of memory is not."""
    monkeypatch.setattr("pipelines.attend.BACK_OFF_S", 0.0)
    shop.fail("number@a", *words)
    assert shop.run(diamond().until(["number@a"])) is code
    assert shop.executed() == ["number@a"] * executions


def test_a_damaged_artifact_is_made_again(shop: Workshop):
    """A missing file is found by looking, made again in a new generation, and comes out the same."""
    shop.run(diamond())
    before = shop.digests()
    manifest = shop.manifests()["add"]
    shop.store.delete(manifest.at(manifest.files[0]))
    shop.forget_executions()
    assert "damaged: number.txt is missing" in shop.plan(diamond()).decision("add").reasons
    assert shop.run(diamond()) is ExitCode.DONE
    assert shop.executed() == ["add", "announce"]
    assert shop.digests() == before and shop.manifests()["add"].generation == 2


@pytest.mark.slow
def test_bytes_that_were_altered_behind_a_whole_look_are_found_by_their_reader(shop: Workshop):
    """The consumer refuses them, the producer is marked and makes them again, and the run is done."""
    shop.run(diamond().until(["number@a", "number@b"]))
    before = shop.digests()
    manifest = shop.manifests()["number@a"]
    path = shop.folder / "store" / manifest.at(manifest.files[0])
    path.write_bytes(b"7\n")
    shop.forget_executions()
    assert shop.run(diamond()) is ExitCode.DONE
    assert shop.manifests()["add"].values == {"number": 11}
    assert {n: d for n, d in shop.digests().items() if n in before} == before


def test_a_rejected_gate_is_a_result(shop: Workshop, capsys):
    """Exit 10; the effect never happens, also not when the decision is reused."""
    for _ in range(2):
        assert shop.run(diamond(minimum=100)) is ExitCode.REJECTED
    assert "announce" not in shop.executed()
    assert "gate rejected: the number counts" in capsys.readouterr().out


@pytest.mark.slow
def test_a_held_model_is_left_alone(shop: Workshop):
    """What a person rolled back stays until a person promotes."""
    for number in (1, 2):
        registry.register(shop.store, "toy", step="add", key=str(number), digest=str(number), scores={}, why="test")
        registry.accept(shop.store, "toy", number, against={"version": 1} if number == 2 else None, why="test")
    registry.rollback(shop.store, "toy", why="it was rude")
    assert "it was rude" in shop.plan(diamond()).decision("announce").reasons[0]
    shop.run(diamond())
    assert "announce" not in shop.executed()


def test_killing_the_driver_leaves_the_step_running_and_the_next_driver_attaches(shop: Workshop, capsys):
    """The same process that the first driver started is watched by the second: it executes once."""
    gate = shop.hold("add")
    driver = shop.start()
    until(lambda: "add" in shop.executed())
    driver.kill()
    driver.wait()
    pid = int(next(line for line in shop.effects() if line.startswith("add")).split()[2])
    os.kill(pid, 0)
    second = shop.start()
    until(lambda: any(e.kind == "attached" for e in Journal(shop.store, shop.last_run()).read()))
    gate.unlink()
    assert second.wait(30) == 0
    assert b"attached to attempt 1" in second.stdout.read()
    assert shop.executed() == ALL


@pytest.mark.slow
@pytest.mark.parametrize("name", ["number@a", "decide"], ids=["job", "driver"])
@pytest.mark.parametrize("point", ["reserve.after", "claim.after", "publish.before_commit", "publish.after_commit"])
def test_a_kill_at_any_point_and_a_rerun_give_the_same(shop: Workshop, tmp_path_factory, monkeypatch, point, name):
    """Digests equal those of an undisturbed run; the store is the only memory."""
    control = workshop(tmp_path_factory.mktemp("control"), monkeypatch)
    control.run(diamond())
    workshop(shop.folder, monkeypatch)
    if name == "decide":
        assert shop.run(diamond().until(["add"])) is ExitCode.DONE
    with monkeypatch.context() as faulty:
        faulty.setenv("PIPELINE_FAULT", f"{point}:kill")
        driver = shop.start(retries=0)
    driver.wait(30)
    assert shop.run(diamond()) is ExitCode.DONE
    assert shop.digests() == control.digests()


@pytest.mark.slow
def test_two_drivers_do_the_work_once(shop: Workshop):
    """Both end well, and no step but the effect executes twice."""
    drivers = [shop.start(), shop.start()]
    assert [d.wait(60) for d in drivers] == [0, 0]
    assert sorted(set(shop.executed())) == ALL
    assert [n for n in shop.executed() if n != "announce"] == [n for n in ALL if n != "announce"]


@pytest.mark.slow
def test_a_driver_that_is_told_to_leave_says_what_goes_on(shop: Workshop):
    """SIGTERM: exit 30, and the step's process lives."""
    gate = shop.hold("add")
    driver = shop.start()
    until(lambda: "add" in shop.executed())
    driver.send_signal(signal.SIGTERM)
    assert driver.wait(30) == ExitCode.CANCELLED
    assert b"add goes on running" in driver.stdout.read()
    gate.unlink()
    until(lambda: "add" in shop.manifests())


@pytest.mark.slow
def test_no_wait_names_who_holds_the_step(shop: Workshop, capsys):
    """Exit 20, at once."""
    gate = shop.hold("add")
    driver = shop.start()
    until(lambda: "add" in shop.executed())
    assert shop.run(diamond(), no_wait=True) is ExitCode.HELD
    assert "held by add-" in capsys.readouterr().out
    gate.unlink()
    assert driver.wait(30) == 0


def test_a_step_larger_than_the_cluster_is_blocked_by_name(shop: Workshop, capsys):
    """It names the resource, what there is, and the fix; the other branch is done."""
    big = step("number@a", run={"num_workers": 9})
    assert shop.run(diamond(number__a=big)) is ExitCode.FAILED
    assert "needs 9 CPU (3 of it) in the whole cluster" in capsys.readouterr().out
    assert set(shop.manifests()) == {"number@b"}


@pytest.mark.slow
def test_a_step_waits_for_who_holds_its_resources(shop: Workshop, capsys):
    """Two steps of two CPUs on three: one after the other, and the second says for whom it waits."""
    wide = {"run": {"num_workers": 2}}
    assert shop.run(diamond(number__a=step("number@a", **wide), number__b=step("number@b", **wide))) is ExitCode.DONE
    assert "waits for 2 CPU (1 of it), held by number@a-" in capsys.readouterr().out


@pytest.mark.slow
def test_only_runs_nothing_else(shop: Workshop):
    """What is not there and not named is blocked."""
    assert shop.run(diamond(), only=["number@a"]) is ExitCode.FAILED
    assert shop.executed() == ["number@a"]
    shop.run(diamond(), only=["number@b"])
    shop.forget_executions()
    shop.run(diamond(), only=["add"])
    assert shop.executed() == ["add"]


@pytest.mark.slow
def test_a_stuck_attempt_is_ended_by_its_time_out(shop: Workshop, monkeypatch):
    """It says so, within the budget it is tried again."""
    monkeypatch.setattr("pipelines.attend.BACK_OFF_S", 0.0)
    gate = shop.hold("number@a")
    pipeline = diamond(number__a=step("number@a", run={"timeout_s": 0.5, "retries": 0})).until(["number@a"])
    assert shop.run(pipeline) is ExitCode.FAILED
    gate.unlink()
    state = fold(Journal(shop.store, shop.last_run()).read())
    assert state.steps["number@a"].cause == "timed_out"
    assert shop.run(pipeline) is ExitCode.DONE


@pytest.mark.slow
def test_another_cluster_s_attempt_is_taken_over_only_after_it_expires(shop: Workshop, monkeypatch):
    """Nobody here can ask about its job, so only the silence of its heartbeat counts."""
    from pipelines.identity import identify

    pipeline = diamond().until(["number@a"])
    key = identify(pipeline.step("number@a"), 7, {}, {}).key
    record.reserve(shop.store, "number@a", key, cluster="another")
    began = time.monotonic()
    assert shop.run(pipeline) is ExitCode.DONE
    assert time.monotonic() - began > 6.0
    assert shop.manifests()["number@a"].epoch == 2
