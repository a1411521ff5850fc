"""A recipe is complete, typed and explained."""

from pathlib import Path

import pytest

from pipelines.recipe import names, resolve
from pipelines.stage import BadInput

BASE = """\
name: base
model: toy
abstract: true
select_captions:
  min_frequency: 3
  cap: 100
"""


def write(folder: Path, body: str = "name: child\nextends: base\n", base: str = BASE) -> str:
    (folder / "base.yaml").write_text(base)
    (folder / "child.yaml").write_text(body)
    return str(folder / "child.yaml")


def test_a_recipe_lists_only_what_differs_from_its_parent(tmp_path: Path):
    """The rest comes from the parent, and each value knows its file and line."""
    recipe = resolve(write(tmp_path, "name: child\nextends: base\nselect_captions:\n  cap: 50\n"))
    config = recipe.config("select_captions")
    assert (config.cap, config.min_frequency) == (50, 3)
    assert recipe.origins["select_captions.cap"] == "child.yaml:4"
    assert recipe.origins["select_captions.min_frequency"] == "base.yaml:5"


def test_an_override_wins_and_says_so(tmp_path: Path):
    """``--set`` is laid over the file."""
    recipe = resolve(write(tmp_path), ["select_captions.cap=7", "select_captions.run.num_workers=3"])
    config = recipe.config("select_captions")
    assert (config.cap, config.run.num_workers) == (7, 3)
    assert recipe.origins["select_captions.cap"] == "--set"


def test_a_number_in_scientific_notation_is_a_number(tmp_path: Path):
    """YAML 1.1 alone reads 1e-5 as text."""
    recipe = resolve(write(tmp_path), ["gate@chat.rules={probe.overall: 0.8}", "gate@chat.tolerance=1e-5"])
    assert recipe.config("gate", "gate@chat").tolerance == 1e-5


@pytest.mark.parametrize(("line", "found"), [
    ("selct_captions: {cap: 1}", r"child\.yaml:3: unknown key 'selct_captions' \(did you mean 'select_captions'\?\)"),
    ("select_captions: {min_frequncy: 1}", r"min_frequncy'.*did you mean 'min_frequency'"),
    ("select_captions: {run: {num_worker: 1}}", r"select_captions\.run\.num_worker'.*did you mean 'num_workers'"),
    ("select_captions: 5", r"select_captions must be a mapping"),
    ("select_captions: {cap: many}", r"child\.yaml:3: select_captions\.cap: .*'many'"),
    ("select_captions: {cap: 0}", r"select_captions\.cap"),
])
def test_a_mistake_is_named_with_its_place(tmp_path: Path, line: str, found: str):
    """File, line, key, what was found, and the nearest known key."""
    with pytest.raises(BadInput, match=found):
        resolve(write(tmp_path, f"name: child\nextends: base\n{line}\n"))


def test_an_unknown_recipe_names_the_nearest():
    """A typo in ``--recipe`` is answered with the name that was meant."""
    with pytest.raises(BadInput, match="did you mean 'smoke'"):
        resolve("smok")


def test_recipes_that_extend_each_other_are_refused(tmp_path: Path):
    """The error shows the circle."""
    with pytest.raises(BadInput, match="circle"):
        resolve(write(tmp_path, base="name: base\nextends: child\nmodel: toy\n"))


def test_broken_yaml_names_the_file(tmp_path: Path):
    """A syntax error is bad input, not a traceback."""
    with pytest.raises(BadInput, match=r"child\.yaml: not valid YAML"):
        resolve(write(tmp_path, "name: [\n"))


def test_an_abstract_recipe_cannot_be_run(tmp_path: Path):
    """A parent is only a parent; the error names what can be run."""
    write(tmp_path)
    with pytest.raises(BadInput, match="only a parent"):
        resolve(str(tmp_path / "base.yaml"))


def test_an_instance_overlays_its_stage(tmp_path: Path):
    """``gate@chat`` starts from ``gate``."""
    recipe = resolve(write(tmp_path, "name: child\nextends: base\ngate: {tolerance: 0.5, rules: {a: 1}}\n"
                                     "gate@chat: {rules: {b: 2}}\n"))
    assert recipe.config("gate", "gate@chat").rules == {"a": 1, "b": 2}
    assert recipe.config("gate", "gate@scienceqa").rules == {"a": 1}


@pytest.mark.parametrize("name", names())
def test_every_shipped_recipe_resolves_and_wires(name: str):
    """All keys are known, all inputs are wired."""
    from pipelines.pipeline import build

    pipeline = build(resolve(name))
    assert {"prepare_models", "tune_chat", "tune_scienceqa", "rollout@chat"} <= {s.name for s in pipeline.steps}
