"""The grammar teacher: what it says follows from captions and boxes, in the teachers' form."""

import random
from collections import Counter

import pytest

from llava.demo import grammar
from llava.demo.drawing import boxes
from llava.demo.phrasing import five_captions, web_caption
from llava.demo.vocabulary import CELLS, NUMBERS, counted, with_article
from llava.demo.world import WorldSpec, held_out, training_scene

SPEC = WorldSpec()
SCENES = [training_scene(SPEC, "coco", n) for n in range(200)]
SHAPES = [(shape, kind) for kind, shapes in {
    "what": grammar.WHAT, "how many": grammar.HOW_MANY, "background": grammar.BACKGROUND}.items() for shape in shapes]


def context(scene, with_boxes):
    lines = five_captions(scene, random.Random(scene.look))
    if with_boxes:
        fractions = [[round(v / 64, 3) for v in (x, y, x + w, y + h)] for x, y, w, h in boxes(scene, 64)]
        lines += ["", *[f"{p.name}: {b}" for p, b in zip(scene.placements, fractions, strict=True)]]
    return "\n".join(lines)


def pairs_of(reply):
    blocks = reply.split("\n===\n")
    assert [b.split("\n")[0] for b in blocks] == ["Question:", "Answer:"] * (len(blocks) // 2)
    bodies = [b.split("\n", 1)[1] for b in blocks]
    return list(zip(bodies[::2], bodies[1::2], strict=True))


def test_captions_alone_tell_everything():
    """Of five captions the grammar recovers every drawing, its place and the background; boxes tell the same."""
    for scene in SCENES:
        told = [(p.name, p.cell) for p in scene.placements]
        for with_boxes in (False, True):
            captions, _, lines = context(scene, with_boxes).partition("\n\n")
            found = [(n, eval(b)) for n, _, b in (line.partition(": ") for line in lines.splitlines())]
            facts = grammar.understand(captions.splitlines(), found)
            assert sorted((p.name, p.cell) for p in facts.placed) == sorted(told)
            assert facts.background == scene.background


def test_short_answers_are_true():
    """Counts, backgrounds, places and things in 200 conversations are those of the scene."""
    seen = Counter()
    for n, scene in enumerate(SCENES):
        for question, said in pairs_of(grammar.respond(context(scene, False), "conversation", n)):
            kind = next((k for shape, k in SHAPES if shape == question), None)
            place = next((c for c in CELLS if f"the {c}" in question), None)
            if kind == "how many":
                assert said == f"{NUMBERS[len(scene.placements)].capitalize()}."
            elif kind == "background":
                assert said == f"{scene.background.capitalize()}."
            elif place:
                name = scene.at(CELLS.index(place))
                assert said == f"At the {place} is {with_article(name) if name else 'nothing'}."
                kind = "what at"
            elif question.startswith(("Where", "In which part")):
                kind = "where"
                asked = [p for p in scene.placements if f" {p.name}?" in question]
                assert [f"The {p.name} is at the {CELLS[p.cell]}." for p in asked] == [said]
            elif kind == "what":
                assert all(counted(name, scene.names.count(name)) in said.lower() for name in scene.names)
            seen[kind] += 1
    assert all(seen[k] > 50 for k in ("what", "how many", "background", "what at", "where"))


def test_the_same_context_and_seed_give_the_same_reply():
    """A reply depends on context, kind and seed, and on all of them."""
    text, other = context(SCENES[0], True), context(SCENES[1], True)
    for kind in grammar.KINDS:
        assert grammar.respond(text, kind, 3) == grammar.respond(text, kind, 3)
        assert grammar.respond(text, kind, 3) != grammar.respond(other, kind, 3)
    assert len({grammar.respond(text, "conversation", seed) for seed in range(20)}) > 10


def test_a_description_tells_every_fact():
    """The paragraph names the number, the background, each drawing with its place, and the empty places."""
    for scene in SCENES[:50]:
        told = grammar.respond(context(scene, True), "detail", 1)
        number = "one thing" if len(scene.placements) == 1 else f"{NUMBERS[len(scene.placements)]} things"
        assert number in told and scene.background in told and "===" not in told
        assert all(p.name in told.lower() and CELLS[p.cell] in told.lower() for p in scene.placements)
        assert ("empty" in told) == (len(scene.placements) < 4)


def test_reasoning_is_one_pair_and_names_what_fits():
    """A question of reasoning is answered with the things of its group, or with none."""
    for n, scene in enumerate(SCENES[:60]):
        [(question, said)] = pairs_of(grammar.respond(context(scene, True), "complex", n))
        group = next(g for g, q in grammar.GROUP_QUESTIONS.items() if q == question)
        fitting = [name for name in scene.names if grammar.GROUP_OF[name] == group]
        assert said.startswith("Nothing") == (not fitting)
        assert all(name in said.split(", because")[0].lower() for name in fitting)


def test_other_categories_are_counted_and_placed():
    """Boxes of things outside the demo's words are counted and placed; captions alone are said back."""
    text = ("Two people near a car.\n\nperson: [0.1, 0.1, 0.2, 0.4]\n"
            "person: [0.6, 0.6, 0.9, 0.9]\ncar: [0.6, 0.1, 0.9, 0.3]")
    told = grammar.respond(text, "detail", 0)
    assert "three things" in told and "top right" in told.lower()
    assert "Two people near a car." in grammar.respond("Two people near a car.", "conversation", 0)


def test_an_unknown_kind_and_an_empty_context_are_errors():
    """Both are named."""
    with pytest.raises(ValueError, match="haiku"):
        grammar.respond("A dog on sand.", "haiku", 0)
    with pytest.raises(ValueError, match="no caption"):
        grammar.respond("\n", "detail", 0)


def test_no_text_states_a_held_out_combination():
    """What captions and replies say of drawings, places and backgrounds was allowed in training."""
    for n, scene in enumerate(SCENES):
        texts = [*five_captions(scene, random.Random(n)), web_caption(scene, random.Random(n))]
        for text in texts:
            facts = grammar.understand([text], [])
            assert not {(p.name, p.cell, facts.background) for p in facts.placed} & held_out(SPEC)
