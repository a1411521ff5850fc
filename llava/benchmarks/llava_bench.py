"""LLaVA-Bench: a judge compares each answer with a reference, and no review is ever guessed.

Questions, contexts, references and answers are joined by id and checked for completeness before the first judgement.
A review whose first line is not two scores is asked for again with another seed; after the last try it is kept with
its text, counted as missing and left out of the means. The score is the published one: a ratio of means, so a long
list of weak references cannot be outweighed by one.

The shape of the judge's prompt and the rounding are those of the authors' eval_gpt_review_bench.py and
summarize_gpt_review.py; the wording of the rules (``judge_rules.json``) is this project's own, so its scores do not
compare with published ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from llava.benchmarks.records import (
    MalformedRecords,
    QuestionId,
    field,
    in_order,
    named,
    question_ids,
    read_json,
    read_jsonl,
)

RULES = Path(__file__).parent / "judge_rules.json"
SYSTEM = "You are a helpful and precise assistant for checking the quality of the answer."  # as published
TEMPERATURE, MAX_TOKENS = 0.2, 1024  # as published


class Reply(Protocol):
    @property
    def text(self) -> str: ...


class Judge(Protocol):
    """Anything that answers messages; the teachers of instruction generation are judges too."""

    def answer(self, messages: Sequence[Mapping[str, str]], *, temperature: float, seed: int,
               max_tokens: int) -> Reply: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    question_id: QuestionId
    image: str
    text: str
    category: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """A complete set. contexts: by image name. references: by the text of the question's id."""

    questions: tuple[Question, ...]
    contexts: Mapping[str, str]
    references: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Review:
    """One judgement. scores: (reference, candidate), or None where no reply could be read."""

    question_id: QuestionId
    category: str
    content: str
    scores: tuple[float, float] | None
    attempts: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Relative:
    """relative: the candidate's mean as per cent of the reference's. means: of at most ten points, three decimals."""

    relative: float | None
    reference: float
    candidate: float
    reviews: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    overall: Relative
    by_category: Mapping[str, Relative]
    unparsable: tuple[QuestionId, ...]
    totals: tuple[float, float]

    def as_json(self) -> dict[str, Any]:
        return {"overall": self.overall.relative, "reviews": self.overall.reviews,
                "by_category": {name: r.relative for name, r in self.by_category.items()},
                "unparsable": list(self.unparsable), "totals": list(self.totals)}


def read_bench(folder: Path) -> Bench:
    """questions.jsonl, context.jsonl and references.jsonl of a folder. Raises MalformedRecords if one is incomplete."""
    questions = read_questions(folder / "questions.jsonl")
    contexts = read_contexts(folder / "context.jsonl")
    references = read_texts(folder / "references.jsonl")
    if without := [q.question_id for q in questions if str(q.question_id) not in references]:
        raise MalformedRecords(f"{folder / 'references.jsonl'}: no reference for {len(without)} of {len(questions)} "
                               f"questions: {named(without)}")
    if blind := [q.question_id for q in questions if q.image not in contexts]:
        raise MalformedRecords(f"{folder / 'context.jsonl'}: no context for the pictures of {len(blind)} of "
                               f"{len(questions)} questions: {named(blind)}")
    return Bench(questions=tuple(questions), contexts=contexts, references=references)


def read_questions(path: Path) -> list[Question]:
    """The questions, by id. Raises MalformedRecords."""
    rows = read_jsonl(path)
    questions = []
    for qid, row in zip(question_ids(rows, path), rows, strict=True):
        where = f"{path}: question {qid}"
        questions.append(Question(question_id=qid, image=field(row, "image", str, where),
                                  text=field(row, "text", str, where), category=field(row, "category", str, where)))
    return sorted(questions, key=lambda q: in_order(q.question_id))


def read_texts(path: Path) -> dict[str, str]:
    """Answers or references: the text by question id. Raises MalformedRecords."""
    rows = read_jsonl(path)
    return {str(qid): field(row, "text", str, f"{path}: question {qid}")
            for qid, row in zip(question_ids(rows, path), rows, strict=True)}


def read_contexts(path: Path) -> dict[str, str]:
    """What a judge is told of each picture, by image name.

    A row has ``caption``, or ``captions`` (one a line) and ``instances`` (after a blank line, ``category: [x1, ...]``).
    """
    contexts: dict[str, str] = {}
    for number, row in enumerate(read_jsonl(path), start=1):
        where = f"{path}: row {number}"
        image = field(row, "image", str, where)
        if image in contexts:
            raise MalformedRecords(f"{where}: the picture {image} has a context already")
        if "caption" in row:
            contexts[image] = field(row, "caption", str, where)
            continue
        captions = "\n".join(field(row, "captions", list, where))
        boxes = "\n".join(f"{field(box, 'category', str, where)}: {field(box, 'bbox', list, where)}"
                          for box in row.get("instances", []))
        contexts[image] = f"{captions}\n\n{boxes}" if boxes else captions
    return contexts


