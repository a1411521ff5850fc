"""generate_instructions: questions and answers about pictures, from a teacher that only reads captions and boxes.

Each kind's quota is filled with the images in an order drawn by seed: the next images are asked for until enough
answers are accepted or the images are used up. An answer is recorded as an observation, keyed by the digest of its
request, before it is parsed; so a rerun asks only what was never answered, and the set depends on seed and answers
alone, never on the order in which they come in.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from llava.instructions.parse import Kind, Parsed, Reason
from pipelines.stage import BadInput, Result, RunSettings, Source, Stage, StageContext, StepConfig

if TYPE_CHECKING:
    from llava.instructions.context import SymbolicContext
    from llava.instructions.teachers import Teacher


OUTSTANDING = 1024  # requests waiting for their turn at once


class TeachingRun(RunSettings):
    """How the teacher is asked. Never in the key: an answer, once recorded, is final."""

    concurrency: int = Field(default=8, ge=1, description="requests at once")
    request_timeout_s: float = Field(default=120.0, gt=0)
    request_retries: int = Field(default=5, ge=0, description="further tries, with back-off; Retry-After counts")
    api_key_env: str = Field(default="OPENAI_API_KEY", description="environment variable that holds the endpoint's key")


class Quotas(BaseModel):
    """Samples of each kind; 0 takes one of every image."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    conversation: int = Field(default=58_000, ge=0)  # paper, section 3: 58K, 23K and 77K
    detail: int = Field(default=23_000, ge=0)
    complex: int = Field(default=77_000, ge=0)


class Config(StepConfig):
    """Who teaches what, from which annotations. Temperature and length are ours: the paper names none."""

    run: TeachingRun = TeachingRun()  # pyright: ignore[reportIncompatibleVariableOverride]
    captions: Source | None = Field(default=None, description="COCO captions JSON (2014 or 2017)")
    instances: Source | None = Field(default=None, description="COCO instances JSON of the same images")
    teacher: Literal["grammar", "openai"] = Field(default="openai", description="any endpoint of OpenAI's API, or the "
                                                                "demo's program (no language model)")
    base_url: str = Field(default="https://api.openai.com/v1", description="of the endpoint, for teacher openai")
    model: str = Field(default="gpt-4", description="for teacher openai")  # paper, section 3
    temperature: float = Field(default=0.7, ge=0)
    max_tokens: int = Field(default=1024, ge=1)
    quotas: Quotas = Quotas()
    conversation_boxes: bool = Field(default=False, description="show boxes for conversations, too; the paper does not")


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the teacher said of one image."""

    context: SymbolicContext
    kind: Kind
    reply: Mapping[str, Any]
    parsed: Parsed | Reason


class Classroom:
    """Asks the teacher, each request once. Answers come from the record where there is one."""

    def __init__(self, ctx: StageContext, teacher: Teacher, name: str) -> None:
        """name: what is asked, part of each request's digest."""
        self.ctx = ctx
        self.teacher = teacher
        self.name = name
        self.num_asked = 0
        self.num_recorded = 0

    def ask(self, contexts: Sequence[SymbolicContext], kind: Kind) -> Iterator[Answer]:
        """Answers in the order of the contexts. Raises what the teacher raises; answers before that are recorded."""
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(self.ctx.config.run.concurrency) as pool:
            for start in range(0, len(contexts), OUTSTANDING):
                yield from pool.map(lambda c: self._answer(c, kind), contexts[start:start + OUTSTANDING])

    def _answer(self, context: SymbolicContext, kind: Kind) -> Answer:
        from llava.instructions.parse import parse
        from llava.instructions.samples import request_for
        from llava.instructions.teachers import request_digest

        config: Config = self.ctx.config
        messages, seed = request_for(context, kind, self.ctx.seed, conversation_boxes=config.conversation_boxes)
        knobs = {"temperature": config.temperature, "seed": seed, "max_tokens": config.max_tokens}
        digest = request_digest(self.name, messages, **knobs)
        reply = self.ctx.observations.get(digest)
        if reply is None:
            reply = self.ctx.observations.record(digest, self.teacher.answer(messages, **knobs).to_json())
            self.num_asked += 1
        else:
            self.num_recorded += 1
        parsed = (Reason.REQUEST_REFUSED if reply["finish_reason"] == "refused"
                  else parse(kind, reply["text"], reply["finish_reason"]))
        return Answer(context=context, kind=kind, reply=reply, parsed=parsed)


def fill_quota(classroom: Classroom, contexts: Sequence[SymbolicContext], kind: Kind, quota: int,
               seed: int) -> Iterator[Answer]:
    """Answers until the quota is accepted; in waves of what is still missing, so that none is asked for in vain."""
    from llava.instructions.samples import order_of_asking

    waiting = order_of_asking(contexts, kind, seed)
    missing = quota or len(waiting)
    while missing and waiting:
        wave, waiting = waiting[:missing], waiting[missing:]
        for answer in classroom.ask(wave, kind):
            missing -= isinstance(answer.parsed, Parsed)
            yield answer


