"""ScienceQA scores: every question of the labels is counted once, under a rule that the table names.

    strict      an unusable or out-of-range answer, or none, is wrong and counted by kind
    historical  the authors' first scorer: such an answer becomes a random choice (here drawn by seed and question, so
                that it can be repeated) and a question without a prediction is left out of the count
    stored      the choice that the file itself stores beside its texts, as published tables were made

Published figures hold guesses, so a strict score and a historical one are never printed under one name.
"""

from __future__ import annotations

import csv
import enum
import random
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava.benchmarks.records import MalformedRecords, field, question_ids, read_json, read_jsonl
from llava.benchmarks.scienceqa import LETTERS, SUBJECTS, Problem

SENTENCE = re.compile(r"The answer is ([A-Z]).")  # as published: the dot matches any character
LEPA_ANSWER = re.compile(r"###\s*ANSWER: ([A-Z])\b\.?")
COLUMNS = ("NAT", "SOC", "LAN", "TXT", "IMG", "NO", "G1-6", "G7-12", "Avg")  # paper, table 7


class Rule(enum.Enum):
    """How an answer becomes a choice."""

    STRICT = "strict"
    HISTORICAL = "historical"
    STORED = "stored"


class Unusable(enum.Enum):
    """Why a prediction is not a choice of its question."""

    MISSING = "missing"  # no prediction for the question
    NO_ANSWER = "no_answer"  # the text states none
    SEVERAL = "several_answers"  # the text states more than one
    OUT_OF_RANGE = "out_of_range"  # a letter or index that the question does not have


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """What scoring needs to know of a question. answer: index of the right choice."""

    qid: str
    answer: int
    num_choices: int
    has_text: bool
    has_image: bool
    grade: int
    subject: str

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the paper's table 7 in which the question counts; TXT and IMG overlap."""
        return (("NAT", "SOC", "LAN")[SUBJECTS.index(self.subject)],
                *(("TXT",) if self.has_text else ()), *(("IMG",) if self.has_image else ()),
                *(() if self.has_text or self.has_image else ("NO",)),
                "G1-6" if self.grade <= 6 else "G7-12", "Avg")


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """outputs: question id -> the model's text. results: question id -> the choice that the file stores."""

    outputs: Mapping[str, str] | None = None
    results: Mapping[str, int] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    correct: int
    total: int

    @property
    def accuracy(self) -> float | None:
        """Per cent, two decimals; None for a column without a question."""
        return round(100 * self.correct / self.total, 2) if self.total else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """columns: by name, in the order of COLUMNS. unusable: reason -> question ids. unknown: predictions unlabelled."""

    rule: Rule
    columns: Mapping[str, Column]
    unusable: Mapping[Unusable, tuple[str, ...]]
    unknown: int

    @property
    def num_unusable(self) -> int:
        return sum(len(ids) for ids in self.unusable.values())

    def as_json(self) -> dict[str, Any]:
        average = self.columns["Avg"]
        return {"rule": self.rule.value, "correct": average.correct, "total": average.total,
                "unusable": self.num_unusable, "accuracy": average.accuracy,
                "columns": {name: column.accuracy for name, column in self.columns.items()}}


def label_of(problem: Problem) -> Label:
    return Label(qid=problem.qid, answer=problem.answer, num_choices=len(problem.choices), grade=problem.grade,
                 has_text=bool(problem.hint), has_image=problem.image is not None, subject=problem.subject)


