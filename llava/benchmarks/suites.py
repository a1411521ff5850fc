"""A suite: the prompts of one benchmark, and the score of a model's answers to them.

What is asked and how it is scored stand side by side, so that a prompt is never scored by another benchmark's rule.
Prompts come in the order of question ids; a score is a function of the answers alone (and of the judge's).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from llava.benchmarks import llava_bench, probe, scienceqa, scienceqa_scores, tables
from llava.benchmarks.records import QuestionId, in_order
from llava.templates import IMAGE


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """One question to a model. text: the human turn, with ``<image>`` where the picture stands. image: its name."""

    benchmark: str
    question_id: QuestionId
    text: str
    image: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """values: JSON, for the gate. table: for people. reviews: a judge's rows, for the record."""

    values: Mapping[str, Any]
    table: tables.Table
    reviews: tuple[Mapping[str, Any], ...] = ()


Answers = Mapping[str, Mapping[str, str]]
"""benchmark -> the text of the question's id -> the model's text."""


class Suite(Protocol):
    name: str

    def prompts(self) -> list[Prompt]: ...

    def score(self, answers: Answers) -> Scored: ...


class Probe:
    """Every question twice: with its own picture and with another's."""

    name = "probe"
    swapped = "probe_swapped"

    def __init__(self, path: Path, limit: int | None = None) -> None:
        self.questions = _first_of_each_kind(probe.read_probe(path), limit)

    def prompts(self) -> list[Prompt]:
        return [Prompt(benchmark=benchmark, question_id=q.question_id, text=f"{IMAGE}\n{q.text}", image=image(q))
                for benchmark, image in ((self.name, lambda q: q.image), (self.swapped, lambda q: q.swapped_image))
                for q in self.questions]

    def score(self, answers: Answers) -> Scored:
        scores = probe.score_probe(self.questions, answers[self.name], answers[self.swapped])
        return Scored(values=scores.as_json(), table=tables.probe_table(scores))


def _first_of_each_kind(questions: list[probe.ProbeQuestion], limit: int | None) -> list[probe.ProbeQuestion]:
    """The first questions in equal shares of the kinds, so that a short probe still tells of each."""
    if limit is None:
        return questions
    kinds = sorted({q.kind for q in questions})
    share = max(1, limit // len(kinds))
    chosen = [q for kind in kinds for q in [q for q in questions if q.kind == kind][:share]]
    return sorted(chosen, key=lambda q: in_order(q.question_id))


class ScienceQA:
    """One split, asked in the format of the training and scored by the strict rule."""

    name = "scienceqa"

    def __init__(self, problems: Path, splits: Path, split: str, answer_format: str, limit: int | None = None) -> None:
        found = scienceqa.problems_of(scienceqa.read_problems(problems), scienceqa.read_splits(splits), split)
        self.problems = sorted(found, key=lambda p: in_order(p.qid))[:limit]
        self.answer_format = answer_format

    def prompts(self) -> list[Prompt]:
        return [Prompt(benchmark=self.name, question_id=problem.qid, image=problem.image_name,
                       text=scienceqa.to_sample(problem, self.answer_format).turns[0].text)
                for problem in self.problems]

    def score(self, answers: Answers) -> Scored:
        labels = {problem.qid: scienceqa_scores.label_of(problem) for problem in self.problems}
        outputs = {qid: scienceqa_scores.finish_lepa(text) for qid, text in answers[self.name].items()}
        scores = scienceqa_scores.score(labels, scienceqa_scores.Predictions(outputs=outputs),
                                        scienceqa_scores.Rule.STRICT)
        return Scored(values=scores.as_json(), table=tables.scienceqa_table(scores))


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeSettings:
    """temperature and max_tokens as published; max_attempts: how often an unreadable review is asked for."""

    temperature: float = llava_bench.TEMPERATURE
    max_tokens: int = llava_bench.MAX_TOKENS
    max_attempts: int = 3
    seed: int = 0


class LlavaBench:
    """Open questions, judged against references."""

    name = "llava_bench"

    def __init__(self, folder: Path, judge: llava_bench.Judge, judge_name: str, settings: JudgeSettings,
                 limit: int | None = None, on_progress: Callable[[int, int], None] = lambda _d, _t: None) -> None:
        bench = llava_bench.read_bench(folder)
        self.bench = replace(bench, questions=bench.questions[:limit])
        self.judge, self.judge_name, self.settings, self.on_progress = judge, judge_name, settings, on_progress

    def prompts(self) -> list[Prompt]:
        return [Prompt(benchmark=self.name, question_id=q.question_id, text=f"{IMAGE}\n{q.text}", image=q.image)
                for q in self.bench.questions]

    def score(self, answers: Answers) -> Scored:
        reviews = llava_bench.review(
            self.bench, answers[self.name], self.judge, rules=llava_bench.read_rules(), seed=self.settings.seed,
            max_attempts=self.settings.max_attempts, temperature=self.settings.temperature,
            max_tokens=self.settings.max_tokens, on_progress=self.on_progress)
        summary = llava_bench.summarise(reviews)
        return Scored(values={**summary.as_json(), "judge": self.judge_name},
                      table=tables.llava_bench_table(summary, self.judge_name),
                      reviews=tuple(llava_bench.review_record(review) for review in reviews))
