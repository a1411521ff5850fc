"""The rubric judge: points for the facts that an answer shares with the reference. No language model, and it says so.

It reads the same prompt as a language-model judge and answers in the same form, so that the whole path from question
to score can be run without one. What it does, in full:

* A fact is a count with what is counted, a position with its object, a word beside ``background``, or any other word
  that carries meaning (``object``). Plurals are folded; words of grammar are left out.
* recall: the share of the reference's facts that the answer names. precision: the share of the answer's facts that the
  reference or the context names.
* points = 1 + 9 x the harmonic mean of the two, rounded. The reference is scored by the same rule and so gets 10.

It cannot tell a well-put answer from a list of the right words, nor see a fact that is phrased in other words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llava.benchmarks.answer_text import words
from llava.benchmarks.records import MalformedRecords

NAME = "rubric judge, not a language model"
SECTIONS = re.compile(
    r"\[Context\]\n(?P<context>.*)\n\n\[Question\]\n(?P<question>.*)\n\n"
    r"\[(?P<role>[^\]\n]+) 1\]\n(?P<reference>.*)\n\n\[End of (?P=role) 1\]\n\n"
    r"\[(?P=role) 2\]\n(?P<candidate>.*)\n\n\[End of (?P=role) 2\]\n\n\[System\]\n", re.DOTALL)
POSITIONS = frozenset((
    "left", "right", "above", "below", "top", "bottom", "under", "over", "behind", "between", "beside", "middle",
    "centre", "center", "upper", "lower", "near",
))
GRAMMAR = frozenset((
    "and", "or", "but", "with", "of", "in", "on", "at", "to", "from", "by", "for", "as", "into", "against", "is",
    "are", "was", "were", "be", "been", "being", "it", "its", "this", "that", "these", "those", "there", "here",
    "he", "she", "they", "them", "their", "his", "her", "you", "your", "we", "our", "i", "my", "me", "which", "who",
    "what", "where", "when", "how", "why", "not", "than", "then", "so", "such", "also", "both", "each", "other",
    "another", "some", "any", "all", "more", "most", "very", "can", "could", "may", "might", "would", "should",
    "will", "do", "does", "did", "have", "has", "had", "picture", "image", "photo", "scene", "shows", "showing",
    "shown", "show", "see", "seen", "appears", "visible", "side", "next", "front", "set", "placed", "located",
))
CLAUSES = re.compile(r"[.,;:!?]|\band\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Fact:
    """kind: count, position, background or object. of: what a count or position belongs to, where the text says."""

    kind: str
    word: str
    of: str | None = None

    def agrees(self, other: Fact) -> bool:
        """A beach is the same beach whether or not the text calls it the background."""
        kinds = {self.kind, other.kind}
        return (len(kinds) == 1 or kinds == {"object", "background"}) and self.word == other.word and (
            self.of == other.of or self.of is None or other.of is None)

    def __str__(self) -> str:
        return " ".join(part for part in (self.kind, self.word, self.of) if part)


@dataclass(frozen=True, slots=True)
class RubricReply:
    text: str


class RubricJudge:
    """Answers a judge's prompt by the rubric. Temperature, seed and token limit change nothing: there is no chance."""

    name = NAME

    def answer(self, messages: Sequence[Mapping[str, Any]], *, temperature: float = 0.0, seed: int = 0,
               max_tokens: int = 0) -> RubricReply:
        """Raises MalformedRecords when the last message is not a judge's prompt."""
        found = SECTIONS.search(messages[-1]["content"])
        if found is None:
            raise MalformedRecords("the rubric judge reads only prompts with the sections [Context], [Question], "
                                   "[Assistant 1], [Assistant 2] and [System]")
        context = facts(found["context"])
        own, _ = _points(found["reference"], found["reference"], context)
        points, why = _points(found["candidate"], found["reference"], context)
        return RubricReply(f"{own} {points}\n{NAME}: {why}")


def facts(text: str) -> tuple[Fact, ...]:
    """The facts that a text states, each once, in the order of the text."""
    found: dict[Fact, None] = {}
    for clause in CLAUSES.split(text):
        found.update(dict.fromkeys(_facts_of_clause(words(clause))))
    return tuple(found)


def _facts_of_clause(tokens: Sequence[str]) -> list[Fact]:
    """A count belongs to the next object. A position belongs to the object before it (``a dog at the top left``), or
    to the next one after ``of`` (``left of a dog``) or where none stands before (``at the top left is a dog``)."""
    found: list[Fact] = []
    waiting: list[tuple[str, str]] = []
    last: str | None = None
    for i, token in enumerate(tokens):
        if token.isdecimal():
            waiting.append(("count", token))
        elif token in POSITIONS:
            if last is None or tokens[i + 1:i + 2] == ["of"]:
                waiting.append(("position", token))
            else:
                found.append(Fact("position", token, last))
        elif token not in GRAMMAR and token != "background":
            last = _singular(token)
            found += [Fact(kind, word, last) for kind, word in waiting]
            waiting = []
            near = [t for t in tokens[max(i - 2, 0):i + 3] if t not in GRAMMAR or t == "background"]
            at = near.index(token)
            is_background = "background" in near[max(at - 1, 0):at + 2]
            found.append(Fact("background" if is_background else "object", last))
    return [*found, *(Fact(kind, word) for kind, word in waiting)]


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return f"{word[:-3]}y"
    if word.endswith(("sses", "xes", "ches", "shes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3 else word


def _points(answer: str, reference: str, context: Sequence[Fact]) -> tuple[int, str]:
    """Points of an answer, and the reason in a sentence."""
    stated, wanted = facts(answer), facts(reference)
    missing = [f for f in wanted if not any(f.agrees(s) for s in stated)]
    foreign = [f for f in stated if not any(f.agrees(k) for k in (*wanted, *context))]
    recall = 1 - len(missing) / len(wanted) if wanted else float(words(answer) == words(reference))
    precision = 1 - len(foreign) / len(stated) if stated else 0.0
    if not wanted:
        precision = recall
    mean = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    why = f"the answer names {len(wanted) - len(missing)} of the {len(wanted)} facts of the reference"
    if missing:
        why += f" (not: {', '.join(map(str, missing))})"
    if foreign:
        why += f"; {len(foreign)} of its {len(stated)} facts are in neither reference nor context"
        why += f" ({', '.join(map(str, foreign))})"
    return 1 + round(9 * mean), why
