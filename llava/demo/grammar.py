"""The demo's teacher of instructions: a grammar, not a language model.

It is given what a language-model teacher is given, captions and boxes as text, never a scene or a picture, and answers
in the same form. Everything it says follows from that text: a question is asked only where the text settles the
answer. A short question gets one short answer, always in the same words (``A dog.``, ``Three.``, ``At the top left is
a dog.``), so that answers can be compared as words; what is where is said in a sentence that names both, since a model
finds one by the other.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llava.demo.vocabulary import (
    BACKGROUNDS,
    CELLS,
    GROUP_OF,
    GROUP_PLURALS,
    GROUPS,
    NUMBERS,
    cell_of,
    counted,
    in_words,
    plural,
    with_article,
)

KINDS = ("conversation", "detail", "complex")
Box = tuple[str, Sequence[float]]
"""A category, and left, top, right and bottom as fractions of the picture's width and height."""

_NAMES, _CELLS, _BACKGROUNDS = ("|".join(words) for words in (GROUP_OF, CELLS, BACKGROUNDS))
_NAME_FIRST = re.compile(rf"\ban? ({_NAMES}) (?:at|in) the ({_CELLS})\b", re.IGNORECASE)
_PLACE_FIRST = re.compile(rf"\b(?:at|in) the ({_CELLS}) is an? ({_NAMES})\b", re.IGNORECASE)
_BACKGROUND = re.compile(rf"\b({_BACKGROUNDS})\b", re.IGNORECASE)
_BOX = re.compile(r"^(?P<category>[^:\[\]]+): \[(?P<numbers>[-\d.eE, ]+)\]$")

WHAT = ("What is in the picture?", "What does the picture show?", "What can you see in the picture?",
        "What is there?")
BESIDES = ("What is in the picture besides the {n}?", "Apart from the {n}, what is in the picture?",
           "What else is there, apart from the {n}?")
HOW_MANY = ("How many things are in the picture?", "How many things do you see?", "How many things are there?")
HOW_MANY_OF = ("How many {p} are in the picture?", "How many {p} are there?")
BACKGROUND = ("What is the background?", "Which background does the picture have?", "What is in the background?",
              "What is behind everything?")
WHERE = ("Where is the {n}?", "Where in the picture is the {n}?", "In which part of the picture is the {n}?")
WHAT_AT = ("What is at the {c}?", "What is in the {c} of the picture?", "What do you see at the {c}?")
IS_THERE = ("Is there {a} in the picture?", "Can you see {a}?")
"""Questions with one short answer. ``{n}`` a name, ``{a}`` it with its article, ``{p}`` its plural, ``{c}`` a place."""

GROUP_QUESTIONS = {
    "animal": "Which of these things is alive and moves by itself?",
    "food": "I am hungry. What here could I eat?",
    "vehicle": "I have to travel. What here could take me somewhere?",
    "plant": "What here needs soil or water to grow?",
    "instrument": "I would like to play some music. What here could I use?",
    "object": "What here was made to be used, but is no food, no vehicle and no instrument?",
}


@dataclass(frozen=True, slots=True)
class Placed:
    """A thing, and the place that its middle lies in; None when the text does not tell."""

    name: str
    cell: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What the text settles."""

    placed: tuple[Placed, ...]
    background: str | None

    @property
    def counts(self) -> Counter[str]:
        return Counter(p.name for p in self.placed)

    @property
    def located(self) -> bool:
        return bool(self.placed) and all(p.cell is not None for p in self.placed)


def respond(context: str, kind: str, seed: int) -> str:
    """The teacher's reply to a context as text: captions a line each, then lines ``category: [x1, y1, x2, y2]``."""
    captions: list[str] = []
    boxes: list[Box] = []
    for line in context.splitlines():
        found = _BOX.match(line.strip())
        if found:
            boxes.append((found["category"], [float(x) for x in found["numbers"].split(",")]))
        elif line.strip():
            captions.append(line.strip())
    return answer(kind, captions, boxes, seed)


