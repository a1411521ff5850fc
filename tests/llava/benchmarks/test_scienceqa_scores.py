import csv
import json
from pathlib import Path

import pytest

from llava.benchmarks.records import MalformedRecords
from llava.benchmarks.scienceqa import Problem
from llava.benchmarks.scienceqa_scores import (
    Predictions,
    Rule,
    Unusable,
    finish_lepa,
    label_of,
    parse_historical,
    parse_strict,
    read_labels,
    score,
    score_file,
)

GOLDEN = json.loads((Path(__file__).parent / "scienceqa_golden.json").read_text())


@pytest.fixture
def labels(tmp_path):
    path = tmp_path / "labels.csv"
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows(GOLDEN["labels"])
    return read_labels(path)


@pytest.mark.parametrize("rule", [Rule.STRICT, Rule.STORED])
def test_a_result_file_gives_the_golden_table(tmp_path, labels, rule):
    """All columns and counts of a small set scored by hand."""
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"outputs": GOLDEN["outputs"], "results": GOLDEN["results"]}))
    assert score_file(path, labels, rule).as_json() == GOLDEN[rule.value]


def test_answer_lines_score_like_a_result_file(tmp_path, labels):
    """JSON lines of the official answer record are read by question id, in any order."""
    path = tmp_path / "answers.jsonl"
    rows = [{"question_id": qid, "text": text} for qid, text in reversed(GOLDEN["outputs"].items())]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert score_file(path, labels, Rule.STRICT).as_json() == GOLDEN["strict"]


@pytest.mark.parametrize(("text", "choice"), [
    ("B", 1), ("B. water", 1), ("The answer is B.", 1), ("It flows. The answer is B. It does.", 1),
    ("b", Unusable.NO_ANSWER), ("B.", Unusable.NO_ANSWER), ("", Unusable.NO_ANSWER), ("Water", Unusable.NO_ANSWER),
    ("The answer is A. The answer is B.", Unusable.SEVERAL), ("C", Unusable.OUT_OF_RANGE),
    ("The answer is Q.", Unusable.OUT_OF_RANGE),
])
def test_a_strict_answer_is_stated_once_or_unusable(text, choice):
    """Nothing is guessed, and each failure has a name."""
    assert parse_strict(text, num_choices=2) == choice


def test_unusable_answers_are_counted_by_kind_with_their_questions(labels):
    """Every question that did not count as answered is named."""
    unusable = score(labels, Predictions(outputs=GOLDEN["outputs"]), Rule.STRICT).unusable
    assert unusable == {Unusable.SEVERAL: ("4",), Unusable.OUT_OF_RANGE: ("5",), Unusable.MISSING: ("6",)}


def test_the_historical_rule_guesses_and_leaves_out(labels):
    """Guesses differ by seed, are the same for one seed, and a missing prediction is not in the total."""
    predictions = Predictions(outputs=GOLDEN["outputs"])
    scored = [score(labels, predictions, Rule.HISTORICAL, seed=s).as_json() for s in range(12)]
    assert scored[0] == score(labels, predictions, Rule.HISTORICAL, seed=0).as_json()
    assert len({s["correct"] for s in scored}) > 1
    assert {s["total"] for s in scored} == {5}
    assert parse_historical("B", num_choices=2) is Unusable.NO_ANSWER


def test_a_rule_that_the_file_cannot_serve_is_an_error(labels):
    """Stored results are never made up from texts, nor texts from stored results."""
    with pytest.raises(MalformedRecords, match="--rule strict"):
        score(labels, Predictions(outputs={}), Rule.STORED)
    with pytest.raises(MalformedRecords, match="--rule stored"):
        score(labels, Predictions(results={}), Rule.STRICT)


def test_predictions_without_a_label_are_counted(labels):
    """They change no score and are not passed over in silence."""
    scores = score(labels, Predictions(outputs={**GOLDEN["outputs"], "77": "A"}), Rule.STRICT)
    assert (scores.unknown, scores.as_json()) == (1, GOLDEN["strict"])


def test_a_file_of_another_kind_is_refused(tmp_path, labels):
    """A JSON file without outputs or results is named."""
    path = tmp_path / "other.json"
    path.write_text("[1]")
    with pytest.raises(MalformedRecords, match=r"other.json.*outputs"):
        score_file(path, labels, Rule.STRICT)


def test_a_bad_label_is_named_by_line(tmp_path):
    """The error says which line and field."""
    path = tmp_path / "labels.csv"
    path.write_text("qid,answer,n_choices,has_text,has_image,grade,subject\n4,x,2,0,0,11,language science\n")
    with pytest.raises(MalformedRecords, match=r"labels.csv:2: the field 'answer'"):
        read_labels(path)


def test_a_problem_counts_in_the_columns_of_its_facts():
    """Subject, hint, picture and grade decide; TXT and IMG overlap, NO is neither."""
    common = dict(qid="1", question="q", choices=("a", "b"), answer=0, lecture="", solution="")
    both = Problem(**common, hint="h", image="image.png", grade=6, subject="social science")
    neither = Problem(**common, hint="", image=None, grade=7, subject="language science")
    assert label_of(both).columns == ("SOC", "TXT", "IMG", "G1-6", "Avg")
    assert label_of(neither).columns == ("LAN", "NO", "G7-12", "Avg")


def test_an_ending_of_the_papers_models_becomes_the_sentence_that_is_scored():
    """LEPA answers end in ### ANSWER: X; the lecture before it stays."""
    assert finish_lepa("LECTURE: Rocks.\n###\nANSWER: B.") == "LECTURE: Rocks.\nThe answer is B."
    assert parse_strict(finish_lepa("LECTURE: Rocks.\n###\nANSWER: B."), 2) == 1
