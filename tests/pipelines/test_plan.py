"""A plan names what a run will do, and says why in words that a person can act on."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import record, registry
from pipelines.journal import Journal, fold
from pipelines.pipeline import build
from pipelines.plan import Action
from pipelines.recipe import resolve
from pipelines.stage import BadInput
from tests.pipelines.toys import Workshop, diamond, step, workshop


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    return workshop(tmp_path, monkeypatch)


def actions(plan) -> dict[str, str]:
    return {d.step: d.action.value for d in plan.decisions}


def test_a_first_plan_runs_everything_and_says_that_it_never_ran(shop: Workshop):
    """What waits for others names them."""
    plan = shop.plan(diamond())
    assert set(actions(plan).values()) == {"RUN"}
    assert plan.decision("number@a").reasons == ("never run before",)
    assert plan.decision("add").reasons == ("number@a will run", "number@b will run")
    assert plan.decision("add").key is None


def test_a_change_is_named_by_its_value(shop: Workshop):
    """Nothing is run or written to know it."""
    shop.run(diamond())
    objects = [i.key for i in shop.store.list()]
    plan = shop.plan(diamond(value=2))
    assert actions(plan) == {"number@a": "RUN", "number@b": "REUSE", "add": "RUN", "decide": "RUN", "announce": "RUN"}
    assert plan.decision("number@a").reasons == ("number@a.value 1 -> 2",)
    assert [i.key for i in shop.store.list()] == objects


@pytest.mark.slow
@pytest.mark.parametrize("prior", ["nothing", "changed", "damaged", "rejected", "imported"])
def test_a_run_does_what_its_plan_says(shop: Workshop, tmp_path: Path, prior: str):
    """Each step that is planned to work executes, and no other."""
    pipeline = diamond()
    (tmp_path / "given").write_text("3")
    if prior != "nothing":
        shop.run(diamond())
    if prior == "changed":
        pipeline = diamond(value=5)
    if prior == "damaged":
        manifest = shop.manifests()["number@b"]
        shop.store.delete(manifest.at(manifest.files[0]))
    if prior == "rejected":
        pipeline = diamond(minimum=99)
    if prior == "imported":
        pipeline = diamond(number__a=step("number@a", imported=str(tmp_path / "given")))
    plan = shop.plan(pipeline)
    shop.run(pipeline)
    said = {d.step: d.action.value for d in plan.decisions}
    state = fold(Journal(shop.store, shop.last_run()).read())
    assert {n: s.action for n, s in state.steps.items()} == said
    worked = {n for n, s in state.steps.items() if s.state == "done"}
    expected = {d.step for d in plan.decisions if d.works}
    if prior == "rejected":  # the decision is still to be made when the run is planned
        expected -= {"announce"}
    assert worked == expected
    if prior == "damaged":
        assert expected == {"number@b", "announce"}
        assert plan.decision("add").reasons[0] == "number@b comes out as it was"


def test_run_settings_are_not_in_the_key_but_are_told(shop: Workshop):
    """More workers give the same result up to its last bits: reused, and said."""
    shop.run(diamond())
    plan = shop.plan(diamond(number__a=step("number@a", run={"num_workers": 2})))
    assert plan.decision("number@a").action is Action.REUSE
    assert "made with num_workers = 1, not 2" in plan.decision("number@a").reasons


def test_an_attempt_that_has_begun_is_resumed(shop: Workshop):
    """It is named with its job."""
    key = shop.plan(diamond()).decision("number@a").key
    record.reserve(shop.store, "number@a", key, cluster="somewhere")
    decision = shop.plan(diamond()).decision("number@a")
    assert (decision.action, decision.works) == (Action.RESUME, True)
    assert decision.reasons == (f"attempt 1 is reserved as number@a-{key[:12]}-e1",)


def test_a_champion_is_part_of_the_decision_s_key_until_the_candidate_is_it(shop: Workshop):
    """A new champion makes the gate decide again; the candidate as champion finds the decision that made it so."""
    pipeline = diamond(decide=step("decide", inputs={"evaluation": "add", "model": "number@a"}))
    shop.run(pipeline)
    first, made = shop.plan(pipeline).decision("decide"), shop.manifests()["number@a"]
    assert first.action is Action.REUSE
    registry.register(shop.store, "toy", step="x", key="k", digest="another", scores={"number": 3}, why="test")
    registry.accept(shop.store, "toy", 1, against=None, why="test")
    again = shop.plan(pipeline).decision("decide")
    assert again.action is Action.RUN
    assert again.reasons[0].startswith("decide.champion")
    registry.register(shop.store, "toy", step="number@a", key=made.key, digest=made.digest, scores={}, why="test")
    registry.accept(shop.store, "toy", 2, against={"version": 1}, why="test")
    assert shop.plan(pipeline).decision("decide").key == first.key


def test_a_source_that_is_missing_stops_the_plan(shop: Workshop, tmp_path: Path):
    """By name."""
    with pytest.raises(BadInput, match=r"gone\.txt does not exist"):
        shop.plan(diamond(number__a=step("number@a", sources={"table": str(tmp_path / "gone.txt")})))


def test_only_blocks_what_is_neither_named_nor_there(shop: Workshop):
    """A name that is no step is refused."""
    assert actions(shop.plan(diamond(), only=["add"]))["number@a"] == "BLOCKED"
    with pytest.raises(BadInput, match="no step 'ad'"):
        shop.plan(diamond(), only=["ad"])


def test_what_the_last_step_needs_is_asked_for_before_the_first_runs(shop: Workshop):
    """Every source that is not given is named at once, with the option that gives it."""
    pipeline = build(resolve("llava-v1-7b"))
    with pytest.raises(BadInput, match=r"select_captions\.source.*evaluate@chat\.bench or evaluate@chat\.probe.*--set"):
        shop.plan(pipeline)
