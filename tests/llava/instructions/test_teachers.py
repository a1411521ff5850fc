"""Teachers answer messages; what fails is named, and the demo's teacher says what it is."""

import json

import pytest

from llava.instructions.parse import Kind, Parsed, parse
from llava.instructions.prompts import messages_for
from llava.instructions.teachers import (
    GRAMMAR,
    GrammarTeacher,
    OpenAITeacher,
    TeacherMisconfigured,
    TeacherReply,
    TeacherUnavailable,
    request_digest,
)
from tests.llava.instructions.endpoint import completion, endpoint

ASK = {"temperature": 0.2, "seed": 5, "max_tokens": 64}
MESSAGES = [{"role": "user", "content": "A dog."}]
CONTEXT = ("A dog at the top left and a tree at the bottom right.\n" * 5).strip() + (
    "\n\ndog: [0.1, 0.1, 0.3, 0.3]\ntree: [0.6, 0.6, 0.9, 0.9]")


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("TEACHER_KEY", "secret-123")


def teacher(url, retries=2):
    return OpenAITeacher(base_url=url, model="m", api_key_env="TEACHER_KEY", timeout_s=5, retries=retries)


def test_the_request_and_the_reply_of_an_endpoint(key):
    """Model, messages, seed, temperature and length are sent with the key; the reply says who answered."""
    with endpoint(lambda _body, _n: (200, {}, completion("Hello"))) as (url, requests):
        reply = teacher(url).answer(MESSAGES, **ASK)
    assert reply == TeacherReply(text="Hello", finish_reason="stop", model="served-1",
                                 usage={"prompt_tokens": 7, "completion_tokens": 3})
    assert requests == [{"model": "m", "messages": MESSAGES, "temperature": 0.2, "seed": 5, "max_tokens": 64,
                         "authorization": "Bearer secret-123"}]


@pytest.mark.parametrize("status", [429, 500])
def test_what_heals_is_asked_again(key, status):
    """A busy endpoint with Retry-After, or a failing one, ends in the answer."""
    def respond(_body, number):
        return (status, {"Retry-After": "0"}, b"{}") if number == 1 else (200, {}, completion("Hello"))

    with endpoint(respond) as (url, requests):
        assert teacher(url).answer(MESSAGES, **ASK).text == "Hello"
        assert len(requests) == 2


@pytest.mark.parametrize(("status", "body"), [
    (500, b"{}"), (200, b'{"choices": []}'), (200, b'{"choices": [{"mess'),
])
def test_what_does_not_heal_is_unavailable(key, status, body):
    """Failing answers, answers without a choice and broken JSON are failures of infrastructure."""
    with endpoint(lambda _body, _n: (status, {}, body)) as (url, _), pytest.raises(TeacherUnavailable, match=url):
        teacher(url, retries=0).answer(MESSAGES, **ASK)


def test_nobody_listening_is_unavailable(key):
    """A refused connection, too."""
    with pytest.raises(TeacherUnavailable, match=r"127\.0\.0\.1:1"):
        teacher("http://127.0.0.1:1/v1", retries=0).answer(MESSAGES, **ASK)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_model_is_for_a_person(key, status):
    """The error names the endpoint and the model, and never holds the key though the endpoint echoes it."""
    body = json.dumps({"error": {"message": "no: secret-123"}}).encode()
    with endpoint(lambda _body, _n: (status, {}, body)) as (url, _), \
            pytest.raises(TeacherMisconfigured, match="'m'") as caught:
        teacher(url).answer(MESSAGES, **ASK)
    assert "secret" not in str(caught.value)


def test_a_missing_key_names_its_variable(monkeypatch):
    """Before anything is sent."""
    monkeypatch.delenv("TEACHER_KEY", raising=False)
    with pytest.raises(TeacherMisconfigured, match="TEACHER_KEY"):
        teacher("http://127.0.0.1:1/v1")


def test_one_refused_request_is_a_reply(key):
    """A request that alone is refused, such as one that is too long, does not stop the others."""
    with endpoint(lambda _body, _n: (400, {}, b'{"error": {"message": "too long"}}')) as (url, _):
        assert teacher(url).answer(MESSAGES, **ASK).finish_reason == "refused"


@pytest.mark.parametrize("kind", Kind)
def test_the_grammar_teacher_answers_and_says_what_it_is(kind):
    """Its answers pass the parser, depend on the context, and carry a name that is no language model's."""
    reply = GrammarTeacher().answer(messages_for(kind, CONTEXT), **ASK)
    other = GrammarTeacher().answer(messages_for(kind, CONTEXT.replace("dog", "cat")), **ASK)
    assert isinstance(parse(kind, reply.text, reply.finish_reason), Parsed)
    assert reply.text != other.text
    assert reply.model == GRAMMAR and "not a language model" in GRAMMAR
    assert reply == GrammarTeacher().answer(messages_for(kind, CONTEXT), **ASK)


def test_equal_requests_have_one_digest():
    """Every part of a request counts, and nothing else."""
    base = request_digest("m", MESSAGES, **ASK)
    assert base == request_digest("m", [dict(m) for m in MESSAGES], **ASK)
    others = [request_digest("n", MESSAGES, **ASK), request_digest("m", MESSAGES * 2, **ASK),
              *[request_digest("m", MESSAGES, **{**ASK, k: 9}) for k in ASK]]
    assert len({base, *others}) == 6


@pytest.mark.parametrize("kind", Kind)
def test_the_grammar_teacher_answers_of_things_it_has_no_words_for(kind):
    """A context without boxes, of things outside the demo's world, gets an answer that the parser accepts."""
    reply = GrammarTeacher().answer(messages_for(kind, "A donut shop.\nMany donuts in a case."), **ASK)
    assert isinstance(parse(kind, reply.text, reply.finish_reason), Parsed)
