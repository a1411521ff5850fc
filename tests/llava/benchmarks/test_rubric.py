import pytest

from llava.benchmarks.llava_bench import Question, judge_messages, parse_scores
from llava.benchmarks.records import MalformedRecords
from llava.benchmarks.rubric import Fact, RubricJudge, facts

REFERENCE = "Two dogs are left of a pizza on a blue background."


def points(answer: str, reference: str = REFERENCE, context: str = "A scene.") -> float:
    question = Question(question_id=0, image="a.jpg", text="What is there?", category="conv")
    rules = {"default": ("Assistant", "Judge.")}
    reply = RubricJudge().answer(judge_messages(question, context, reference, answer, rules))
    scores = parse_scores(reply.text)
    assert scores
    return scores[1]


def test_facts_are_counts_positions_background_and_objects():
    """Counts belong to what is counted, positions to their object, plurals are folded."""
    assert facts(REFERENCE) == (Fact("count", "2", "dog"), Fact("object", "dog"), Fact("position", "left", "pizza"),
                                Fact("object", "pizza"), Fact("background", "blue"))


@pytest.mark.parametrize("text", [
    "A dog at the top left and a key at the bottom.", "At the top left is a dog; at the bottom is a key.",
    "A key at the bottom, a dog at the top left.",
])
def test_a_position_finds_its_object(text):
    """Before the position or after it, in any order of the clauses."""
    positions = {f for f in facts(text) if f.kind == "position"}
    assert positions == {Fact("position", "top", "dog"), Fact("position", "left", "dog"),
                         Fact("position", "bottom", "key")}


@pytest.mark.parametrize(("better", "worse"), [
    (REFERENCE, "Two dogs are left of a pizza."),
    ("Two dogs and a pizza.", "Three dogs and a pizza."),
    ("A dog left of a pizza.", "A dog right of a pizza."),
    ("A pizza on a blue background.", "A pizza on a green background."),
    ("A dog and a pizza.", "A dog, a pizza, a car and a tree."),
    ("A dog.", "A cat."),
])
def test_each_fact_counts(better, worse):
    """Leaving out, getting wrong and making up each lose points."""
    assert points(better) > points(worse)


def test_a_fact_of_the_context_is_not_made_up():
    """An answer may say more than the reference where the context bears it out."""
    answer = REFERENCE + " A kite flies."
    assert points(answer, context="A kite flies.") > points(answer)


def test_a_short_answer_agrees_with_the_full_one():
    """A number alone agrees with that number of things."""
    assert points("Three.", reference="Three cats.") > points("Two.", reference="Three cats.")


def test_an_empty_answer_gets_the_least():
    """No facts, one point; never a missing score."""
    assert points("") == 1


def test_another_prompt_is_refused():
    """The rubric does not pretend to answer what it cannot read."""
    with pytest.raises(MalformedRecords, match="reads only prompts"):
        RubricJudge().answer([{"role": "user", "content": "Hello"}])
