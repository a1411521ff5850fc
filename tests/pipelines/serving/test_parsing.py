"""From a request's body to a Completion: what is refused, what is ignored, and what comes out."""

from __future__ import annotations

import json

import pytest

from pipelines.serving.errors import ApiError
from pipelines.serving.parsing import Limits, Sampling, parse
from tests import tiny
from tests.pipelines.serving import bodies
from tests.pipelines.serving.bodies import MODEL, PICTURE, body, image_part, raw


def parsed(**fields):
    return parse(raw(body(**fields)), MODEL, Limits())


@pytest.mark.parametrize("name", sorted(bodies.REFUSED.keys() - bodies.ONLY_SERVED))
def test_refused(name):
    """Each mistake has its own status, code and field, and the answer never repeats what was sent."""
    sent, status, code, param = bodies.REFUSED[name]
    with pytest.raises(ApiError) as caught:
        parse(raw(sent), MODEL, Limits())
    error = caught.value
    assert (error.status, error.code, error.param) == (status, code, param)
    assert len(json.dumps(error.body())) < 500


def test_message_with_picture():
    """Text is kept exactly, a picture's bytes too, and a typed <image> is neither counted nor removed."""
    asked = parsed(content=[{"type": "text", "text": "Is <image> a word? "}, image_part(PICTURE)])
    [message] = asked.messages
    assert (message.role, message.text, message.images) == ("human", "Is <image> a word? ", (tiny.picture(),))


def test_conversation():
    """System and developer messages open the conversation; two in a row of one side are one turn."""
    asked = parsed(messages=[
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "One."},
        {"role": "user", "content": [image_part(PICTURE), {"type": "text", "text": "Two."}]},
        {"role": "assistant", "content": ""}, {"role": "user", "content": "Three."}])
    assert [(m.role, m.text, len(m.images)) for m in asked.messages] == [
        ("system", "Be brief.", 0), ("human", "One.\nTwo.", 1), ("gpt", "", 0), ("human", "Three.", 0)]


def test_defaults_are_greedy():
    """Without a temperature the same question gives the same answer."""
    asked = parsed(max_tokens=None)
    assert asked.sampling == Sampling(max_tokens=256, temperature=0.0, top_p=1.0, seed=None, stop=())
    assert not asked.stream and not asked.include_usage


def test_sampling_is_read():
    """Every field of sampling arrives, the modern name of max_tokens included."""
    asked = parsed(max_tokens=None, max_completion_tokens=9, temperature=0.5, top_p=0.9, seed=-3, stop=["a", "b"],
                   stream=True, stream_options={"include_usage": True})
    assert asked.sampling == Sampling(max_tokens=9, temperature=0.5, top_p=0.9, seed=-3, stop=("a", "b"))
    assert asked.stream and asked.include_usage


def test_harmless_and_unknown_fields():
    """Nulls, values that ask for nothing and fields of the future are no error."""
    assert parsed(n=1, tools=[], logprobs=False, presence_penalty=0.0, response_format={"type": "text"}, stop=None,
                  seed=None, user="me", a_field_of_the_future={"x": 1}, temperature=None) == parsed()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_formats(kind):
    """The four formats are read, by their bytes: what the URI claims does not matter."""
    sent = bodies.encoded(kind)
    [message] = parsed(content=[image_part(bodies.data_uri(sent, "png"))]).messages
    assert message.images == (sent,)
