"""Samples follow the published schema and lists, and each depends on its own image and seed alone."""

import json
from collections import Counter

import pytest

from llava.conversations import read_samples
from llava.instructions.context import SymbolicContext
from llava.instructions.parse import Kind, Parsed
from llava.instructions.prompts import load_prompt, messages_for
from llava.instructions.questions import BRIEF, DETAILED, draw_instruction, place_image
from llava.instructions.samples import order_of_asking, request_for, sample

CONTEXTS = [SymbolicContext(id=f"{i:012d}", image=f"{i:012d}.jpg", captions=("A dog.",) * 5, boxes=())
            for i in range(400)]
PAIRS = Parsed(pairs=(("What is it?", "A dog."), ("Where?", "There.")))


def test_a_record_in_the_published_schema(tmp_path):
    """It is read back without a violation, names its teacher, and holds <image> once, in the first turn."""
    records = [sample(c, Kind.CONVERSATION, PAIRS, 0, "teacher x") for c in CONTEXTS[:20]]
    (tmp_path / "chat.json").write_text(json.dumps(records))
    samples, violations = read_samples(tmp_path / "chat.json")
    assert len(samples) == 20 and not violations
    assert records[0]["model"] == "teacher x"
    assert [t["value"].count("<image>") for t in records[0]["conversations"]] == [1, 0, 0, 0]
    assert {t["value"].startswith("<image>\n") for r in records for t in r["conversations"][:1]} == {True, False}


def test_detail_questions_come_from_the_list_of_sixteen():
    """Every one of them is drawn, about equally often, and nothing else."""
    asked = Counter(sample(c, Kind.DETAIL, Parsed(pairs=(("", "A dog."),)), 0, "t")["conversations"][0]["value"]
                    .replace("<image>", "").strip() for c in CONTEXTS)
    assert set(asked) == set(DETAILED) and len(DETAILED) == 16 and len(BRIEF) == 11
    assert max(asked.values()) < 3 * min(asked.values())


def test_draws_differ_by_seed_and_by_what_they_are_for():
    """Another seed or image gives another draw; the same gives the same."""
    drawn = [draw_instruction(BRIEF, seed, image) for seed in range(8) for image in "abcdefgh"]
    assert set(drawn) == set(BRIEF)
    assert drawn == [draw_instruction(BRIEF, seed, image) for seed in range(8) for image in "abcdefgh"]
    sides = Counter(place_image("q", 0, str(i)) for i in range(1000))
    assert set(sides) == {"<image>\nq", "q\n<image>"} and abs(sides["q\n<image>"] - 500) < 80


def test_each_kind_takes_images_in_an_order_of_its_own():
    """All images, each once, in an order that depends on kind and seed, not on the order they are given in."""
    one = order_of_asking(CONTEXTS, Kind.DETAIL, 0)
    assert one == order_of_asking(CONTEXTS[::-1], Kind.DETAIL, 0)
    assert sorted(c.id for c in one) == [c.id for c in CONTEXTS]
    assert one != order_of_asking(CONTEXTS, Kind.COMPLEX, 0)
    assert one != order_of_asking(CONTEXTS, Kind.DETAIL, 1)


@pytest.mark.parametrize("kind", Kind)
def test_prompts_are_messages_in_the_papers_order(kind):
    """System, then worked examples as user and assistant, then the context; the examples' answers are accepted."""
    from llava.instructions.parse import parse

    messages = messages_for(kind, "A cat.")
    roles = [m["role"] for m in messages]
    assert roles == ["system", *["user", "assistant"] * len(load_prompt(kind).shots), "user"] and len(roles) >= 6
    assert messages[-1]["content"] == "A cat."
    assert all(isinstance(parse(kind, answer, "stop"), Parsed) for _, answer in load_prompt(kind).shots)
    assert all(("[0." in caps) == (kind is not Kind.CONVERSATION) for caps, _ in load_prompt(kind).shots)


def test_conversations_see_no_boxes_unless_told():
    """The paper's rule, and the knob against it."""
    from llava.instructions.context import Box

    context = SymbolicContext(id="1", image="1.jpg", captions=("A dog.",), boxes=(
        Box(category="dog", x1=0.1, y1=0.1, x2=0.5, y2=0.5),))

    def last(kind, conversation_boxes):
        return request_for(context, kind, 0, conversation_boxes=conversation_boxes)[0][-1]["content"]

    assert last(Kind.CONVERSATION, False) == "A dog."
    assert last(Kind.CONVERSATION, True) == last(Kind.DETAIL, False) == "A dog.\n\ndog: [0.1, 0.1, 0.5, 0.5]"
