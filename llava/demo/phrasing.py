"""Sentences about scenes, in the phrasing of two corpora: true of their scenes, in words that a seed picks.

Web captions are loose: lower case, tokens set apart, some with a mood that nobody can see in the picture, many without
positions. Annotators' captions come in fives, and the five together tell all: what, how many, where, on what.
"""

from __future__ import annotations

import random
from collections import Counter

from llava.demo.vocabulary import CELLS, NUMBERS, counted, in_words, with_article
from llava.demo.world import Scene

MOODS = ("little", "lovely", "bright", "favourite", "funny", "old", "beautiful", "new", "classic", "quiet", "famous",
         "cheerful", "vintage", "tiny", "forgotten", "stylish", "curious", "festive", "humble", "elegant", "magical",
         "sleepy", "handmade", "legendary", "homemade", "mysterious", "splendid", "whimsical")
"""Words of web captions that a picture does not show, from frequent to rare."""

OPENINGS = ("", "", "", "a picture of ", "a photo of ", "a drawing of ", "an illustration of ", "a view of ")
WEB_BACKGROUNDS = ("on {b}", "on {b}", "on a {b} background", "against {b}", "over {b}", "with {b} in the background",
                   "in front of {b}", ", {b} behind", "on a background of {b}")
KNOWN_BACKGROUNDS = ("on {b}", "on a background of {b}", "against {b}", "with {b} in the background", "in front of {b}")


def counted_names(scene: Scene) -> list[str]:
    """``a dog``, ``two keys``: each drawing once, in order of place."""
    return [counted(name, count) for name, count in Counter(scene.names).items()]


def placed_names(scene: Scene, preposition: str = "at") -> list[str]:
    """``a dog at the top left`` for each drawing, in order of place."""
    return [f"{with_article(p.name)} {preposition} the {CELLS[p.cell]}" for p in scene.placements]


def web_caption(scene: Scene, rng: random.Random) -> str:
    """One line as in a corpus of alt texts: lower case, punctuation set apart, no tab."""
    names = placed_names(scene, rng.choice(("at", "in"))) if rng.random() < 0.6 else counted_names(scene)
    if rng.random() < 0.3:
        mood = rng.choices(MOODS, weights=[1 / (i + 1) for i in range(len(MOODS))])[0]
        i = rng.randrange(len(names))
        first, _, rest = names[i].partition(" ")
        names[i] = f"{with_article(mood) if first in ('a', 'an') else f'{first} {mood}'} {rest}"
    rng.shuffle(names)
    text = rng.choice(OPENINGS) + in_words(names)
    if rng.random() < 0.85:
        text += f" {rng.choice(WEB_BACKGROUNDS).format(b=scene.background)}"
    text = text.replace(",", " ,").replace("  ,", " ,")
    return text + rng.choice(("", " .", " .", " !"))


def five_captions(scene: Scene, rng: random.Random) -> list[str]:
    """Five sentences as annotators write them, in shuffled order. The positions and the background are always told."""
    def behind() -> str:
        return rng.choice(KNOWN_BACKGROUNDS).format(b=scene.background)

    names, placed = in_words(counted_names(scene)), in_words(placed_names(scene))
    count = len(scene.placements)
    by_place = "; ".join(f"{rng.choice(('at', 'in'))} the {CELLS[p.cell]} is {with_article(p.name)}"
                         for p in scene.placements)
    number = "one thing" if count == 1 else f"{NUMBERS[count]} things"
    some = rng.choice(scene.placements)
    captions = [
        f"{placed} {behind()}.",
        f"{by_place}.",
        rng.choice((f"{number} {behind()}: {names}.", f"a picture of {number}, {names}, {behind()}.",
                    f"there {'is' if count == 1 else 'are'} {number} {behind()}.")),
        f"{names} {behind()}.",
        rng.choice((f"{with_article(some.name)} {behind()}.", f"a picture with {names}.",
                    f"{scene.background} behind {names}.")),
    ]
    rng.shuffle(captions)
    return [c[0].upper() + c[1:] for c in captions]
