"""What the demo's assistant is asked: a LLaVA-Bench-like set, and the probe. Both are about held-out scenes only.

The probe has four kinds in equal shares: what is there (in a picture of one thing), how many, which background, what is
where (in a picture of two to four). In each kind every answer is right equally often, so a guess from the text gets
``chance`` and no better. The swapped picture is
another held-out scene that the same question can be asked about, and its answers are the question's answers shuffled:
a model that looks is then right with the other picture just as often as chance.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from llava.demo import grammar
from llava.demo.drawing import boxes, encode, picture
from llava.demo.phrasing import five_captions
from llava.demo.vocabulary import BACKGROUNDS, CELLS, NUMBERS, with_article
from llava.demo.world import Placement, Scene, WorldSpec, drawings, held_out_scene

PROBE_KINDS = ("what", "count", "background", "where")
DETAIL_QUESTION = "Describe the following image."  # as in the published bench


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A probe question. swapped_answer: what a model that looks would say of the swapped picture."""

    kind: str
    text: str
    answer: str
    choices: tuple[str, ...]
    scene: Scene
    swapped: Scene
    swapped_answer: str


def probe(spec: WorldSpec) -> list[Asked]:
    """``num_probe_per_kind`` questions of each kind, shuffled."""
    makers = {"what": _single, "count": _count, "background": _background, "where": _what_at}
    asked: list[Asked] = []
    for kind in PROBE_KINDS:
        asked += makers[kind](spec, random.Random(f"{spec.seed}/probe/{kind}"), spec.num_probe_per_kind)
    random.Random(f"{spec.seed}/probe").shuffle(asked)
    return asked


def probe_rows(asked: list[Asked]) -> list[dict[str, Any]]:
    return [{"question_id": i, "image": probe_image(i), "swapped_image": probe_image(i, swapped=True), "kind": a.kind,
             "text": a.text, "answer": a.answer, "choices": list(a.choices), "chance": round(1 / len(a.choices), 4),
             "swapped_answer": a.swapped_answer} for i, a in enumerate(asked)]


def probe_image(number: int, *, swapped: bool = False) -> str:
    return f"probe_{number:05d}{'_swapped' if swapped else ''}.png"


def probe_pictures(spec: WorldSpec, asked: list[Asked]) -> Iterator[tuple[str, bytes]]:
    """(name, PNG) of each question's own and swapped picture."""
    for i, a in enumerate(asked):
        yield probe_image(i), encode(picture(a.scene, spec.image_size), "PNG")
        yield probe_image(i, swapped=True), encode(picture(a.swapped, spec.image_size), "PNG")


def _balanced(answers: tuple[Any, ...], number: int, rng: random.Random) -> list[tuple[Any, Any]]:
    """(answer, answer with the swapped picture): each answer equally often, and both shuffled on their own.

    The swapped answer equals the answer as often as by chance, to the nearest question.
    """
    own = [answers[i % len(answers)] for i in range(number)]
    same = round(number / len(answers))
    keep = set(rng.sample(range(number), same))
    swapped = [a if i in keep else rng.choice([b for b in answers if b != a]) for i, a in enumerate(own)]
    pairs = list(zip(own, swapped, strict=True))
    rng.shuffle(pairs)
    return pairs


def _build(kind: str, pairs: list[tuple[Any, Any]], choices: tuple[str, ...], say: Callable[[Any], str],
           ask: Callable[[Any, Any], tuple[str, Scene, Scene]]) -> list[Asked]:
    asked = []
    for own, other in pairs:
        text, scene, swapped = ask(own, other)
        asked.append(Asked(kind=kind, text=text, answer=say(own), choices=choices, scene=scene, swapped=swapped,
                           swapped_answer=say(other)))
    return asked


def _single(spec: WorldSpec, rng: random.Random, number: int) -> list[Asked]:
    """What is in a picture of one thing."""
    names = drawings(spec)

    def scene(name: str) -> Scene:
        return held_out_scene(spec, rng, count=1, fixed=Placement(rng.randrange(len(CELLS)), name))

    return _build("what", _balanced(names, number, rng), names, str,
                  lambda own, other: (rng.choice(grammar.WHAT), scene(own), scene(other)))


def _count(spec: WorldSpec, rng: random.Random, number: int) -> list[Asked]:
    counts = tuple(range(1, len(CELLS) + 1))
    return _build("count", _balanced(counts, number, rng), tuple(NUMBERS[c] for c in counts), lambda c: NUMBERS[c],
                  lambda own, other: (rng.choice(grammar.HOW_MANY), held_out_scene(spec, rng, count=own),
                                      held_out_scene(spec, rng, count=other)))


def _background(spec: WorldSpec, rng: random.Random, number: int) -> list[Asked]:
    return _build("background", _balanced(BACKGROUNDS, number, rng), BACKGROUNDS, str,
                  lambda own, other: (rng.choice(grammar.BACKGROUND), held_out_scene(spec, rng, background=own),
                                      held_out_scene(spec, rng, background=other)))


def _what_at(spec: WorldSpec, rng: random.Random, number: int) -> list[Asked]:
    """What is at a place, in pictures of two to four things."""
    asked = []
    for own, other in _balanced(drawings(spec), number, rng):
        cell = rng.randrange(len(CELLS))

        def said(name: str, cell: int = cell) -> str:
            return grammar.what_at_answer(cell, with_article(name))

        asked.append(Asked(
            kind="where", text=rng.choice(grammar.WHAT_AT).format(c=CELLS[cell]), answer=said(own),
            choices=tuple(said(n) for n in drawings(spec)), scene=_some_with(spec, rng, Placement(cell, own)),
            swapped=_some_with(spec, rng, Placement(cell, other)), swapped_answer=said(other)))
    return asked


def _some_with(spec: WorldSpec, rng: random.Random, fixed: Placement) -> Scene:
    """A scene of two to four things, one of them given."""
    return held_out_scene(spec, rng, count=rng.randint(2, 4), fixed=fixed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """The three files of a LLaVA-Bench, row by row, and its pictures."""

    questions: list[dict[str, Any]]
    context: list[dict[str, Any]]
    references: list[dict[str, Any]]
    pictures: list[tuple[str, bytes]]


def bench(spec: WorldSpec) -> Bench:
    """A question of conversation, of detail and of reasoning about each picture, with the grammar's references."""
    made = Bench(questions=[], context=[], references=[], pictures=[])
    for number in range(1, spec.num_bench_images + 1):
        rng = random.Random(f"{spec.seed}/bench/{number}")
        scene, image = held_out_scene(spec, rng, count=rng.randint(2, 4)), f"bench_{number:03d}.jpg"
        captions = five_captions(scene, rng)
        found = [(place.name, [round(v / spec.image_size, 3) for v in (x, y, x + w, y + h)])
                 for place, (x, y, w, h) in zip(scene.placements, boxes(scene, spec.image_size), strict=True)]
        facts = grammar.understand(captions, found)
        made.pictures.append((image, encode(picture(scene, spec.image_size), "JPEG")))
        made.context.append({"id": f"bench_{number:03d}", "image": image, "captions": captions,
                             "instances": [{"category": c, "bbox": b} for c, b in found]})
        for category, (question, reference) in (
                ("conv", rng.choice(grammar.conversation(facts, rng))),
                ("detail", (DETAIL_QUESTION, grammar.describe(facts, rng))),
                ("complex", grammar.reason(facts, rng))):
            qid = len(made.questions)
            made.questions.append({"question_id": qid, "image": image, "text": question, "category": category})
            made.references.append({"question_id": qid, "text": reference, "category": category})
    return made
