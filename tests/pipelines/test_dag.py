"""A pipeline is valid by construction."""

import pytest

from pipelines.dag import Pipeline, Step, step_of
from pipelines.stage import BadInput, Result, Stage, StepConfig


class Config(StepConfig):
    size: int = 1


STAGE = Stage(name="toy", config=Config, run=lambda _ctx: Result())


def step(name: str, *needs: str, **extra) -> Step:
    return Step(name=name, stage=STAGE, config=Config(), inputs={n: n for n in needs}, **extra)


def pipeline(*steps: Step) -> Pipeline:
    return Pipeline(recipe="toy", model="toy", seed=0, steps=steps)


def test_steps_come_in_an_order_in_which_they_can_run():
    """What a step needs stands before it, whatever order they were given in."""
    names = [s.name for s in pipeline(step("c", "a", "b"), step("b", "a"), step("a")).steps]
    assert names == ["a", "b", "c"]


def test_an_input_that_no_step_provides_is_refused():
    """The error names the step, what it needs and what there is."""
    with pytest.raises(BadInput, match=r"b needs the step 'x'.*it has b"):
        pipeline(step("b", "x"))


def test_a_cycle_is_refused():
    """The error shows the cycle."""
    with pytest.raises(BadInput, match="form a cycle"):
        pipeline(step("a", "b"), step("b", "a"))


def test_a_source_that_names_a_step_is_a_dependency():
    """``step://`` wires a file of another step's artifact."""
    assert step("b", sources={"data": "step://a/x.json"}).depends_on == ("a",)
    assert step_of("step://a/x/y.json") == ("a", "x/y.json")
    assert step_of("s3://a/x") is None


def test_an_imported_step_needs_nothing_of_its_own_inputs():
    """A given output replaces the work, so upstream is not waited for."""
    assert step("b", "a", imported="file.bin").depends_on == ()


def test_until_keeps_only_what_the_named_steps_need():
    """By a step's name, or by its stage's name."""
    whole = pipeline(step("a"), step("b", "a"), step("c", "b"), step("d"))
    assert [s.name for s in whole.until(["b"]).steps] == ["a", "b"]


def test_order_without_reading_is_a_dependency():
    """``after`` orders two steps although nothing is read."""
    assert [s.name for s in pipeline(step("b", after=("a",)), step("a")).steps] == ["a", "b"]
