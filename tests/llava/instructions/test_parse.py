"""An answer becomes turns, or is rejected with its own reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava.instructions.parse import Kind, Parsed, Reason, parse

TWO = "Question:\nWhat is it?\n===\nAnswer:\nA dog.\n===\nQuestion:\nWhere?\n===\nAnswer:\nOn a sofa,\nasleep."
ONE = "Question:\nWhy?\n===\nAnswer:\nBecause."


def test_conversations_become_pairs():
    """Turns keep their text, lines included; stray separators at the ends and spaces around them do not count."""
    expected = Parsed(pairs=(("What is it?", "A dog."), ("Where?", "On a sofa,\nasleep.")))
    assert parse(Kind.CONVERSATION, TWO, "stop") == expected
    assert parse(Kind.CONVERSATION, f"===\n{TWO}\n ===  \n", "stop") == expected


def test_complex_is_one_pair_and_detail_is_text():
    """The other two kinds."""
    assert parse(Kind.COMPLEX, ONE, "stop") == Parsed(pairs=(("Why?", "Because."),))
    assert parse(Kind.DETAIL, " A dog\non a sofa. ", "stop") == Parsed(pairs=(("", "A dog\non a sofa."),))


@pytest.mark.parametrize(("kind", "text", "finish", "reason"), [
    (Kind.CONVERSATION, " \n", "stop", Reason.EMPTY),
    (Kind.CONVERSATION, TWO, "length", Reason.TRUNCATED),
    (Kind.DETAIL, "", "content_filter", Reason.FILTERED),
    (Kind.DETAIL, "I'm sorry, but I cannot help with that.", "stop", Reason.REFUSAL),
    (Kind.DETAIL, "As the captions say, a dog sits there.", "stop", Reason.MENTIONS_SOURCE),
    (Kind.DETAIL, "The bounding box of the dog is large.", "stop", Reason.MENTIONS_SOURCE),
    (Kind.DETAIL, "A dog at [0.1, 0.25, 0.4, 0.8].", "stop", Reason.MENTIONS_SOURCE),
    (Kind.COMPLEX, ONE.replace("Because", "<image>"), "stop", Reason.IMAGE_TOKEN),
    (Kind.CONVERSATION, "What is it?\n===\nAnswer:\nA dog.", "stop", Reason.MISSING_HEADER),
    (Kind.CONVERSATION, "Answer:\nA dog.\n===\nQuestion:\nWhat?", "stop", Reason.WRONG_ORDER),
    (Kind.CONVERSATION, f"{ONE}\n===\nAnswer:\nAgain.", "stop", Reason.WRONG_ORDER),
    (Kind.CONVERSATION, f"{ONE}\n===\nQuestion:\nWhat else?", "stop", Reason.UNPAIRED),
    (Kind.CONVERSATION, "Question:\nWhat?\n===\nAnswer:\n \n===", "stop", Reason.EMPTY_TURN),
    (Kind.CONVERSATION, f"{ONE}\n===\n\n===\n{ONE}", "stop", Reason.MISSING_HEADER),
    (Kind.COMPLEX, TWO, "stop", Reason.WRONG_NUMBER_OF_PAIRS),
    (Kind.DETAIL, ONE, "stop", Reason.UNEXPECTED_BLOCKS),
])
def test_a_bad_answer_has_its_own_reason(kind, text, finish, reason):
    """Nothing is repaired."""
    assert parse(kind, text, finish) is reason


words = st.text(st.characters(categories=("L", "Nd")), min_size=1, max_size=12)


@given(st.lists(st.tuples(words, words), min_size=1, max_size=5))
def test_what_is_written_is_read(pairs):
    """Any pairs of words survive being written in the form that is asked for."""
    text = "\n===\n".join(f"Question:\n{q}\n===\nAnswer:\n{a}" for q, a in pairs)
    found = parse(Kind.CONVERSATION, text, "stop")
    assert found in (Parsed(pairs=tuple(pairs)), Reason.MENTIONS_SOURCE)  # a word may be "caption"


@given(st.text(max_size=200), st.sampled_from(Kind))
def test_any_text_ends_as_turns_or_as_a_reason(text, kind):
    """No text raises, and no accepted turn is empty."""
    found = parse(kind, text, "stop")
    assert isinstance(found, Reason) or all(answer.strip() for _, answer in found.pairs)
