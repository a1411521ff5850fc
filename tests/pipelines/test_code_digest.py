"""Code digests: what can change behaviour counts, nothing else does."""

from __future__ import annotations

import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import code_digest as module
from pipelines.keys import code_digest
from pipelines.stage import BadInput


@pytest.fixture
def project(tmp_path):
    """A small project: write(path, text) and digest() of its stage."""
    class Project:
        entry = tmp_path / "pipelines/stages/work.py"

        def write(self, path: str, text: str) -> None:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(textwrap.dedent(text))

        def digest(self, *data: str):
            return code_digest(self.entry, data, root=tmp_path)

    project = Project()
    for name in ("pipelines/__init__.py", "pipelines/stages/__init__.py", "llava/__init__.py"):
        project.write(name, "")
    project.write("pipelines/stages/work.py", "from llava import science\nfrom pipelines.stage import Stage\n")
    project.write("llava/science.py", "X = 1\n")
    project.write("pipelines/stage.py", "class Stage: ...\n")
    return project


def test_it_follows_imports_to_their_files(project):
    assert set(project.digest().nodes) == {
        "pipelines/__init__.py", "pipelines/stages/__init__.py", "pipelines/stages/work.py", "llava/__init__.py",
        "llava/science.py"}


def test_two_digests_name_the_file_that_differs(project):
    before = project.digest()
    project.write("llava/science.py", "X = 2\n")
    after = project.digest()
    assert before.digest != after.digest
    assert [n for n in after.nodes if before.nodes[n] != after.nodes[n]] == ["llava/science.py"]


def test_modules_that_only_carry_a_step_do_not_count(project):
    before = project.digest()
    project.write("pipelines/stage.py", "class Stage: changed = True\n")
    assert project.digest() == before


@pytest.mark.parametrize("statement", [
    "import llava.part.more", "from llava.part import more", "from llava.part.more import f as g",
    "def f():\n    from llava.part import more", "try:\n    import llava.part.more\nexcept ImportError:\n    pass",
    "if X:\n    import llava.part.more", "import importlib\nm = importlib.import_module('llava.part.more')",
    "from importlib import import_module\nm = import_module('.part.more', 'llava')", "from .part import more",
    "from . import part\nfrom .part.more import *", "m = __import__('llava.part.more')",
])
def test_every_way_to_import_is_followed(project, statement):
    project.write("llava/science.py", statement)
    project.write("llava/part/__init__.py", "")
    project.write("llava/part/more.py", "Y = 1")
    before = project.digest()
    assert {"llava/part/__init__.py", "llava/part/more.py"} <= set(before.nodes)
    project.write("llava/part/more.py", "Y = 2")
    assert project.digest().digest != before.digest


@pytest.mark.parametrize("same", [
    '"""A module."""\nX = 1\n', "X=1", "X = (  # why\n    1)\n", "\n\nX = 1  # one\n",
    "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from llava.part import Y\nX = 1\n",
])
def test_what_cannot_change_behaviour_does_not_count(project, same):
    if "TYPE_CHECKING" in same:
        project.write("llava/science.py", "from typing import TYPE_CHECKING\nX = 1\n")
    before = project.digest()
    project.write("llava/science.py", same)
    assert project.digest() == before


@pytest.mark.parametrize("other", ["X = 1.0", "X = True", "X = '1'", "X = -1", "X = 1; Y = 2", "Z = 1", "X: int = 1",
                                   "def X(): return 1", "X = 0x2"])
def test_what_can_change_behaviour_counts(project, other):
    before = project.digest()
    project.write("llava/science.py", other)
    assert project.digest().digest != before.digest


def test_docstrings_count_where_they_are_read(project):
    project.write("llava/science.py", '"""Prompt."""\nX = __doc__\n')
    before = project.digest()
    project.write("llava/science.py", '"""Another prompt."""\nX = __doc__\n')
    assert project.digest().digest != before.digest


def test_a_computed_first_party_import_is_an_error_with_its_place(project):
    computed = "import importlib\n\ndef f(n):\n    return importlib.import_module(f'{}.{n}')\n"
    project.write("llava/science.py", computed.replace("{}", "llava"))
    with pytest.raises(BadInput, match=r"llava/science\.py:4: import_module of a computed name"):
        project.digest()
    project.write("llava/science.py", computed.replace("{}", "torch"))
    project.digest()


def test_package_data_counts_by_its_bytes(project):
    project.write("llava/prompts/a.txt", "be kind")
    before = project.digest("llava/prompts/*.txt")
    assert "llava/prompts/a.txt" in before.nodes
    project.write("llava/prompts/a.txt", "be brief")
    assert project.digest("llava/prompts/*.txt").digest != before.digest
    with pytest.raises(BadInput, match="matches no file"):
        project.digest("llava/prompt/*.txt")


NAMES = st.sampled_from(["alpha", "beta", "gamma"])
VALUES = st.one_of(st.integers(-5, 5), st.floats(-2, 2), st.text("ab'\"\\é", max_size=4), st.booleans())
STATEMENTS = st.lists(st.tuples(NAMES, VALUES), min_size=1, max_size=6)
NOISE = st.lists(st.sampled_from(["", "# a remark", "   # another", "\n"]), min_size=7, max_size=7)


def _digest(text: str) -> str:
    return module._digest_and_imports(text.encode(), "llava", "llava/x.py")[0]


@given(STATEMENTS, NOISE, st.integers(0, 5), VALUES)
def test_property_comments_and_layout_never_count_and_constants_always_do(statements, noise, at, value):
    plain = "\n".join(f"{n} = {v!r}" for n, v in statements)
    noisy = noise[0] + "\n" + "".join(
        f"{n}   =  (\n  {v!r}\n)\n{extra}\n" for (n, v), extra in zip(statements, noise[1:], strict=False))
    assert _digest(plain) == _digest(noisy)
    at %= len(statements)
    changed = [*statements[:at], (statements[at][0], value), *statements[at + 1:]]
    same = repr(value) == repr(statements[at][1])
    assert (_digest("\n".join(f"{n} = {v!r}" for n, v in changed)) == _digest(plain)) == same


def test_golden_digest():
    """The encoding is our own: another Python must give this very digest, or every step would run again."""
    text = ('def f(a, *b, c=1.5, **d) -> "int":\n    x = [i async for i in a if f"{i!r:>4}"]\n'
            '    return {**d, "é": b"\\0"}\n')
    assert _digest(text) == GOLDEN


GOLDEN = "a263001f4e254889f14a9952e618cfa431f0bc7715270b23e58f296a8efd8682"
