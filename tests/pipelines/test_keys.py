"""Step keys: one spelling of what a step is, and sentences for why two differ."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.keys import canonical, diff_documents, step_key

DOCUMENT = {
    "stage": "pretrain_projector", "seed": 0, "imported": False,
    "code": {"llava/captions/select.py": "1", "pipelines/stages/pretrain_projector.py": "2"},
    "config": {"learning_rate": 0.002, "mix": {"a": 1}, "list": [1, 2]},
    "inputs": {"captions": "d1"}, "sources": {"world": "s1"}, "libraries": {"spacy": "3.8.18"},
}
JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
                    | st.text(), lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(), x, max_size=3))


def test_canonical_has_one_spelling():
    assert canonical({"b": (1, 2.0), "a": "é"}) == '{"a":"é","b":[1,2.0]}'.encode()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1: 2}, {"x": {1, 2}}, object()])
def test_what_has_no_spelling_is_refused(value):
    with pytest.raises(ValueError, match="value"):
        canonical(value)


@given(JSON)
def test_property_a_value_survives_its_spelling(value):
    assert json.loads(canonical(value).decode("utf-8", "surrogatepass")) == value


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_property_the_order_of_keys_does_not_count(document):
    assert step_key(document) == step_key(dict(reversed(document.items())))


@pytest.mark.parametrize(("path", "value", "sentence"), [
    (("config", "learning_rate"), 0.001, "pretrain_projector.learning_rate 0.002 -> 0.001"),
    (("config", "mix", "a"), 2, "pretrain_projector.mix.a 1 -> 2"),
    (("config", "list"), [1], "pretrain_projector.list [1, 2] -> [1]"),
    (("config", "new"), "x", 'pretrain_projector.new (not set) -> "x"'),
    (("code", "llava/captions/select.py"), "9", "llava/captions/select.py changed"),
    (("code", "llava/new.py"), "9", "llava/new.py is imported now"),
    (("inputs", "captions"), "d2", "input captions is other content"),
    (("sources", "world"), "s2", "source world is other content"),
    (("libraries", "spacy"), "3.9.0", "library spacy 3.8.18 -> 3.9.0"),
    (("seed",), 1, "seed 0 -> 1"),
])
def test_each_difference_is_another_key_and_one_sentence(path, value, sentence):
    other = copy.deepcopy(DOCUMENT)
    node = other
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    assert step_key(other) != step_key(DOCUMENT)
    assert diff_documents(DOCUMENT, other, "pretrain_projector") == [sentence]


def test_equal_documents_have_nothing_to_say():
    assert diff_documents(DOCUMENT, copy.deepcopy(DOCUMENT)) == []
