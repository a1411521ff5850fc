"""Keyed: a step's key changes exactly when its result could. Shown on the shipped stages, in a copy of the code."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest

from pipelines.code_digest import BOUNDARY, ROOT, code_digest
from pipelines.stage import load_stage

STAGES = sorted(p.stem for p in (ROOT / "pipelines/stages").glob("[a-z]*.py"))


@pytest.fixture
def copy(tmp_path):
    """llava/ and pipelines/, to be changed."""
    for package in ("llava", "pipelines"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def digests(root: Path) -> dict[str, str]:
    return {s: code_digest(root / f"pipelines/stages/{s}.py", load_stage(s).package_data, root).digest for s in STAGES}


def test_a_copy_elsewhere_has_the_same_keys(copy):
    """Nothing of the place where the code lies, or of the time it was written, is in a key."""
    assert digests(copy) == digests(ROOT)


def test_comments_in_every_file_change_no_key(copy):
    before = digests(copy)
    for file in copy.rglob("*.py"):
        file.write_text(f"# a remark\n\n{file.read_text()}\n# the end\n" if "__future__" in file.read_text()
                        else f"{file.read_text()}\n\n# the end\n")
    assert digests(copy) == before


def test_a_change_of_what_only_carries_steps_changes_no_key(copy):
    before = digests(copy)
    for name in BOUNDARY:
        place = copy / "pipelines" / name
        files = [place.with_suffix(".py")] if place.with_suffix(".py").is_file() else list(place.rglob("*.py"))
        assert files or place.is_dir(), f"BOUNDARY names {name}, which does not exist"
        for file in files:
            file.write_text(f"{file.read_text()}\nCHANGED = True\n")
    assert digests(copy) == before


@pytest.mark.parametrize("changed", ["llava/captions/selection.py", "llava/conversations.py", "llava/__init__.py"])
def test_a_change_of_the_science_changes_exactly_the_keys_of_its_users(copy, changed):
    users = {s for s in STAGES if changed in code_digest(copy / f"pipelines/stages/{s}.py", (), copy).nodes}
    before = digests(copy)
    (copy / changed).write_text(f"{(copy / changed).read_text()}\nCHANGED = True\n")
    after = digests(copy)
    assert users and {s for s in STAGES if before[s] != after[s]} == users


def test_selection_does_not_depend_on_training_and_training_does_not_on_selection():
    nodes = {s: code_digest(ROOT / f"pipelines/stages/{s}.py").nodes for s in STAGES}
    assert "llava/captions/selection.py" in nodes["select_captions"]
    assert "llava/model.py" not in nodes["select_captions"]
    assert "llava/captions/selection.py" not in nodes["convert_scienceqa"]


@pytest.mark.parametrize("stage", STAGES)
def test_data_files_that_the_code_names_are_in_the_key(stage):
    """A followed module that names a file lying in its own folder reads it: the stage must declare it."""
    nodes = code_digest(ROOT / f"pipelines/stages/{stage}.py", load_stage(stage).package_data).nodes
    undeclared = set()
    for module in (n for n in nodes if n.endswith(".py") and n.startswith("llava/")):
        file = ROOT / module
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and "." in node.value[1:-1]:
                named = file.parent / node.value
                if len(node.value) < 80 and named.is_file() and named.suffix != ".py":
                    undeclared |= {named.relative_to(ROOT).as_posix()} - set(nodes)
    assert not undeclared
