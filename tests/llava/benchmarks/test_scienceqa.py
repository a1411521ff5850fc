import json

import pytest

from llava.benchmarks.records import MalformedRecords
from llava.benchmarks.scienceqa import Problem, problems_of, read_problems, read_splits, to_sample

ROW = {"question": "Which is a solid?", "choices": ["rock", "water"], "answer": 0, "hint": "Solids keep  their shape.",
       "image": "image.png", "grade": "grade3", "subject": "natural science", "lecture": "A solid has a shape.",
       "solution": "A rock has one."}
HUMAN = "Which is a solid?\nContext: Solids keep their shape.\nOptions: (A) rock (B) water"


def problem(**changes) -> Problem:
    row = {**ROW, **changes}
    return Problem(qid="7", question=row["question"], choices=tuple(row["choices"]), answer=row["answer"],
                   hint=row["hint"], image=row["image"], grade=3, subject=row["subject"], lecture=row["lecture"],
                   solution=row["solution"])


def answer(answer_format: str, **changes) -> str:
    return to_sample(problem(**changes), answer_format).turns[1].text


@pytest.mark.parametrize(("answer_format", "text"), [
    ("QCM-A", "The answer is A."),
    ("QCM-ALE", "The answer is A. BECAUSE: A solid has a shape. A rock has one."),
    ("QCM-LEA", "A solid has a shape. A rock has one. The answer is A."),
    ("QCM-LEPA", "LECTURE: A solid has a shape.\nSOLUTION: A rock has one.\n###\nANSWER: A."),
    ("CQM-A", "The answer is A."),
])
def test_the_answer_side_is_the_published_text(answer_format, text):
    """Each format gives the text that the authors' converter gives."""
    assert answer(answer_format) == text


def test_a_letter_means_what_it_says():
    """L is the lecture and E the explanation, which the authors' converter has the other way round."""
    assert answer("QCM-AL") == "The answer is A. BECAUSE: A solid has a shape."
    assert answer("QCM-AE") == "The answer is A. BECAUSE: A rock has one."


def test_empty_parts_leave_no_trace():
    """Without lecture and solution nothing dangles."""
    assert answer("QCM-ALE", lecture="", solution="") == "The answer is A."
    assert answer("QCM-LEA", lecture="") == "A rock has one. The answer is A."
    assert answer("QCM-LEPA", lecture="", solution="") == "###\nANSWER: A."


def test_the_question_side_is_the_published_text():
    """Question first without its prefix, or context first with all prefixes; pairs of spaces become one."""
    assert to_sample(problem(), "QCM-LEA").turns[0].text == f"{HUMAN}\n<image>"
    assert to_sample(problem(), "CQM-A").turns[0].text == (
        "Context: Solids keep their shape.\nQuestion: Which is a solid?\nOptions: (A) rock (B) water\n<image>")


def test_a_text_only_problem_has_no_picture():
    """No image and no image token."""
    sample = to_sample(problem(image=None, hint=""), "QCM-A")
    assert sample.images == ()
    assert sample.turns[0].text == "Which is a solid?\nContext: N/A\nOptions: (A) rock (B) water"


def test_a_picture_lies_under_its_question():
    """The image name is that of the official folder."""
    assert to_sample(problem(), "QCM-A").images == ("7/image.png",)


def test_an_unknown_format_is_named():
    """A format that does not exist is an error that lists the known ones."""
    with pytest.raises(MalformedRecords, match=r"QCM-XYZ.*LEPA"):
        to_sample(problem(), "QCM-XYZ")


def written(tmp_path, rows):
    path = tmp_path / "problems.json"
    path.write_text(json.dumps(rows))
    return path


def test_official_problems_are_read_whole(tmp_path):
    """A record of the official schema, with fields that are not needed, becomes a problem."""
    rows = {"7": {**ROW, "task": "closed choice", "topic": "physics", "split": "train"}}
    assert read_problems(written(tmp_path, rows)) == {"7": problem()}


@pytest.mark.parametrize(("field", "value"), [
    ("answer", 2), ("answer", "A"), ("choices", ["only"]), ("grade", "third"), ("subject", "maths"), ("hint", None),
])
def test_a_bad_field_is_named_with_its_question(tmp_path, field, value):
    """The error says which file, which question and which field."""
    with pytest.raises(MalformedRecords, match=rf"problems.json: question 7: .*{field}"):
        read_problems(written(tmp_path, {"7": {**ROW, field: value}}))


def test_a_missing_field_is_named_with_its_question(tmp_path):
    """A record without a lecture is refused; an empty one is fine."""
    row = {k: v for k, v in ROW.items() if k != "lecture"}
    with pytest.raises(MalformedRecords, match="question 7: the field 'lecture' is missing"):
        read_problems(written(tmp_path, {"7": row}))


def test_a_split_keeps_its_order_and_is_complete(tmp_path):
    """Problems come in the split's order; a question that problems.json lacks is named."""
    problems = {"7": problem(), "9": problem()}
    assert [p is problems["9"] for p in problems_of(problems, {"test": ("9", "7")}, "test")] == [True, False]
    with pytest.raises(MalformedRecords, match="lacks: 8"):
        problems_of(problems, {"test": ("7", "8")}, "test")
    with pytest.raises(MalformedRecords, match="no split 'dev'"):
        problems_of(problems, {"test": ("7",)}, "dev")


def test_a_repeated_question_in_a_split_is_refused(tmp_path):
    """A question counted twice would change a score."""
    path = tmp_path / "pid_splits.json"
    path.write_text(json.dumps({"test": ["3", "5", "3"]}))
    with pytest.raises(MalformedRecords, match="split test names question 3 twice"):
        read_splits(path)