def answer(kind: str, captions: Sequence[str], boxes: Sequence[Box], seed: int) -> str:
    """The teacher's reply: ``Question:`` and ``Answer:`` blocks for conversation and complex, a paragraph for detail.

    Raises ValueError for another kind, or when there is neither a caption nor a box.
    """
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is not a kind of instruction; the grammar knows {', '.join(KINDS)}")
    if not captions and not boxes:
        raise ValueError("the context has no caption and no box")
    facts = understand(captions, boxes)
    rng = random.Random(f"{kind}/{seed}/{'|'.join(captions)}")
    if kind == "detail":
        return describe(facts, rng) if facts.placed else " ".join(captions)
    if not facts.placed:  # captions of things that the grammar has no words for
        pairs = [("What does the picture show?", captions[0])]
    else:
        pairs = conversation(facts, rng) if kind == "conversation" else [reason(facts, rng)]
    return "\n===\n".join(f"Question:\n{q}\n===\nAnswer:\n{a}" for q, a in pairs)


def understand(captions: Sequence[str], boxes: Sequence[Box]) -> Facts:
    """What captions and boxes settle. Boxes tell things and places where there are any, else the captions do."""
    backgrounds = Counter(b.lower() for c in captions for b in _BACKGROUND.findall(c))
    background = backgrounds.most_common(1)[0][0] if backgrounds else None
    if boxes:
        placed = [Placed(n, cell_of((b[0] + b[2]) / 2, (b[1] + b[3]) / 2)) for n, b in boxes]
    else:
        found = {(n.lower(), c.lower()) for text in captions for n, c in _NAME_FIRST.findall(text)}
        found |= {(n.lower(), c.lower()) for text in captions for c, n in _PLACE_FIRST.findall(text)}
        placed = [Placed(n, CELLS.index(c)) for n, c in found]
    return Facts(placed=tuple(sorted(placed, key=lambda p: (p.cell or 0, p.name))), background=background)


def conversation(facts: Facts, rng: random.Random) -> list[tuple[str, str]]:
    """Questions with their short answers, of every kind that the facts settle.

    Each thing's place is asked for once, by the thing or by the place, and a list of all things comes last, so that
    few answers can be read off earlier ones.
    """
    pairs = [_how_many(facts, rng), _background(facts, rng), _is_there(facts, rng), *places(facts, rng)]
    rng.shuffle(pairs)
    what = _what(facts, rng)
    pairs.insert(len(pairs) if len(facts.placed) > 2 else rng.randint(0, len(pairs)), what)
    return [pair for pair in pairs if pair]


def _what(facts: Facts, rng: random.Random) -> tuple[str, str] | None:
    counts = facts.counts
    if len(facts.placed) == 2 == len(counts) and rng.random() < 0.7:
        name, other = rng.sample(sorted(counts), 2)
        return rng.choice(BESIDES).format(n=name), _short(with_article(other))
    if not counts:
        return None
    return rng.choice(WHAT), _short(in_words([counted_up(n, c) for n, c in counts.items()]))


def counted_up(name: str, count: int) -> str:
    """As ``counted``, for any number."""
    return counted(name, count) if count < len(NUMBERS) else f"{count} {plural(name)}"


def _how_many(facts: Facts, rng: random.Random) -> tuple[str, str] | None:
    repeated = [n for n, c in facts.counts.items() if c > 1]
    if facts.placed and (rng.random() < 0.8 or not repeated):
        return rng.choice(HOW_MANY), _short(_number(len(facts.placed)))
    if not repeated:
        return None
    name = rng.choice(repeated)
    return rng.choice(HOW_MANY_OF).format(p=plural(name)), _short(_number(facts.counts[name]))


def _background(facts: Facts, rng: random.Random) -> tuple[str, str] | None:
    return (rng.choice(BACKGROUND), _short(facts.background)) if facts.background else None


