"""ScienceQA-like problems in the official schema, about the drawings and what they are.

Half the problems need the picture, and in the splits ``val`` and ``test`` those pictures show held-out scenes; the
others are answered from general knowledge of the demo's world. The choices are shuffled, so no letter is likelier.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from llava.demo.drawing import encode, picture
from llava.demo.vocabulary import (
    BACKGROUNDS,
    CELLS,
    GROUP_OF,
    in_words,
    plural,
    with_article,
)
from llava.demo.world import Scene, WorldSpec, drawings, held_out_scene, training_scene

SPLITS = ("train", "val", "test")
Fields = dict[str, Any]

GROUP_LECTURES = {
    "animal": "An animal is alive and moves by itself.",
    "food": "A food is something that people eat.",
    "vehicle": "A vehicle takes people from place to place.",
    "plant": "A plant grows and needs light and water.",
    "instrument": "An instrument is played to make music.",
    "object": "An object is a thing that people made to use.",
}


def split_of(number: int) -> str:
    """Three in five train, one val, one test."""
    return ("train", "train", "train", "val", "test")[number % 5]


def problem_scene(spec: WorldSpec, number: int) -> Scene:
    """What the picture of a numbered problem shows: held-out combinations outside the training split."""
    if split_of(number) == "train":
        return training_scene(spec, "problem", number)
    return held_out_scene(spec, random.Random(f"{spec.seed}/problem/{number}"))


def problem(spec: WorldSpec, number: int) -> tuple[str, Fields, Scene | None]:
    """Id, official record, and the scene of its picture, if it has one. ``number`` counts from 1."""
    rng = random.Random(f"{spec.seed}/question/{number}")
    make = MAKERS[number // 5 % len(MAKERS)]
    scene = problem_scene(spec, number)
    fields = make(spec, scene, rng)
    correct, wrong = fields.pop("correct"), fields.pop("wrong")
    choices = [correct, *wrong]
    rng.shuffle(choices)
    pictured = fields.pop("pictured")
    record = {"question": "", "choices": choices, "answer": choices.index(correct), "hint": "",
              "image": "image.png" if pictured else None, "task": "closed choice",
              "grade": f"grade{rng.randint(1, 12)}", "lecture": "", "solution": "", "split": split_of(number), **fields}
    return str(number), record, scene if pictured else None


def scienceqa(spec: WorldSpec) -> tuple[dict[str, Fields], dict[str, list[str]]]:
    """Contents of ``problems.json`` and ``pid_splits.json``."""
    problems = {qid: record for qid, record, _ in (problem(spec, n) for n in range(1, spec.num_problems + 1))}
    splits = {split: [qid for qid, p in problems.items() if p["split"] == split] for split in SPLITS}
    splits["trainval"] = splits["train"] + splits["val"]
    return problems, {**splits, **{f"mini{s}": splits[s][:max(1, len(splits[s]) // 10)] for s in SPLITS}}


def problem_pictures(spec: WorldSpec) -> list[tuple[str, bytes]]:
    """(``<qid>/image.png``, PNG) of each problem with a picture."""
    scenes = ((qid, scene) for qid, _, scene in (problem(spec, n) for n in range(1, spec.num_problems + 1)))
    return [(f"{qid}/image.png", encode(picture(scene, spec.image_size), "PNG")) for qid, scene in scenes if scene]


def _shown(spec: WorldSpec, scene: Scene, rng: random.Random) -> Fields:
    place = rng.choice(scene.placements)
    absent = [n for n in drawings(spec) if n not in scene.names]
    return {"question": "Which of these things is in the picture?", "pictured": True, "correct": place.name,
            "wrong": rng.sample(absent, rng.randint(1, 3)), "subject": "natural science", "topic": "biology",
            "category": "Observation", "skill": "Identify things in pictures",
            "lecture": "To observe is to look at every part of a picture.",
            "solution": f"There is {with_article(place.name)} at the {CELLS[place.cell]}."}


def _is_a(spec: WorldSpec, scene: Scene, rng: random.Random, hint: bool = False) -> Fields:
    del scene
    name = rng.choice(drawings(spec))
    group = GROUP_OF[name]
    others = [n for n in drawings(spec) if GROUP_OF[n] != group]
    wrong = rng.sample(others, rng.randint(1, 3))
    named = sorted([name, *wrong])
    return {"question": f"Which of these is {with_article(group)}?", "pictured": False, "correct": name, "wrong": wrong,
            "hint": f"A child drew {in_words([with_article(n) for n in named])}." if hint else "",
            "subject": "natural science", "topic": "biology", "category": "Classification",
            "skill": "Classify things", "lecture": GROUP_LECTURES[group],
            "solution": f"{with_article(name).capitalize()} is {with_article(group)}."}


def _is_a_with_hint(spec: WorldSpec, scene: Scene, rng: random.Random) -> Fields:
    return _is_a(spec, scene, rng, hint=True)


def _map(spec: WorldSpec, scene: Scene, rng: random.Random) -> Fields:
    del spec
    single = [p for p in scene.placements if scene.names.count(p.name) == 1] or scene.placements[:1]
    place = rng.choice(single)
    right = {c for c, name in ((c, scene.at(c)) for c in range(len(CELLS))) if name == place.name}
    wrong = [CELLS[c] for c in range(len(CELLS)) if c not in right]
    return {"question": f"Look at the map. Where is the {place.name}?", "pictured": True, "correct": CELLS[place.cell],
            "wrong": rng.sample(wrong, min(len(wrong), rng.randint(1, 3))), "subject": "social science",
            "topic": "geography", "category": "Maps", "skill": "Read a map",
            "hint": rng.choice(("", "The map shows where things are.")),
            "lecture": "A place on a map is told by top or bottom and by left or right.",
            "solution": f"The {place.name} is at the {CELLS[place.cell]}."}


def _used_for(spec: WorldSpec, scene: Scene, rng: random.Random) -> Fields:
    del scene
    name = rng.choice([n for n in drawings(spec) if GROUP_OF[n] in ("food", "vehicle", "instrument")])
    uses = {"food": "to eat", "vehicle": "to travel", "instrument": "to make music"}
    group = GROUP_OF[name]
    return {"question": f"What do people use {with_article(name)} for?", "pictured": False, "correct": uses[group],
            "wrong": [u for g, u in uses.items() if g != group], "subject": "social science", "topic": "economics",
            "category": "Goods", "skill": "Know what goods are for", "lecture": GROUP_LECTURES[group],
            "solution": f"{with_article(name).capitalize()} is {with_article(group)}."}


def _plural(spec: WorldSpec, scene: Scene, rng: random.Random) -> Fields:
    del scene
    name = rng.choice([n for n in drawings(spec) if plural(n) != n])
    right = plural(name)
    wrong = [w for w in (f"{name}s", f"{name}es", f"{name}en") if w != right]
    return {"question": f"What is the plural of {name}?", "pictured": False, "correct": right,
            "wrong": rng.sample(wrong, rng.randint(1, 2)), "subject": "language science", "topic": "grammar",
            "category": "Nouns", "skill": "Form the plural", "lecture": "Most plurals end in s; some change more.",
            "solution": f"The plural of {name} is {right}."}


def _sentence(spec: WorldSpec, scene: Scene, rng: random.Random) -> Fields:
    del spec
    name = rng.choice(scene.names)
    other = rng.choice([b for b in BACKGROUNDS if b != scene.background])
    return {"question": "Which sentence fits the picture?", "pictured": True,
            "correct": f"There is {with_article(name)} on {scene.background}.",
            "wrong": [f"There is {with_article(name)} on {other}."], "subject": "language science",
            "topic": "writing", "category": "Sentences", "skill": "Match a sentence with a picture",
            "lecture": "A sentence fits a picture when all of it is true.",
            "solution": f"The background is {scene.background}."}


MAKERS: tuple[Callable[[WorldSpec, Scene, random.Random], Fields], ...] = (
    _shown, _is_a, _map, _plural, _sentence, _used_for, _shown, _is_a_with_hint)
