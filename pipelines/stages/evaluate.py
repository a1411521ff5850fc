"""evaluate: what a model answers to every question of its benchmarks, and what those answers score.

Questions are cut into batches by identity and answers are written in order of identity, so neither workers nor
arrival show in the artifact. No question is left out: one without a picture, an answer or a reference stops the step
with its id. Answers of an outside judge are observations: asked for once, then final.

Output: answers/<benchmark>.jsonl in the official fields, reviews.jsonl where there is a judge, scores.json, report.md.
Values: the scores by benchmark, and the digest of the model that earned them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from llava.benchmarks.records import Answer, MalformedRecords, named, write_jsonl
from llava.benchmarks.rubric import RubricJudge
from llava.benchmarks.scienceqa import sides
from llava.benchmarks.suites import JudgeSettings, LlavaBench, Probe, Prompt, ScienceQA, Suite
from llava.benchmarks.tables import Table, as_markdown, as_rich
from pipelines.answering import Ask, Told, answer_all
from pipelines.stage import BadInput, Result, Source, Stage, StageContext, StepConfig

if TYPE_CHECKING:
    from llava.benchmarks.llava_bench import Judge
    from llava.instructions.teachers import Teacher, TeacherReply
    from pipelines.observations import Observations

REQUEST_TIMEOUT_S, REQUEST_RETRIES = 120.0, 5  # of a judge behind an API


class Decoding(BaseModel):
    """How answers are generated; stored with the scores. The batch size is part of it: padding shows in last bits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_new_tokens: int = Field(default=1024, ge=1)
    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    batch_size: int = Field(default=16, ge=1)


class JudgeConfig(BaseModel):
    """Who reviews LLaVA-Bench answers. An API key is named by its variable, never given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["rubric", "openai"] = "rubric"
    base_url: str = "https://api.openai.com/v1"
    model: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    temperature: float = Field(default=0.2, ge=0)  # as published
    max_tokens: int = Field(default=1024, ge=1)  # as published
    max_attempts: int = Field(default=3, ge=1)


class Config(StepConfig):
    bench: Source | None = Field(None, description="folder with questions.jsonl, context.jsonl, references.jsonl")
    probe: Source | None = Field(None, description="questions.jsonl with one short right answer each")
    problems: Source | None = Field(None, description="the official ScienceQA problems.json")
    splits: Source | None = Field(None, description="the official ScienceQA pid_splits.json")
    images: Source | None = Field(None, description="image shards, or a folder of picture files")
    split: str = "test"
    answer_format: str = Field("QCM-LEA", description="ScienceQA format of the training")
    limit: int | None = Field(None, ge=1, description="at most so many questions of each benchmark")
    decoding: Decoding = Decoding()
    judge: JudgeConfig = JudgeConfig()

    @field_validator("answer_format")
    @classmethod
    def _known(cls, value: str) -> str:
        sides(value)
        return value

    @model_validator(mode="after")
    def _complete(self) -> Config:
        if self.bench and self.judge.kind == "openai" and not self.judge.model:
            raise ValueError("a judge of kind openai needs a model, such as judge.model=NAME")
        if self.problems and not self.splits:
            raise ValueError("problems needs splits, the official pid_splits.json")
        return self


class RecordedJudge:
    """A judge whose every reply is recorded before it is read, so that a rerun asks only what was never answered."""

    def __init__(self, teacher: Teacher, name: str, observations: Observations) -> None:
        self.teacher, self.name, self.observations = teacher, name, observations

    def answer(self, messages: Sequence[Mapping[str, str]], *, temperature: float, seed: int,
               max_tokens: int) -> TeacherReply:
        """Raises BadInput when no request can succeed before a person mends the judge's settings."""
        from llava.instructions.teachers import TeacherMisconfigured, TeacherReply, request_digest

        digest = request_digest(self.name, messages, temperature=temperature, seed=seed, max_tokens=max_tokens)
        reply = self.observations.get(digest)
        if reply is None:
            try:
                given = self.teacher.answer(messages, temperature=temperature, seed=seed, max_tokens=max_tokens)
            except TeacherMisconfigured as error:
                raise BadInput(f"the judge cannot be asked: {error}") from None
            reply = self.observations.record(digest, given.to_json())
        return TeacherReply(**reply)


def run(ctx: StageContext) -> Result:
    try:
        suites = _suites(ctx)
        prompts = [prompt for suite in suites for prompt in suite.prompts()]
        told = _ask(ctx, prompts)
        _write_answers(ctx, prompts, told)
        answers: dict[str, dict[str, str]] = {}
        for prompt, answer in zip(prompts, told, strict=True):
            answers.setdefault(prompt.benchmark, {})[str(prompt.question_id)] = answer.text
        scored = {suite.name: suite.score(answers) for suite in suites}
    except MalformedRecords as error:
        raise BadInput(str(error)) from None
    if reviews := [row for s in scored.values() for row in s.reviews]:
        write_jsonl(ctx.out / "reviews.jsonl", reviews)
    values = {"model_digest": ctx.input("model").digest, **{name: s.values for name, s in scored.items()}}
    _report(ctx, values, [s.table for s in scored.values()], sum(answer.finish_reason == "length" for answer in told))
    return Result(values=values, metrics=dict(_numbers(values)))