def run(ctx: StageContext) -> Result:
    """Read, ask, parse, write. Raises BadInput for annotations or a teacher that a person must mend."""
    from llava.instructions.context import BadAnnotations, read_coco
    from llava.instructions.teachers import TeacherMisconfigured

    config: Config = ctx.config
    try:
        annotations = read_coco(ctx.source("captions"), ctx.source("instances"))
        teacher, name = make_teacher(config)
        classroom = Classroom(ctx, teacher, name)
        answers = list(_all_answers(ctx, classroom, annotations.contexts))
    except (BadAnnotations, TeacherMisconfigured) as error:
        raise BadInput(str(error)) from None
    answers.sort(key=lambda a: (list(Kind).index(a.kind), a.context.id))
    report = summarise(answers, config, name, num_images=len(annotations.contexts), skipped=annotations.skipped)
    accepted = sum(k["accepted"] for k in report["kinds"].values())
    if not accepted:
        raise BadInput(f"the teacher ({name}) gave no usable answer: {report['kinds']}")
    write(ctx.out, answers, report, ctx.seed)
    return Result(values={"teacher": name, "kinds": report["kinds"]},
                  metrics={"instructions_accepted": accepted, "instructions_rejected": len(answers) - accepted,
                           "teacher_requests": classroom.num_asked, "teacher_answers_reused": classroom.num_recorded})


def make_teacher(config: Config) -> tuple[Teacher, str]:
    """The teacher, and the name under which its requests and reports go."""
    from llava.instructions.teachers import GRAMMAR, GrammarTeacher, OpenAITeacher

    if config.teacher == "grammar":
        return GrammarTeacher(), GRAMMAR
    return OpenAITeacher(base_url=config.base_url, model=config.model, api_key_env=config.run.api_key_env,
                         timeout_s=config.run.request_timeout_s, retries=config.run.request_retries), config.model


def _all_answers(ctx: StageContext, classroom: Classroom, contexts: Sequence[SymbolicContext]) -> Iterator[Answer]:
    quotas = ctx.config.quotas.model_dump()
    wanted = sum(min(quotas[k.value] or len(contexts), len(contexts)) for k in Kind)
    done = 0
    for kind in Kind:
        for answer in fill_quota(classroom, contexts, kind, quotas[kind.value], ctx.seed):
            done += isinstance(answer.parsed, Parsed)
            ctx.progress(done, wanted, "instruction samples")
            yield answer


def summarise(answers: Sequence[Answer], config: Config, teacher: str, *, num_images: int,
              skipped: Mapping[str, int]) -> dict[str, Any]:
    """Counts that add up: of each kind, images = asked + not asked, and asked = accepted + rejected by reason."""
    kinds: dict[str, Any] = {}
    for kind in Kind:
        own = [a for a in answers if a.kind is kind]
        reasons = Counter(a.parsed.value for a in own if isinstance(a.parsed, Reason))
        accepted = [a.parsed for a in own if isinstance(a.parsed, Parsed)]
        kinds[kind.value] = {
            "images": num_images, "asked": len(own), "not_asked": num_images - len(own), "accepted": len(accepted),
            "rejected": dict(sorted(reasons.items())), "turns": sum(2 * len(p.pairs) for p in accepted),
            "quota": getattr(config.quotas, kind.value) or num_images}
    usage = Counter[str]()
    for answer in answers:
        usage.update(answer.reply["usage"])
    return {"teacher": teacher, "models": sorted({a.reply["model"] for a in answers}), "kinds": kinds,
            "conversation_boxes": config.conversation_boxes, "annotations_skipped": dict(skipped),
            "usage": dict(sorted(usage.items()))}


def write(folder: Path, answers: Sequence[Answer], report: Mapping[str, Any], seed: int) -> None:
    """chat.json (a record a line), rejected.jsonl and report.json."""
    from llava.instructions.samples import sample

    records = [sample(a.context, a.kind, a.parsed, seed, a.reply["model"])
               for a in answers if isinstance(a.parsed, Parsed)]
    lines = ",\n".join(json.dumps(r, ensure_ascii=False) for r in records)
    (folder / "chat.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    with open(folder / "rejected.jsonl", "w", encoding="utf-8") as file:
        for a in answers:
            if isinstance(a.parsed, Reason):
                file.write(json.dumps({"kind": a.kind.value, "id": a.context.id, "image": a.context.image,
                                       "reason": a.parsed.value, **a.reply}, ensure_ascii=False) + "\n")
    (folder / "report.json").write_text(json.dumps(report, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def import_output(given: Path, out: Path, config: Config) -> Result:
    """Instruction data that exists already: a file in the published schema, or a folder that holds ``chat.json``.

    Raises BadInput naming the first row that breaks the schema.
    """
    import shutil

    from llava.conversations import BadConversations, read_samples

    file = given / "chat.json" if given.is_dir() else given
    try:
        samples, violations = read_samples(file)
    except BadConversations as error:
        raise BadInput(str(error)) from None
    if violations or not samples:
        raise BadInput(f"{file} has {len(samples)} usable rows and {len(violations)} that break the schema"
                       + (f", first {violations[0]}" if violations else ""))
    shutil.copyfile(file, out / "chat.json")
    (out / "rejected.jsonl").touch()
    report = {"teacher": "given", "samples": len(samples)}
    (out / "report.json").write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")
    return Result(values=report)


STAGE = Stage(
    name="generate_instructions",
    config=Config,
    run=run,
    needs=("captions", "instances"),
    import_output=import_output,
    package_data=("llava/instructions/prompts/**/*.txt",),
    libraries=("openai",),
)