def places(facts: Facts, rng: random.Random) -> Iterator[tuple[str, str]]:
    """What is where: the place of a thing, what is at a place, sometimes an empty place."""
    if not facts.located:
        return
    by_cell = {c: [p.name for p in facts.placed if p.cell == c] for c in range(len(CELLS))}
    for cell, names in by_cell.items():
        if len(names) == 1 and facts.counts[names[0]] == 1 and rng.random() < 0.4:
            yield rng.choice(WHERE).format(n=names[0]), where_answer(names[0], cell)
        elif names:
            said = in_words([counted_up(n, c) for n, c in Counter(names).items()])
            yield rng.choice(WHAT_AT).format(c=CELLS[cell]), what_at_answer(cell, said)
    empty = [c for c, names in by_cell.items() if not names]
    if empty and rng.random() < 0.3:
        cell = rng.choice(empty)
        yield rng.choice(WHAT_AT).format(c=CELLS[cell]), what_at_answer(cell, "nothing")


def where_answer(name: str, cell: int) -> str:
    return f"The {name} is at the {CELLS[cell]}."


def what_at_answer(cell: int, said: str) -> str:
    return f"At the {CELLS[cell]} is {said}."


def _is_there(facts: Facts, rng: random.Random) -> tuple[str, str] | None:
    if not facts.placed:
        return None
    absent = [n for n in GROUP_OF if n not in facts.counts]
    yes = rng.random() < 0.5
    name = rng.choice(sorted(facts.counts)) if yes else rng.choice(absent)
    return rng.choice(IS_THERE).format(a=with_article(name)), "Yes." if yes else "No."


def describe(facts: Facts, rng: random.Random) -> str:
    """A paragraph with every fact: how many things, on what, what is where, which places are empty."""
    count = len(facts.placed)
    number = "one thing" if count == 1 else f"{_number(count)} things"
    on = f" on {facts.background}" if facts.background else ""
    sentences = [rng.choice((f"The picture shows {number}{on}.",
                             f"There {'is' if count == 1 else 'are'} {number}{on} in this picture."))]
    if facts.located:
        order = list(facts.placed)
        shape = rng.choice(("{A} is at the {c}.", "At the {c} there is {a}."))
        sentences += [shape.format(A=_capital(with_article(p.name)), a=with_article(p.name), c=CELLS[p.cell or 0])
                      for p in order]
        empty = [c for i, c in enumerate(CELLS) if i not in {p.cell for p in order}]
        if empty:
            places = in_words([f"the {c}" for c in empty])
            sentences.append(f"{_capital(places)} {'is' if len(empty) == 1 else 'are'} empty.")
    else:
        sentences.append(f"It shows {in_words([counted_up(n, c) for n, c in facts.counts.items()])}.")
    return " ".join(sentences)


def reason(facts: Facts, rng: random.Random) -> tuple[str, str]:
    """A question that needs knowing what the things are for, and an answer that gives its reason."""
    groups = {GROUP_OF[n] for n in facts.counts if n in GROUP_OF}
    group = rng.choice(sorted(groups)) if groups and rng.random() < 0.7 else rng.choice(sorted(GROUPS))
    fitting = [p for p in facts.placed if GROUP_OF.get(p.name) == group]
    said = [f"the {p.name}" + (f" at the {CELLS[p.cell]}" if p.cell is not None else "") for p in fitting]
    others = [n for n in facts.counts if GROUP_OF.get(n) != group]
    kind = f"{with_article(group)}"
    if not fitting:
        return GROUP_QUESTIONS[group], (f"Nothing in the picture is {kind}: it shows only "
                                        f"{in_words([counted_up(n, facts.counts[n]) for n in others])}.")
    many = len(fitting) > 1
    text = f"{_capital(in_words(said))}, because {'they are ' + GROUP_PLURALS[group] if many else 'it is ' + kind}."
    if others:
        named = in_words([f"the {n}" for n in others])
        text += f" {_capital(named)} {'is' if len(others) == 1 and facts.counts[others[0]] == 1 else 'are'} not."
    return GROUP_QUESTIONS[group], text


def _number(count: int) -> str:
    return NUMBERS[count] if count < len(NUMBERS) else str(count)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _short(text: str) -> str:
    return f"{_capital(text)}."