def _suites(ctx: StageContext) -> list[Suite]:
    config: Config = ctx.config
    suites: list[Suite] = []
    if ctx.has_source("bench"):
        judge, name = _judge(ctx)
        settings = JudgeSettings(temperature=config.judge.temperature, max_tokens=config.judge.max_tokens,
                                 max_attempts=config.judge.max_attempts, seed=ctx.seed)
        suites.append(LlavaBench(ctx.source("bench"), judge, name, settings, config.limit,
                                 lambda done, total: ctx.progress(done, total, "reviews")))
    if ctx.has_source("probe"):
        suites.append(Probe(ctx.source("probe"), config.limit))
    if ctx.has_source("problems"):
        suites.append(ScienceQA(ctx.source("problems"), ctx.source("splits"), config.split, config.answer_format,
                                config.limit))
    if not suites:
        raise BadInput(f"{ctx.step} has nothing to evaluate on: set {ctx.step}.bench, {ctx.step}.probe, or "
                       f"{ctx.step}.problems and {ctx.step}.splits")
    return suites


def _judge(ctx: StageContext) -> tuple[Judge, str]:
    """The judge, and what it is called in the report."""
    judge: JudgeConfig = ctx.config.judge
    if judge.kind == "rubric":
        return RubricJudge(), RubricJudge.name
    from llava.instructions.teachers import OpenAITeacher, TeacherMisconfigured

    try:
        teacher = OpenAITeacher(base_url=judge.base_url, model=judge.model or "", api_key_env=judge.api_key_env,
                                timeout_s=REQUEST_TIMEOUT_S, retries=REQUEST_RETRIES)
    except TeacherMisconfigured as error:
        raise BadInput(f"{ctx.step}.judge: {error}") from None
    name = f"{judge.model} at {judge.base_url}"
    return RecordedJudge(teacher, name, ctx.observations), name


def _ask(ctx: StageContext, prompts: Sequence[Prompt]) -> list[Told]:
    """The model's answer to each prompt, in their order. Raises BadInput when a picture is missing."""
    config: Config = ctx.config
    pictures = _pictures(ctx, prompts)
    batches = [batch for name in dict.fromkeys(p.benchmark for p in prompts)
               for batch in _cut([p for p in prompts if p.benchmark == name], config.decoding.batch_size)]
    asks = [[Ask(name=f"{p.benchmark}, question {p.question_id}", text=p.text,
                 picture=pictures[p.image] if p.image else None) for p in batch] for batch in batches]
    decoding = {**config.decoding.model_dump(exclude={"batch_size"}), "seed": ctx.seed}
    return answer_all(ctx.input("model").file("assistant"), asks, decoding, ctx.run,
                      lambda done: ctx.progress(done, len(prompts), "answers"))


def _cut(prompts: Sequence[Prompt], size: int) -> list[Sequence[Prompt]]:
    return [prompts[start:start + size] for start in range(0, len(prompts), size)]


def _pictures(ctx: StageContext, prompts: Sequence[Prompt]) -> Mapping[str, bytes]:
    from llava.images import ImageStore

    wanted = {p.image for p in prompts if p.image}
    if not wanted:
        return {}
    store = ImageStore.open(ctx.source("images"))
    if missing := [p for p in prompts if p.image and p.image not in store]:
        raise BadInput(f"{ctx.step}.images has {len(store)} pictures, but not those of {len(missing)} questions: "
                       f"{missing[0].image} and others, for {named(p.question_id for p in missing)}")
    return store


def _write_answers(ctx: StageContext, prompts: Sequence[Prompt], told: Sequence[Told]) -> None:
    model = ctx.input("model").digest[:16]
    rows: dict[str, list[dict[str, Any]]] = {}
    for prompt, reply in zip(prompts, told, strict=True):
        answer = Answer(question_id=prompt.question_id, prompt=prompt.text, text=reply.text, model_id=model,
                        metadata={"image": prompt.image, "finish_reason": reply.finish_reason})
        rows.setdefault(prompt.benchmark, []).append(answer.as_json())
    for benchmark, answers in rows.items():
        write_jsonl(ctx.out / "answers" / f"{benchmark}.jsonl", answers)


def _report(ctx: StageContext, values: Mapping[str, Any], tables: Sequence[Table], num_cut: int) -> None:
    """scores.json, report.md, and the tables in the step's log."""
    from rich.console import Console

    config: Config = ctx.config
    settings = {"decoding": config.decoding.model_dump(), "limit": config.limit}
    (ctx.out / "scores.json").write_text(json.dumps({**values, **settings}, indent=1, sort_keys=True) + "\n")
    limited = f"\n\nAt most {config.limit} questions of each benchmark were asked." if config.limit else ""
    if num_cut:
        limited += f"\n\n{num_cut} answers were cut at {config.decoding.max_new_tokens} tokens."
    head = (f"# {ctx.step}\n\nModel {ctx.input('model').digest[:16]}; decoding "
            f"{', '.join(f'{k} {v}' for k, v in config.decoding.model_dump().items())}.{limited}")
    (ctx.out / "report.md").write_text("\n\n".join([head, *(as_markdown(table).rstrip() for table in tables)]) + "\n")
    console = Console(width=120)
    for table in tables:
        console.print(as_rich(table))


def _numbers(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{prefix}{key}", float(value)


STAGE = Stage(name="evaluate", config=Config, run=run, inputs=("model",), needs=("bench|probe|problems",),
              package_data=("llava/benchmarks/judge_rules.json",), libraries=("torch", "transformers", "pillow"))
