"""The words of the demo's world: drawings and their groups, backgrounds, and the four places of a picture.

Every name is one lower-case word, none is contained in another, and a drawing's name is the one that the package
``emoji`` gives it, so an answer can be compared with its reference as a word.
"""

from __future__ import annotations

GROUPS: dict[str, tuple[str, ...]] = {
    "animal": ("dog", "frog", "elephant", "lobster", "penguin", "butterfly", "whale", "turtle", "pig", "fox", "snail",
               "rabbit"),
    "food": ("banana", "pizza", "hamburger", "carrot", "strawberry", "doughnut", "lemon", "watermelon", "pineapple",
             "broccoli", "eggplant", "cookie"),
    "vehicle": ("rocket", "bicycle", "tractor", "airplane", "helicopter", "bus"),
    "plant": ("cactus", "sunflower", "tulip", "rose"),
    "instrument": ("guitar", "drum", "trumpet", "accordion", "saxophone"),
    "object": ("umbrella", "anchor", "key", "crown", "bell", "balloon", "backpack", "castle", "telephone"),
}
"""Drawings by the group that questions of reasoning ask for. Chosen to look different at 28 pixels."""

GROUP_OF: dict[str, str] = {name: group for group, names in GROUPS.items() for name in names}
GROUP_PLURALS = {"animal": "animals", "food": "foods", "vehicle": "vehicles", "plant": "plants",
                 "instrument": "instruments", "object": "objects"}

BACKGROUNDS = ("sand", "grass", "water", "snow", "brick", "wood", "stone", "sky")

CELLS = ("top left", "top right", "bottom left", "bottom right")
"""The four places, in reading order; the index is ``2 * row + column``."""

NUMBERS = ("zero", "one", "two", "three", "four")

IRREGULAR_PLURALS = {"strawberry": "strawberries", "butterfly": "butterflies", "cactus": "cacti", "bus": "buses",
                     "fox": "foxes", "key": "keys", "broccoli": "broccoli"}


def with_article(name: str) -> str:
    """The name with its indefinite article: ``a dog``, ``an anchor``."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def plural(name: str) -> str:
    return IRREGULAR_PLURALS.get(name, f"{name}s")


def counted(name: str, count: int) -> str:
    """``a dog`` for one, else ``two dogs``."""
    return with_article(name) if count == 1 else f"{NUMBERS[count]} {plural(name)}"


def in_words(parts: list[str]) -> str:
    """Joined as a sentence lists them: ``a, b and c``."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def cell_of(x: float, y: float) -> int:
    """The place of a point whose coordinates are fractions of the picture's width and height."""
    return 2 * int(y >= 0.5) + int(x >= 0.5)
