import json

import pytest

from llava.conversations import read_samples
from pipelines.stage import BadInput
from pipelines.stages.convert_scienceqa import STAGE, Config, import_output
from tests.pipelines.stages.stage_context import stage_context

SPLITS = {"train": ["1", "2"], "val": ["3"], "test": ["4"], "trainval": ["1", "2", "3"]}


def row(qid: str, **changes) -> dict:
    return {"question": f"Question {qid}?", "choices": ["yes", "no"], "answer": 1, "hint": "", "image": None,
            "grade": "grade2", "subject": "natural science", "lecture": "", "solution": "So.", **changes}


def context(tmp_path, problems=None, splits=None, **config):
    tmp_path.mkdir(exist_ok=True)
    problems = problems or {"1": row("1", image="image.png"), **{q: row(q) for q in "234"}}
    (tmp_path / "problems.json").write_text(json.dumps(problems))
    (tmp_path / "pid_splits.json").write_text(json.dumps(splits or SPLITS))
    return stage_context(STAGE, tmp_path, Config(problems=str(tmp_path / "problems.json"),
                                                 splits=str(tmp_path / "pid_splits.json"), **config))


def test_each_split_becomes_a_file_of_the_published_schema(tmp_path):
    """Every question of train, val and test once, readable as conversations, and counted."""
    ctx = context(tmp_path)
    result = STAGE.run(ctx)
    for split in ("train", "val", "test"):
        samples, violations = read_samples(ctx.out / f"{split}.json")
        assert ([s.id for s in samples], violations) == (SPLITS[split], [])
    assert result.values["splits"]["train"] == {"samples": 2, "with_image": 1, "text_only": 1}
    assert json.loads((ctx.out / "report.json").read_text())["splits"] == result.values["splits"]


def test_the_format_is_the_configured_one(tmp_path):
    """Reasoning first by default, the paper's format when asked for."""
    texts = []
    for number, answer_format in enumerate(("QCM-LEA", "QCM-LEPA")):
        ctx = context(tmp_path / str(number), answer_format=answer_format)
        STAGE.run(ctx)
        texts.append(read_samples(ctx.out / "val.json")[0][0].turns[1].text)
    assert texts == ["So. The answer is B.", "SOLUTION: So.\n###\nANSWER: B."]


def test_equal_inputs_give_equal_bytes(tmp_path):
    """Two runs cannot be told apart."""
    outs = []
    for name in "ab":
        ctx = context(tmp_path / name)
        STAGE.run(ctx)
        outs.append({p.name: p.read_bytes() for p in ctx.out.iterdir()})
    assert outs[0] == outs[1]


def test_a_malformed_problem_is_bad_input(tmp_path):
    """With its file, question and field."""
    ctx = context(tmp_path, problems={**{q: row(q) for q in "124"}, "3": row("3", answer=5)})
    with pytest.raises(BadInput, match=r"problems.json: question 3: answer 5"):
        STAGE.run(ctx)


def test_a_split_of_another_release_is_bad_input(tmp_path):
    """A converted set is complete or there is none."""
    with pytest.raises(BadInput, match=r"split test names 1 of 1 questions that problems\.json lacks: 99"):
        STAGE.run(context(tmp_path, splits={**SPLITS, "test": ["99"]}))


def test_an_unknown_format_is_refused_when_the_recipe_is_read():
    """Not after an hour."""
    with pytest.raises(ValueError, match="no ScienceQA format 'QMC-LEA'"):
        Config(answer_format="QMC-LEA")


def test_a_given_output_is_validated(tmp_path):
    """A folder of converted files can stand in; one that breaks the schema cannot."""
    ctx = context(tmp_path / "own")
    STAGE.run(ctx)
    out = tmp_path / "imported"
    out.mkdir()
    assert import_output(ctx.out, out, ctx.config).values["splits"]["train"]["samples"] == 2
    assert (out / "train.json").read_bytes() == (ctx.out / "train.json").read_bytes()
    (ctx.out / "val.json").write_text('[{"id": "3"}]')
    with pytest.raises(BadInput, match="1 rows break the schema"):
        import_output(ctx.out, out, ctx.config)
