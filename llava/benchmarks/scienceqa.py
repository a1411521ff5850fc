"""ScienceQA: official problems and splits in, samples of the published schema out.

A problem is read whole and checked, or the file is refused with its id and field. The text of a sample is that of the
authors' converter (their ``convert_sqa_to_llava``), for every format ``<question side>-<answer side>``:

    question side  QCM (question, context, options) or CQM (context first)
    answer side    the order of Answer, Lecture and Explanation: A, ALE, LEA, ...; LEPA is that of the paper's models

One difference, on purpose: their AL held the explanation and their AE the lecture; here a letter means what it says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava.benchmarks.records import MalformedRecords, field, named, read_json
from llava.conversations import Sample
from llava.templates import ASSISTANT, HUMAN, IMAGE, Turn

LETTERS = "ABCDE"
SUBJECTS = ("natural science", "social science", "language science")
QUESTION_SIDES = ("QCM", "CQM")
ANSWER_SIDES = ("A", "AL", "AE", "ALE", "AEL", "LA", "EA", "LEA", "ELA", "LEPA")


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One multiple-choice question. answer: index into choices; grade: 1 to 12; hint, lecture, solution may be ''."""

    qid: str
    question: str
    choices: tuple[str, ...]
    answer: int
    hint: str
    image: str | None
    grade: int
    subject: str
    lecture: str
    solution: str

    @property
    def image_name(self) -> str | None:
        """Where the picture lies in the official image folder: ``<qid>/image.png``."""
        return f"{self.qid}/{self.image}" if self.image else None


def read_problems(path: Path) -> dict[str, Problem]:
    """The official ``problems.json`` by question id. Raises MalformedRecords naming the file, question and field."""
    raw = read_json(path)
    if not isinstance(raw, dict) or not raw:
        raise MalformedRecords(f"{path}: the official problems.json is an object of problems by question id")
    return {qid: _problem(qid, row, f"{path}: question {qid}") for qid, row in raw.items()}


def _problem(qid: str, row: Any, where: str) -> Problem:
    if not isinstance(row, dict):
        raise MalformedRecords(f"{where}: a problem is an object, found {type(row).__name__}")
    choices = field(row, "choices", list, where)
    if not 2 <= len(choices) <= len(LETTERS) or not all(isinstance(c, str) for c in choices):
        raise MalformedRecords(f"{where}: choices must be 2 to {len(LETTERS)} texts, found {choices!r}")
    answer = field(row, "answer", int, where)
    if not 0 <= answer < len(choices):
        raise MalformedRecords(f"{where}: answer {answer} is not an index into its {len(choices)} choices")
    grade = field(row, "grade", str, where)
    number = grade.removeprefix("grade")
    if not number.isdecimal() or not 1 <= int(number) <= 12:
        raise MalformedRecords(f"{where}: grade must be grade1 to grade12, found {grade!r}")
    subject = field(row, "subject", str, where)
    if subject not in SUBJECTS:
        raise MalformedRecords(f"{where}: subject must be one of {', '.join(SUBJECTS)}, found {subject!r}")
    return Problem(
        qid=qid, question=field(row, "question", str, where), choices=tuple(choices), answer=answer,
        hint=field(row, "hint", str, where), image=field(row, "image", (str, type(None)), where) or None,
        grade=int(number), subject=subject, lecture=field(row, "lecture", str, where),
        solution=field(row, "solution", str, where))


def read_splits(path: Path) -> dict[str, tuple[str, ...]]:
    """The official ``pid_splits.json``: split name -> question ids in the file's order. Raises MalformedRecords."""
    raw = read_json(path)
    if not isinstance(raw, dict):
        raise MalformedRecords(f"{path}: the official pid_splits.json is an object of lists of question ids by split")
    splits = {}
    for name, ids in raw.items():
        if not isinstance(ids, list) or not all(isinstance(i, (str, int)) for i in ids):
            raise MalformedRecords(f"{path}: split {name} must be a list of question ids")
        qids = tuple(str(i) for i in ids)
        if len(set(qids)) < len(qids):
            raise MalformedRecords(f"{path}: split {name} names question {_first_repeated(qids)} twice")
        splits[name] = qids
    return splits


def _first_repeated(qids: Sequence[str]) -> str:
    seen: set[str] = set()
    return next(q for q in qids if q in seen or seen.add(q))


def problems_of(problems: Mapping[str, Problem], splits: Mapping[str, Sequence[str]], split: str) -> list[Problem]:
    """The problems of one split, in its order. Raises MalformedRecords for an unknown split or an absent problem."""
    if split not in splits:
        raise MalformedRecords(f"there is no split {split!r}; the splits are {', '.join(sorted(splits))}")
    absent = [qid for qid in splits[split] if qid not in problems]
    if absent:
        raise MalformedRecords(f"split {split} names {len(absent)} of {len(splits[split])} questions that "
                               f"problems.json lacks: {named(absent)}; give the two files of one release")
    return [problems[qid] for qid in splits[split]]


def sides(answer_format: str) -> tuple[str, str]:
    """``QCM-LEA`` as its question side and answer side. Raises MalformedRecords for a format that does not exist."""
    question_side, _, answer_side = answer_format.partition("-")
    if question_side not in QUESTION_SIDES or answer_side not in ANSWER_SIDES:
        raise MalformedRecords(f"there is no ScienceQA format {answer_format!r}: write one of "
                               f"{', '.join(QUESTION_SIDES)}, a hyphen, and one of {', '.join(ANSWER_SIDES)}")
    return question_side, answer_side


def question_text(problem: Problem, question_side: str) -> str:
    """The human side, without the picture's token."""
    context = problem.hint.strip() or "N/A"
    options = " ".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, problem.choices, strict=False))
    if question_side == "CQM":
        text = f"Context: {context}\nQuestion: {problem.question}\nOptions: {options}\n"
        return _tidy(text)
    # The converter strips its own prefix with a replacement that also meets later occurrences.
    return _tidy(f"Question: {problem.question}\nContext: {context}\nOptions: {options}\n").replace("Question: ", "")


def answer_text(problem: Problem, answer_side: str) -> str:
    """The assistant's side: the answer with its lecture and explanation in the order of the letters."""
    letter = LETTERS[problem.answer]
    if answer_side == "LEPA":
        lecture = f"LECTURE: {problem.lecture}\n" if problem.lecture.strip() else ""
        solution = f"SOLUTION: {problem.solution}\n" if problem.solution.strip() else ""
        return _tidy(f"{lecture}{solution}###\nANSWER: {letter}.")
    parts = {"A": f"The answer is {letter}.", "L": problem.lecture, "E": problem.solution}
    if answer_side.startswith("A") and len(answer_side) > 1:
        parts["A"] += " BECAUSE:"
    text = _tidy("Answer: " + " ".join(parts[side] for side in answer_side))
    if text.endswith("BECAUSE:"):
        text = text.replace("BECAUSE:", "").strip()
    return text.replace("Answer: ", "")


def _tidy(text: str) -> str:
    """As published: pairs of spaces become one, once; ends are stripped."""
    return text.replace("  ", " ").strip()


def to_sample(problem: Problem, answer_format: str) -> Sample:
    """A training or evaluation sample; the picture, if there is one, stands after the question."""
    question_side, answer_side = sides(answer_format)
    question = question_text(problem, question_side)
    picture = problem.image_name
    return Sample(id=problem.qid, images=(picture,) if picture else (), turns=(
        Turn(HUMAN, f"{question}\n{IMAGE}" if picture else question),
        Turn(ASSISTANT, answer_text(problem, answer_side))))
