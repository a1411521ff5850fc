from dataclasses import replace

import pytest

from llava.benchmarks.answer_text import normalise
from llava.benchmarks.probe import ProbeQuestion, read_probe, score_probe
from llava.benchmarks.records import MalformedRecords, write_jsonl


def question(qid: int, kind: str, answer: str) -> ProbeQuestion:
    return ProbeQuestion(question_id=qid, image=f"{qid}.png", swapped_image="other.png", kind=kind, text="?",
                         answer=answer)


QUESTIONS = [question(0, "count", "two"), question(1, "count", "two"), question(2, "count", "three"),
             question(3, "count", "one"), question(4, "background", "the beach"), question(5, "background", "a forest")]
RIGHT = {str(q.question_id): q.answer for q in QUESTIONS}


def test_each_kind_is_scored_against_its_own_chance():
    """Accuracy, best constant guess and swapped accuracy, per kind and overall."""
    answers = {**RIGHT, "3": "Five."}
    swapped = {str(q.question_id): "2" for q in QUESTIONS}
    scores = score_probe(QUESTIONS, answers, swapped)
    count, background = scores.kinds["count"], scores.kinds["background"]
    assert (count.accuracy, count.chance, count.swapped) == (0.75, 0.5, 0.5)
    assert (background.accuracy, background.chance, background.swapped) == (1.0, 0.5, 0.0)
    assert (scores.overall.accuracy, scores.overall.chance, scores.overall.swapped) == (0.8333, 0.5, 0.3333)
    assert scores.as_json()["sight"] == 0.5


def test_a_guess_that_reads_the_question_counts_as_chance():
    """Where the file says what such a guess gets right, chance is never less."""
    questions = [replace(q, chance=0.6) for q in QUESTIONS]
    scores = score_probe(questions, RIGHT, RIGHT)
    assert [a.chance for a in scores.kinds.values()] == [0.6, 0.6]
    assert score_probe([replace(q, chance=0.1) for q in QUESTIONS], RIGHT, RIGHT).overall.chance == 0.5


def test_only_spelling_is_forgiven():
    """Case, articles, punctuation and number words do not count; other words do."""
    assert normalise("The Beach!") == normalise("a beach")
    assert normalise("Three dogs.") == normalise("3 dogs")
    assert normalise("three dogs") != normalise("three dog")
    assert normalise("on the beach") != normalise("beach")


@pytest.mark.parametrize("which", ["answers", "swapped_answers"])
def test_an_unanswered_question_is_named(which):
    """No accuracy over fewer questions than there are."""
    given = {"answers": RIGHT, "swapped_answers": RIGHT, which: {k: v for k, v in RIGHT.items() if k != "2"}}
    with pytest.raises(MalformedRecords, match=r"1 of 6 questions .*: 2"):
        score_probe(QUESTIONS, **given)


def test_questions_are_read_by_id(tmp_path):
    """Further fields are left alone; order is by id; a swapped picture must be another."""
    row = {"question_id": 10, "image": "a.png", "swapped_image": "b.png", "kind": "count", "text": "How many?",
           "answer": "two", "scene": {"seed": 3}}
    write_jsonl(tmp_path / "questions.jsonl", [row, {**row, "question_id": 9}])
    assert [q.question_id for q in read_probe(tmp_path / "questions.jsonl")] == [9, 10]
    write_jsonl(tmp_path / "questions.jsonl", [{**row, "swapped_image": "a.png"}])
    with pytest.raises(MalformedRecords, match="question 10: swapped_image"):
        read_probe(tmp_path / "questions.jsonl")
