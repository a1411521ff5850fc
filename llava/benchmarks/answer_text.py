"""Answers compared as text: equal when a reader would call them the same words.

Case, punctuation, articles, spacing and the spelling of small numbers do not count; nothing else is forgiven.
"""

from __future__ import annotations

import re

SPELLED = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
           "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty")
NUMBERS = {word: str(value) for value, word in enumerate(SPELLED)}
ARTICLES = frozenset(("a", "an", "the"))
WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def words(text: str) -> list[str]:
    """The words of a text in lower case, small numbers as digits, articles left out."""
    found: list[str] = [w.replace("’", "'") for w in WORD.findall(text.lower())]
    return [NUMBERS.get(word, word) for word in found if word not in ARTICLES]


def normalise(text: str) -> str:
    """One spelling for every text that says the same words."""
    return " ".join(words(text))