def read_labels(path: Path) -> dict[str, Label]:
    """Labels from a CSV with the columns qid, answer, n_choices, has_text, has_image, grade, subject.

    Raises MalformedRecords naming the line and the field.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError) as error:
        raise MalformedRecords(f"{path}: cannot be read: {error}") from None
    labels: dict[str, Label] = {}
    for number, row in enumerate(rows, start=2):
        label = _label(row, f"{path}:{number}")
        if label.qid in labels:
            raise MalformedRecords(f"{path}:{number}: question {label.qid} occurs twice")
        labels[label.qid] = label
    if not labels:
        raise MalformedRecords(f"{path}: holds no label")
    return labels


def _label(row: Mapping[str, Any], where: str) -> Label:
    def number(name: str) -> int:
        text = field(row, name, str, where)
        if not text.strip().isdecimal():
            raise MalformedRecords(f"{where}: the field {name!r} must be a whole number, found {text!r}")
        return int(text)

    subject = field(row, "subject", str, where)
    if subject not in SUBJECTS:
        raise MalformedRecords(f"{where}: subject must be one of {', '.join(SUBJECTS)}, found {subject!r}")
    label = Label(qid=field(row, "qid", str, where), answer=number("answer"), num_choices=number("n_choices"),
                  has_text=bool(number("has_text")), has_image=bool(number("has_image")), grade=number("grade"),
                  subject=subject)
    if not label.answer < label.num_choices <= len(LETTERS):
        raise MalformedRecords(f"{where}: answer {label.answer} is not an index into {label.num_choices} choices")
    return label


def read_predictions(path: Path) -> Predictions:
    """A result file of others: JSON with ``outputs`` or ``results`` by question id, or answer JSONL.

    Raises MalformedRecords for anything else.
    """
    if path.suffix == ".jsonl":
        rows = read_jsonl(path)
        ids = question_ids(rows, path)
        return Predictions(outputs={str(qid): field(row, "text", str, f"{path}: question {qid}")
                                    for qid, row in zip(ids, rows, strict=True)})
    raw = read_json(path)
    if not isinstance(raw, dict) or not ("outputs" in raw or "results" in raw):
        raise MalformedRecords(f"{path}: a prediction file is JSON with 'outputs' (texts) or 'results' (choices) by "
                               "question id, or JSON lines with question_id and text (named .jsonl)")
    return Predictions(outputs=_by_question(raw, "outputs", str, path), results=_by_question(raw, "results", int, path))


def _by_question(raw: Mapping[str, Any], name: str, kind: type, path: Path) -> dict[str, Any] | None:
    if name not in raw:
        return None
    table = field(raw, name, dict, str(path))
    return {qid: field(table, qid, kind, f"{path}: {name}") for qid in table}


def parse_strict(text: str, num_choices: int) -> int | Unusable:
    """The choice that a text states: a bare letter, a letter and ``". "``, or one sentence ``The answer is X.``

    Source: the authors' eval_science_qa.py, with an out-of-range letter named apart.
    """
    if len(text) == 1 and text in LETTERS:
        letter = text
    elif len(text) >= 3 and text[0] in LETTERS and text[1:3] == ". ":
        letter = text[0]
    else:
        stated = SENTENCE.findall(text)
        if len(stated) != 1:
            return Unusable.SEVERAL if stated else Unusable.NO_ANSWER
        letter = stated[0]
    choice = LETTERS.find(letter)
    return choice if 0 <= choice < num_choices else Unusable.OUT_OF_RANGE


def parse_historical(text: str, num_choices: int) -> int | Unusable:
    """The first scorer knew only the sentence."""
    stated = SENTENCE.findall(text)
    if len(stated) != 1:
        return Unusable.SEVERAL if stated else Unusable.NO_ANSWER
    choice = LETTERS.find(stated[0])
    return choice if 0 <= choice < num_choices else Unusable.OUT_OF_RANGE


def score(labels: Mapping[str, Label], predictions: Predictions, rule: Rule, seed: int = 0) -> Scores:
    """Score predictions against the labels. ``seed`` draws the guesses of the historical rule.

    Raises MalformedRecords when the predictions do not hold what the rule reads.
    """
    read: Mapping[str, Any] | None = predictions.results if rule is Rule.STORED else predictions.outputs
    if read is None:
        needed, other = ("results", "strict") if rule is Rule.STORED else ("outputs", "stored")
        raise MalformedRecords(f"the rule {rule.value} reads {needed!r}, which the predictions lack; "
                               f"score them with --rule {other}")
    correct, total = Counter[str](), Counter[str]()
    unusable: dict[Unusable, list[str]] = {}
    for qid, label in labels.items():
        choice = _choice(read.get(qid), label, rule)
        if isinstance(choice, Unusable):
            unusable.setdefault(choice, []).append(qid)
            if rule is Rule.HISTORICAL:
                if choice is Unusable.MISSING:
                    continue
                choice = random.Random(f"{seed}:{qid}").randrange(label.num_choices)
        total.update(label.columns)
        if choice == label.answer:
            correct.update(label.columns)
    return Scores(rule=rule, columns={c: Column(correct=correct[c], total=total[c]) for c in COLUMNS},
                  unusable={reason: tuple(ids) for reason, ids in unusable.items()},
                  unknown=len(read.keys() - labels.keys()))


def _choice(prediction: Any, label: Label, rule: Rule) -> int | Unusable:
    if prediction is None:
        return Unusable.MISSING
    if rule is Rule.STORED:
        return prediction if 0 <= prediction < label.num_choices else Unusable.OUT_OF_RANGE
    return (parse_strict if rule is Rule.STRICT else parse_historical)(prediction, label.num_choices)


def score_file(path: Path, labels: Mapping[str, Label], rule: Rule) -> Scores:
    """Score a prediction file of others against the labels. Raises MalformedRecords."""
    return score(labels, read_predictions(path), rule)


def finish_lepa(text: str) -> str:
    """An answer of the LEPA format (``... ### ANSWER: B.``) with its ending as the sentence that the scorers read."""
    return LEPA_ANSWER.sub(r"The answer is \1.", text)
