import json
from dataclasses import dataclass, field

import pytest
import torch

from llava.benchmarks.records import read_jsonl, write_jsonl
from llava.images import write_image_shards
from llava.instructions.teachers import TeacherMisconfigured, TeacherReply
from llava.model import AssistantConfig, LlavaModel
from pipelines.observations import Observations
from pipelines.stage import BadInput, InputArtifact, Result, StageContext
from pipelines.stages.evaluate import STAGE, Config, RecordedJudge
from pipelines.stages.gate import score_named
from pipelines.store import open_store
from tests.pipelines.stages.stage_context import stage_context
from tests.tiny import picture, write_base_models

NUM_QUESTIONS = 6


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small assistant of the real architecture, whose words depend on the picture."""
    folder = tmp_path_factory.mktemp("model")
    base = write_base_models(folder / "base")
    model = LlavaModel.from_parts(base / "vision_tower", base / "language_model",
                                  AssistantConfig(template="v1", max_length=512))
    with torch.no_grad():
        for weight in (*model.language_model.parameters(), model.projector.weight):
            if weight.ndim == 2:
                weight *= 12
    model.save(folder / "artifact" / "assistant")
    return folder / "artifact"


@pytest.fixture
def world(tmp_path):
    return write_world(tmp_path)


def write_world(tmp_path):
    """Inputs of all benchmarks over a few pictures."""
    names = [f"{i}.png" for i in range(NUM_QUESTIONS + 1)]
    rows = sorted([("9/image.png", picture((9, 9, 9))),
                   *((name, picture((40 * i, 255 - 40 * i, 7))) for i, name in enumerate(names))])
    write_image_shards(rows, tmp_path / "images")
    write_jsonl(tmp_path / "probe.jsonl", [
        {"question_id": i, "image": names[i], "swapped_image": names[i + 1], "kind": ("count", "what")[i % 2],
         "text": f"How many, scene {i}?", "answer": "two"} for i in range(NUM_QUESTIONS)])
    write_jsonl(tmp_path / "bench" / "questions.jsonl", [
        {"question_id": i, "image": names[i], "text": "What?", "category": "conv"} for i in range(3)])
    write_jsonl(tmp_path / "bench" / "context.jsonl", [
        {"id": n, "image": n, "caption": "Two dogs."} for n in names])
    write_jsonl(tmp_path / "bench" / "references.jsonl", [{"question_id": i, "text": "Two dogs."} for i in range(3)])
    row = {"question": "Solid?", "choices": ["rock", "water"], "answer": 0, "hint": "", "image": None,
           "grade": "grade2", "subject": "natural science", "lecture": "", "solution": ""}
    (tmp_path / "problems.json").write_text(json.dumps({"10": row, "9": {**row, "image": "image.png"}}))
    (tmp_path / "pid_splits.json").write_text(json.dumps({"test": ["10", "9"]}))
    return tmp_path


def context(world, model, name="ctx", workers=1, batch_size=4, sources=("bench", "probe", "problems"), **changes):
    given = {"bench": {"bench": str(world / "bench")}, "probe": {"probe": str(world / "probe.jsonl")},
             "problems": {"problems": str(world / "problems.json"), "splits": str(world / "pid_splits.json")}}
    fields = {k: v for source in sources for k, v in given[source].items()}
    config = Config(**{
        "images": str(world / "images"), "decoding": {"max_new_tokens": 6, "batch_size": batch_size},
        "run": {"num_workers": workers, "cpus_per_worker": 0.5}, **fields, **changes})
    return stage_context(STAGE, world / name, config, {"model": InputArtifact.of_folder(model, digest="d" * 64)})


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@dataclass
class Evaluated:
    """One run over all benchmarks, by two workers."""

    context: StageContext
    result: Result
    seen: list[tuple[str, int, int]]

    @property
    def out(self):
        return self.context.out


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, model, cluster):
    seen = []
    ctx = context(write_world(tmp_path_factory.mktemp("evaluated")), model, workers=2)
    ctx.on_progress = lambda done, total, what: seen.append((what, done, total))
    return Evaluated(context=ctx, result=STAGE.run(ctx), seen=seen)


@pytest.mark.slow
def test_every_question_is_answered_once_and_scored(evaluated):
    """All benchmarks of a run: answers in official fields and in order, scores, a report with a table each."""
    ctx, result, seen = evaluated.context, evaluated.result, evaluated.seen
    assert set(files(ctx.out)) == {"answers/llava_bench.jsonl", "answers/probe.jsonl", "answers/probe_swapped.jsonl",
                                   "answers/scienceqa.jsonl", "reviews.jsonl", "scores.json", "report.md"}
    own = read_jsonl(ctx.out / "answers/probe.jsonl")
    assert [row["question_id"] for row in own] == list(range(NUM_QUESTIONS))
    assert set(own[0]) == {"question_id", "prompt", "text", "answer_id", "model_id", "metadata"}
    swapped = read_jsonl(ctx.out / "answers/probe_swapped.jsonl")
    assert [row["text"] for row in own] != [row["text"] for row in swapped]
    assert [row["question_id"] for row in read_jsonl(ctx.out / "answers/scienceqa.jsonl")] == ["9", "10"]
    assert ("answers", 17, 17) in seen and ("reviews", 3, 3) in seen
    for name in ("probe.overall", "probe.kinds.count.accuracy", "llava_bench.overall", "scienceqa.accuracy"):
        assert score_named(result.values, name) is not None
        assert result.metrics[name] == score_named(result.values, name)
    assert result.values["model_digest"] == "d" * 64
    assert json.loads((ctx.out / "scores.json").read_text())["probe"] == result.values["probe"]
    assert all(title in (ctx.out / "report.md").read_text() for title in ("## Probe", "## LLaVA-Bench", "## ScienceQA"))


@pytest.mark.slow
def test_the_number_of_workers_does_not_show(world, model, evaluated):
    """One worker and two give the same bytes."""
    ctx = context(world, model, workers=1, sources=("probe",))
    STAGE.run(ctx)
    both = files(evaluated.out)
    for name in ("answers/probe.jsonl", "answers/probe_swapped.jsonl"):
        assert files(ctx.out)[name] == both[name]


@pytest.mark.slow
def test_a_prompt_that_is_too_long_is_named(world, model, cluster):
    """The question that the model cannot take stops the step, by its id."""
    rows = read_jsonl(world / "probe.jsonl")
    rows[3]["text"] = "How many? " * 400
    write_jsonl(world / "probe.jsonl", rows)
    with pytest.raises(BadInput, match=r"^probe, question 3: the prompt has \d+ tokens"):
        STAGE.run(context(world, model, sources=("probe",)))


def test_a_missing_picture_is_named_before_anything_is_asked(world, model):
    """By its name and its questions."""
    rows = read_jsonl(world / "probe.jsonl")
    rows[2]["image"] = "gone.png"
    write_jsonl(world / "probe.jsonl", rows)
    with pytest.raises(BadInput, match=r"not those of 1 questions: gone.png .* for 2"):
        STAGE.run(context(world, model, sources=("probe",)))


def test_nothing_to_evaluate_on_is_bad_input(world, model):
    """The error says what to set."""
    with pytest.raises(BadInput, match=r"set evaluate.bench, evaluate.probe"):
        STAGE.run(context(world, model, sources=()))


def test_a_malformed_benchmark_is_bad_input(world, model):
    """With its file and row, before a model is loaded."""
    (world / "probe.jsonl").write_text('{"question_id": 0, "image": "0.png"}\n')
    with pytest.raises(BadInput, match=r"probe.jsonl: question 0: the field 'swapped_image' is missing"):
        STAGE.run(context(world, model, sources=("probe",)))


@pytest.fixture
def record(tmp_path):
    """Observations of one step, in a store of its own."""
    return Observations(open_store(f"file://{tmp_path}/store"), "evaluate", "key")


@dataclass
class Counting:
    """A teacher that says how often it was asked."""

    asked: list[int] = field(default_factory=list)

    def answer(self, messages, *, temperature, seed, max_tokens):
        self.asked.append(seed)
        return TeacherReply(text=f"8 {len(self.asked)}", finish_reason="stop", model="m")


def test_a_judge_is_asked_once_and_its_answer_is_final(record):
    """The same request is read from the record; another seed or another judge is another request."""
    teacher = Counting()
    messages = [{"role": "user", "content": "?"}]

    def ask(seed, name="judge"):
        return RecordedJudge(teacher, name, record).answer(messages, temperature=0.2, seed=seed, max_tokens=9).text

    assert [ask(1), ask(1), ask(2), ask(1), ask(1, "other")] == ["8 1", "8 1", "8 2", "8 1", "8 3"]
    assert teacher.asked == [1, 2, 1]


def test_a_judge_that_cannot_be_asked_is_bad_input(world, model, monkeypatch):
    """A missing key is named by its variable; a missing model when the recipe is read."""
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    judge = {"kind": "openai", "model": "m", "api_key_env": "NO_SUCH_KEY"}
    with pytest.raises(BadInput, match=r"evaluate.judge: the environment variable NO_SUCH_KEY"):
        STAGE.run(context(world, model, sources=("bench",), judge=judge))
    with pytest.raises(ValueError, match="needs a model"):
        Config(bench="x", judge={"kind": "openai"})


def test_a_refusing_endpoint_is_bad_input(record):
    """Nothing is recorded of a request that could not be made."""
    class Refusing:
        def answer(self, messages, *, temperature, seed, max_tokens):
            raise TeacherMisconfigured("no such model")

    with pytest.raises(BadInput, match="the judge cannot be asked: no such model"):
        RecordedJudge(Refusing(), "judge", record).answer([], temperature=0, seed=0, max_tokens=1)
    teacher = Counting()
    assert RecordedJudge(teacher, "judge", record).answer([], temperature=0, seed=0, max_tokens=1).text == "8 1"
