"""Probe, benchmark and problems: balanced, about held-out scenes, in the official formats."""

from collections import Counter

import pytest

from llava.benchmarks.llava_bench import read_bench
from llava.benchmarks.probe import read_probe, score_probe
from llava.benchmarks.scienceqa import problems_of, read_problems, read_splits
from llava.demo.corpus import write_json, write_jsonl
from llava.demo.problems import problem, problem_pictures, scienceqa
from llava.demo.questions import PROBE_KINDS, bench, probe, probe_pictures, probe_rows
from llava.demo.vocabulary import CELLS, NUMBERS, with_article
from llava.demo.world import WorldSpec, held_out, is_training_scene

SPEC = WorldSpec(num_problems=200)
ASKED = probe(SPEC)


def true_answers(asked, scene):
    """All right answers to a probe question about a scene."""
    if asked.kind == "count":
        return {NUMBERS[len(scene.placements)]}
    if asked.kind == "background":
        return {scene.background}
    if asked.kind == "where":
        place = next(c for c in CELLS if c in asked.text)
        return {f"At the {place} is {with_article(scene.at(CELLS.index(place)))}."}
    return set(scene.names)


def test_the_probe_has_four_equal_kinds_and_only_held_out_scenes():
    """128 questions a kind, and every combination that a picture shows is held out."""
    assert Counter(a.kind for a in ASKED) == {kind: 128 for kind in PROBE_KINDS}
    for asked in ASKED:
        for scene in (asked.scene, asked.swapped):
            assert {(p.name, p.cell, scene.background) for p in scene.placements} <= held_out(SPEC)


def test_answers_are_right_and_unique_for_both_pictures():
    """Each question has one right answer with its picture and one with the swapped picture, as recorded."""
    for asked in ASKED:
        assert true_answers(asked, asked.scene) == {asked.answer}
        assert true_answers(asked, asked.swapped) == {asked.swapped_answer}
        assert asked.answer in asked.choices


def test_no_answer_follows_from_the_text():
    """For each way of asking every answer is right equally often, and equal texts do not share an answer."""
    for kind in PROBE_KINDS:
        own = [a for a in ASKED if a.kind == kind]
        places = Counter(a.choices.index(a.answer) for a in own)
        assert set(places.values()) == {128 // len(own[0].choices)}
    assert not any(a.answer in a.text for a in ASKED)


def test_a_model_that_looks_is_right_with_swapped_pictures_as_often_as_chance(tmp_path):
    """Perfect sight scores 100 per cent, and within three points of chance when the pictures are swapped."""
    write_jsonl(tmp_path / "questions.jsonl", probe_rows(ASKED))
    questions = read_probe(tmp_path / "questions.jsonl")
    scores = score_probe(questions, {str(i): a.answer for i, a in enumerate(ASKED)},
                         {str(i): a.swapped_answer for i, a in enumerate(ASKED)})
    assert scores.overall.accuracy == 1
    for kind in scores.kinds.values():
        assert abs(kind.swapped - kind.chance) < 0.03
    assert [round(scores.kinds[k].chance, 2) for k in ("background", "count")] == [0.12, 0.25]


def test_each_probe_question_has_its_two_pictures():
    """Names in the rows are names of pictures."""
    small = ASKED[:6]
    names = {name for name, _ in probe_pictures(SPEC, small)}
    assert names == {r[key] for r in probe_rows(small) for key in ("image", "swapped_image")}


def test_the_bench_is_complete(tmp_path):
    """Questions of three categories about each picture, each with context and reference."""
    made = bench(SPEC)
    for name, rows in (("questions", made.questions), ("context", made.context), ("references", made.references)):
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    found = read_bench(tmp_path)
    assert Counter(q.category for q in found.questions) == {"conv": 10, "detail": 10, "complex": 10}
    assert {q.image for q in found.questions} == {name for name, _ in made.pictures}
    assert all("[0" in text or "[1" in text for text in found.contexts.values())


def test_problems_are_read_by_the_reader_of_real_ones(tmp_path):
    """Three subjects, all splits, pictures for those that have one."""
    problems, splits = scienceqa(SPEC)
    write_json(tmp_path / "problems.json", problems)
    write_json(tmp_path / "pid_splits.json", splits)
    found, named = read_problems(tmp_path / "problems.json"), read_splits(tmp_path / "pid_splits.json")
    assert {p.subject for p in found.values()} == {"natural science", "social science", "language science"}
    assert [len(problems_of(found, named, s)) for s in ("train", "val", "test")] == [120, 40, 40]
    pictured = {p.image_name for p in found.values() if p.image}
    assert pictured == {name for name, _ in problem_pictures(SPEC)}
    assert 80 <= len(pictured) <= 120
    assert any(p.hint and not p.image for p in found.values())


def test_only_training_problems_show_training_scenes():
    """Pictures of val and test hold held-out combinations only; those of train hold none."""
    for number in range(1, 201):
        _, record, scene = problem(SPEC, number)
        if scene:
            shown = {(p.name, p.cell, scene.background) for p in scene.placements}
            assert is_training_scene(SPEC, scene) if record["split"] == "train" else shown <= held_out(SPEC)


@pytest.mark.parametrize("number", range(1, 60))
def test_a_problem_has_one_right_choice(number):
    """The answer's text is what the solution says, and choices differ."""
    _, record, _ = problem(SPEC, number)
    assert len(set(record["choices"])) == len(record["choices"]) >= 2
    right = record["choices"][record["answer"]]
    said = record["solution"].lower()
    if record["skill"] == "Match a sentence with a picture":
        assert said.split()[-1] in right
    elif record["skill"] != "Know what goods are for":
        assert right.lower() in said
