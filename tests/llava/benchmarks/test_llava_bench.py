import json
from dataclasses import dataclass, field

import pytest

from llava.benchmarks.llava_bench import (
    Review,
    judge_messages,
    parse_scores,
    read_bench,
    read_rules,
    review,
    summarise,
)
from llava.benchmarks.records import MalformedRecords, write_jsonl
from llava.benchmarks.rubric import RubricJudge

QUESTIONS = [
    {"question_id": 1, "image": "b.jpg", "text": "What is there?", "category": "conv"},
    {"question_id": 0, "image": "a.jpg", "text": "Describe it.", "category": "detail"},
]
CONTEXTS = [
    {"id": "a", "image": "a.jpg", "caption": "A red kite."},
    {"id": "b", "image": "b.jpg", "captions": ["A dog.", "One dog."],
     "instances": [{"category": "dog", "bbox": [0.1, 0.2, 0.5, 0.6]}]},
]
REFERENCES = [{"question_id": 0, "text": "A red kite."}, {"question_id": 1, "text": "One dog."}]
ANSWERS = {"0": "A red kite.", "1": "A cat."}


@pytest.fixture
def folder(tmp_path):
    write_jsonl(tmp_path / "questions.jsonl", QUESTIONS)
    write_jsonl(tmp_path / "context.jsonl", CONTEXTS)
    write_jsonl(tmp_path / "references.jsonl", REFERENCES)
    return tmp_path


@dataclass
class Reply:
    text: str


@dataclass
class Says:
    """A judge that replies with the given texts in turn, and keeps what it was asked."""

    texts: list[str]
    seeds: list[int] = field(default_factory=list)

    def answer(self, messages, *, temperature, seed, max_tokens):
        self.seeds.append(seed)
        return Reply(self.texts[(len(self.seeds) - 1) % len(self.texts)])


def judged(bench, judge, answers=None):
    return review(bench, answers or ANSWERS, judge, rules=read_rules(), seed=3)


def test_files_are_joined_by_id(folder):
    """The order of rows means nothing: references and contexts find their questions."""
    bench = read_bench(folder)
    assert [q.question_id for q in bench.questions] == [0, 1]
    assert (bench.references["1"], bench.contexts["a.jpg"]) == ("One dog.", "A red kite.")


@pytest.mark.parametrize(("name", "rows", "message"), [
    ("references.jsonl", REFERENCES[:1], "no reference for 1 of 2 questions: 1"),
    ("context.jsonl", CONTEXTS[:1], "no context for the pictures of 1 of 2 questions: 1"),
    ("questions.jsonl", [QUESTIONS[0], QUESTIONS[0]], "question 1 occurs twice"),
])
def test_an_incomplete_set_is_refused(folder, name, rows, message):
    """What is missing is named before anything is judged."""
    write_jsonl(folder / name, rows)
    with pytest.raises(MalformedRecords, match=message):
        read_bench(folder)


def test_repeated_picture_ids_number_the_questions_by_row(folder):
    """In the In-the-Wild release the id names the picture and the answers count the rows from 0."""
    rows = [{"id": "001", "image": "a.jpg", "text": t, "category": "conv"} for t in ("First?", "Second?")]
    write_jsonl(folder / "questions.jsonl", rows)
    assert [(q.question_id, q.text) for q in read_bench(folder).questions] == [(0, "First?"), (1, "Second?")]


def test_the_prompt_has_the_published_shape(folder):
    """Context with captions and boxes, question, reference first, candidate second, rule last."""
    bench = read_bench(folder)
    rules = {"conv": ("Assistant", "RULE")}
    system, user = judge_messages(bench.questions[1], bench.contexts["b.jpg"], "One dog.", "A cat.", rules)
    assert (system["role"], user["role"]) == ("system", "user")
    assert user["content"] == (
        "[Context]\nA dog.\nOne dog.\n\ndog: [0.1, 0.2, 0.5, 0.6]\n\n[Question]\nWhat is there?\n\n"
        "[Assistant 1]\nOne dog.\n\n[End of Assistant 1]\n\n[Assistant 2]\nA cat.\n\n[End of Assistant 2]\n\n"
        "[System]\nRULE\n\n")


@pytest.mark.parametrize(("text", "scores"), [
    ("8 9\nBoth are good.", (8.0, 9.0)), ("8, 9", (8.0, 9.0)), ("7.5 10 \nx", (7.5, 10.0)),
    ("", None), ("8", None), ("8 9 7", None), ("Scores: 8 9", None), ("First, I will think.\n8 9", None),
    ("nan 5", None), ("-1 -1", None), ("8 90", None),
])
def test_only_two_scores_on_the_first_line_are_a_review(text, scores):
    """Anything else is not a score, however easily it could be guessed."""
    assert parse_scores(text) == scores


def test_an_unreadable_review_is_asked_for_again_with_another_seed(folder):
    """The second reply counts; the attempts are recorded."""
    judge = Says(["I think so.", "8 4\nok"])
    reviews = judged(read_bench(folder), judge)
    assert [(r.scores, r.attempts) for r in reviews] == [((8.0, 4.0), 2), ((8.0, 4.0), 2)]
    assert judge.seeds == [3, 4, 3, 4]


def test_a_review_that_stays_unreadable_is_missing_not_minus_one(folder):
    """It is named, left out of the means, and its text is kept."""
    reviews = judged(read_bench(folder), Says(["no", "no", "no", "6 3\nok"]))
    assert (reviews[0].scores, reviews[0].content, reviews[0].attempts) == (None, "no", 3)
    summary = summarise(reviews)
    assert (summary.unparsable, summary.overall.relative, summary.overall.reviews) == ((0,), 50.0, 1)
    assert summary.by_category["detail"].relative is None


def test_an_unanswered_question_stops_the_judging(folder):
    """Completeness first: no score over fewer questions than there are."""
    with pytest.raises(MalformedRecords, match="no answer to 1 of 2 questions: 1"):
        judged(read_bench(folder), Says(["5 5"]), answers={"0": "x"})


def test_the_score_is_a_ratio_of_rounded_means():
    """Not a mean of ratios; means to three decimals, the ratio to one, as published."""
    scores = [(9.0, 3.0), (3.0, 3.0), (8.0, 5.0)]
    reviews = [Review(question_id=i, category="conv", content="", scores=s, attempts=1) for i, s in enumerate(scores)]
    summary = summarise(reviews)
    assert (summary.overall.reference, summary.overall.candidate) == (6.667, 3.667)
    assert (summary.overall.relative, summary.totals) == (55.0, (20.0, 11.0))


def test_the_rubric_judge_goes_the_whole_way(folder):
    """From files to a score: the right answer gets all points and the wrong one few, and the review says who judged."""
    reviews = judged(read_bench(folder), RubricJudge())
    assert reviews[0].scores == (10.0, 10.0)
    assert reviews[1].scores == (10.0, 1.0)
    assert all("not a language model" in r.content for r in reviews)
    assert json.loads(json.dumps(summarise(reviews).as_json()))["overall"] == 55.0
