import json

import pytest

from llava.benchmarks.records import write_jsonl
from llava.benchmarks.rubric import RubricJudge
from llava.benchmarks.suites import JudgeSettings, LlavaBench, Probe, ScienceQA
from llava.benchmarks.tables import as_markdown


def probe(tmp_path, limit=None) -> Probe:
    rows = [{"question_id": i, "image": f"{i}.png", "swapped_image": f"{i + 1}.png", "kind": kind, "text": f"Q{i}?",
             "answer": str(i % 3)} for i, kind in enumerate(["count", "count", "count", "what", "what", "what"])]
    write_jsonl(tmp_path / "probe.jsonl", rows)
    return Probe(tmp_path / "probe.jsonl", limit)


def scienceqa(tmp_path, **changes) -> ScienceQA:
    row = {"question": "Solid?", "choices": ["rock", "water"], "answer": 0, "hint": "", "image": None,
           "grade": "grade2", "subject": "natural science", "lecture": "", "solution": ""}
    (tmp_path / "problems.json").write_text(json.dumps({"10": row, "9": {**row, "image": "image.png"}}))
    (tmp_path / "pid_splits.json").write_text(json.dumps({"test": ["10", "9"]}))
    options = {"split": "test", "answer_format": "QCM-LEA", **changes}
    return ScienceQA(tmp_path / "problems.json", tmp_path / "pid_splits.json", **options)


@pytest.mark.parametrize(("limit", "asked"), [(None, 6), (4, 4), (1, 2)])
def test_a_short_probe_still_has_every_kind(tmp_path, limit, asked):
    """A limit takes equal shares, one question of each kind at least."""
    questions = probe(tmp_path, limit).questions
    assert len(questions) == asked
    assert {q.kind for q in questions} == {"count", "what"}


def test_probe_answers_are_scored_where_they_were_asked(tmp_path):
    """Right with its own picture and wrong with the other's: accuracy 1, swapped 0; the prompt holds the picture."""
    suite = probe(tmp_path)
    first, *_, last = suite.prompts()
    assert (first.benchmark, first.text, first.image) == ("probe", "<image>\nQ0?", "0.png")
    assert (last.benchmark, last.text, last.image) == ("probe_swapped", "<image>\nQ5?", "6.png")
    answers = {"probe": {str(i): str(i % 3) for i in range(6)}, "probe_swapped": {str(i): "9" for i in range(6)}}
    scored = suite.score(answers)
    assert (scored.values["overall"], scored.values["swapped"]) == (1.0, 0.0)
    assert "| all | 6 | 100.0 | 33.3 | 0.0 |" in as_markdown(scored.table)


def test_scienceqa_asks_in_the_format_of_the_training(tmp_path):
    """By id, the published text, a picture only where the problem has one."""
    prompts = scienceqa(tmp_path).prompts()
    assert [(p.question_id, p.image) for p in prompts] == [("9", "9/image.png"), ("10", None)]
    assert prompts[0].text == "Solid?\nContext: N/A\nOptions: (A) rock (B) water\n<image>"
    assert scienceqa(tmp_path, answer_format="CQM-A").prompts()[1].text.startswith("Context: N/A\nQuestion: Solid?")


def test_scienceqa_is_scored_by_the_strict_rule(tmp_path):
    """An unusable answer is wrong and named; the paper's format counts by its last line."""
    answers = {"scienceqa": {"9": "SOLUTION: It is.\n###\nANSWER: A.", "10": "A, I think"}}
    scored = scienceqa(tmp_path).score(answers)
    assert (scored.values["rule"], scored.values["correct"], scored.values["unusable"]) == ("strict", 1, 1)
    assert "1 unusable (no_answer), counted as wrong: 10" in as_markdown(scored.table)


def test_llava_bench_keeps_its_reviews(tmp_path):
    """Each review is a row of the record, and the table names its judge."""
    write_jsonl(tmp_path / "questions.jsonl", [
        {"question_id": i, "image": "a.jpg", "text": "What?", "category": "conv"} for i in range(2)])
    write_jsonl(tmp_path / "context.jsonl", [{"id": "a", "image": "a.jpg", "caption": "Two dogs."}])
    write_jsonl(tmp_path / "references.jsonl", [{"question_id": i, "text": "Two dogs."} for i in range(2)])
    suite = LlavaBench(tmp_path, RubricJudge(), RubricJudge.name, JudgeSettings())
    scored = suite.score({"llava_bench": {"0": "Two dogs.", "1": "A car."}})
    assert [r["tuple"] for r in scored.reviews] == [[10.0, 10.0], [10.0, 1.0]]
    assert (scored.values["overall"], scored.values["judge"]) == (55.0, "rubric judge, not a language model")
    assert "not a language model" in as_markdown(scored.table)
