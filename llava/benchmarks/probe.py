"""The probe: questions with one short right answer, asked with their own picture and with another's.

An accuracy means something only beside two others: that of guessing (``chance``: the best constant answer to a kind, or
what the file says a guess from the text gets right, whichever is more) and that with pictures swapped. A model that
looks is right with its own picture and near chance with the other's; one that guesses is as good with either.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava.benchmarks.answer_text import normalise
from llava.benchmarks.records import (
    MalformedRecords,
    QuestionId,
    field,
    in_order,
    named,
    question_ids,
    read_jsonl,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeQuestion:
    """swapped_image: another scene's picture. chance: share that the file says a guess from the text gets right."""

    question_id: QuestionId
    image: str
    swapped_image: str
    kind: str
    text: str
    answer: str
    chance: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy:
    """Shares from 0 to 1 over ``total`` questions."""

    total: int
    correct: int
    accuracy: float
    chance: float
    swapped: float

    def as_json(self) -> dict[str, Any]:
        return {"total": self.total, "correct": self.correct, "accuracy": self.accuracy, "chance": self.chance,
                "swapped": self.swapped}


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeScores:
    """overall: over all questions, its chance that of guessing in each kind."""

    overall: Accuracy
    kinds: Mapping[str, Accuracy]

    def as_json(self) -> dict[str, Any]:
        return {"overall": self.overall.accuracy, "chance": self.overall.chance, "swapped": self.overall.swapped,
                "sight": round(self.overall.accuracy - self.overall.swapped, 4), "total": self.overall.total,
                "correct": self.overall.correct, "kinds": {kind: a.as_json() for kind, a in self.kinds.items()}}


def read_probe(path: Path) -> list[ProbeQuestion]:
    """The questions, by id. Raises MalformedRecords naming the file, question and field."""
    rows = read_jsonl(path)
    questions = []
    for qid, row in zip(question_ids(rows, path), rows, strict=True):
        where = f"{path}: question {qid}"
        chance = field(row, "chance", (int, float), where) if "chance" in row else 0.0
        question = ProbeQuestion(question_id=qid, chance=chance, **{name: field(row, name, str, where) for name in (
            "image", "swapped_image", "kind", "text", "answer")})
        if not normalise(question.answer):
            raise MalformedRecords(f"{where}: the answer {question.answer!r} holds no word")
        if question.image == question.swapped_image:
            raise MalformedRecords(f"{where}: swapped_image is the question's own picture {question.image}")
        questions.append(question)
    return sorted(questions, key=lambda q: in_order(q.question_id))


def is_correct(question: ProbeQuestion, text: str) -> bool:
    return normalise(text) == normalise(question.answer)


def score_probe(questions: Sequence[ProbeQuestion], answers: Mapping[str, str],
                swapped_answers: Mapping[str, str]) -> ProbeScores:
    """Accuracy per kind and overall. answers, swapped_answers: the model's text by the text of the question's id.

    Raises MalformedRecords when a question is not answered with both pictures.
    """
    for texts, what in ((answers, "their own"), (swapped_answers, "swapped")):
        if missing := [q.question_id for q in questions if str(q.question_id) not in texts]:
            raise MalformedRecords(f"{len(missing)} of {len(questions)} questions are not answered with {what} "
                                   f"pictures: {named(missing)}")
    guessed = {kind: _guessed([q for q in questions if q.kind == kind]) for kind in sorted({q.kind for q in questions})}

    def over(chosen: Sequence[ProbeQuestion]) -> Accuracy:
        right = sum(is_correct(q, answers[str(q.question_id)]) for q in chosen)
        swapped = sum(is_correct(q, swapped_answers[str(q.question_id)]) for q in chosen)
        chance, total = sum(guessed[kind] for kind in sorted({q.kind for q in chosen})), len(chosen)
        return Accuracy(total=total, correct=right, accuracy=round(right / total, 4), chance=round(chance / total, 4),
                        swapped=round(swapped / total, 4))

    return ProbeScores(overall=over(questions),
                       kinds={kind: over([q for q in questions if q.kind == kind]) for kind in guessed})


def _guessed(questions: Sequence[ProbeQuestion]) -> float:
    """How many questions of one kind a guess gets right."""
    constant = Counter(normalise(q.answer) for q in questions).most_common(1)[0][1]
    return max(constant, sum(q.chance for q in questions))