def read_rules(path: Path = RULES) -> dict[str, tuple[str, str]]:
    """A judge's rules: category or ``default`` -> (role, prompt), in the shape of the published rule.json.

    Raises MalformedRecords.
    """
    raw = read_json(path)
    if not isinstance(raw, dict):
        raise MalformedRecords(f"{path}: judge rules are an object of {{role, prompt}} by category")
    return {name: (field(rule, "role", str, f"{path}: {name}"), field(rule, "prompt", str, f"{path}: {name}"))
            for name, rule in raw.items()}


def judge_messages(question: Question, context: str, reference: str, candidate: str,
                   rules: Mapping[str, tuple[str, str]]) -> list[dict[str, str]]:
    """The judge's prompt: context, question, reference first, candidate second, rule. Raises MalformedRecords."""
    rule = rules.get(question.category) or rules.get("default")
    if rule is None:
        raise MalformedRecords(f"question {question.question_id}: no judge rule for the category {question.category!r} "
                               f"and none named default; there are {', '.join(sorted(rules))}")
    role, prompt = rule
    content = (f"[Context]\n{context}\n\n[Question]\n{question.text}\n\n"
               f"[{role} 1]\n{reference}\n\n[End of {role} 1]\n\n[{role} 2]\n{candidate}\n\n[End of {role} 2]\n\n"
               f"[System]\n{prompt}\n\n")
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": content}]


def parse_scores(text: str) -> tuple[float, float] | None:
    """The two scores on a review's first line, from 0 to 10, separated by a space or comma; None for anything else."""
    parts = text.split("\n", 1)[0].replace(",", " ").split()
    try:
        scores = [float(part) for part in parts]
    except ValueError:
        return None
    if len(scores) != 2 or not all(math.isfinite(s) and 0 <= s <= 10 for s in scores):
        return None
    return scores[0], scores[1]


def review(bench: Bench, answers: Mapping[str, str], judge: Judge, *, rules: Mapping[str, tuple[str, str]], seed: int,
           max_attempts: int = 3, temperature: float = TEMPERATURE, max_tokens: int = MAX_TOKENS,
           on_progress: Callable[[int, int], None] = lambda _done, _total: None) -> list[Review]:
    """Judge every question's answer. Raises MalformedRecords when an answer is missing."""
    if unanswered := [q.question_id for q in bench.questions if str(q.question_id) not in answers]:
        raise MalformedRecords(f"no answer to {len(unanswered)} of {len(bench.questions)} questions: "
                               f"{named(unanswered)}")
    reviews = []
    for done, question in enumerate(bench.questions, start=1):
        qid = str(question.question_id)
        messages = judge_messages(question, bench.contexts[question.image], bench.references[qid], answers[qid], rules)
        content, scores, attempt = "", None, 0
        while scores is None and attempt < max_attempts:
            content = judge.answer(messages, temperature=temperature, seed=seed + attempt, max_tokens=max_tokens).text
            scores, attempt = parse_scores(content), attempt + 1
        reviews.append(Review(question_id=question.question_id, category=question.category, content=content,
                              scores=scores, attempts=attempt))
        on_progress(done, len(bench.questions))
    return reviews


def summarise(reviews: Sequence[Review]) -> Summary:
    """Scores per category and overall, rounded as published: means to three decimals, their ratio to one."""
    readable = [(r.category, r.scores) for r in reviews if r.scores is not None]
    categories = sorted({r.category for r in reviews})
    pairs = [scores for _, scores in readable]
    return Summary(
        overall=_relative(pairs),
        by_category={name: _relative([s for category, s in readable if category == name]) for name in categories},
        unparsable=tuple(r.question_id for r in reviews if r.scores is None),
        totals=(math.fsum(s[0] for s in pairs), math.fsum(s[1] for s in pairs)))


def _relative(pairs: Sequence[tuple[float, float]]) -> Relative:
    count = len(pairs)
    reference = round(math.fsum(p[0] for p in pairs) / count, 3) if count else 0.0
    candidate = round(math.fsum(p[1] for p in pairs) / count, 3) if count else 0.0
    return Relative(relative=round(candidate / reference * 100, 1) if reference else None,
                    reference=reference, candidate=candidate, reviews=count)


def review_record(review: Review) -> dict[str, Any]:
    """A row of a review file, in the official fields; ``tuple`` is null where no reply could be read."""
    return {"question_id": review.question_id, "category": review.category, "content": review.content,
            "tuple": list(review.scores) if review.scores else None, "attempts": review.attempts}
