"""How the demo's base models are taught: what they are shown, and that it reaches the weights."""

import random

import pytest
import torch

from llava.conversations import IMAGE_TOKEN
from llava.demo import language, vision
from llava.demo.language import LanguageSettings, dialogue, embed_written, written_picture
from llava.demo.tokenizer import train_tokenizer
from llava.demo.vision import VisionSettings, two_sided_loss
from llava.demo.vocabulary import BACKGROUNDS, CELLS
from llava.demo.world import Placement, Scene, WorldSpec, drawings, held_out

SPEC = WorldSpec(num_drawings=16)
SIZES = LanguageSettings(width=64, layers=1, heads=2, intermediate=64, vocab_size=600, steps=40, batch_size=8)


@pytest.fixture(scope="module")
def words():
    return train_tokenizer(language.texts(SPEC, 200, 4), SIZES.vocab_size)


def test_names_places_and_backgrounds_are_one_token_each(words):
    """So that an answer is found by one token, and copied as one."""
    for text in (*drawings(SPEC), *BACKGROUNDS, *CELLS):
        assert len(words(f" {text}", add_special_tokens=False)["input_ids"]) == 1, text


def test_a_written_picture_says_of_each_patch_what_its_quarter_holds():
    """Sixteen bags; a patch names its place and the background always, and its drawing mostly."""
    scene = Scene(background="sand", placements=(Placement(1, "dog"),), look=0)
    bags = written_picture(scene, 4, random.Random(0))
    assert len(bags) == 16 and all("sand" in bag for bag in bags)
    assert [CELLS[0] in bag for bag in bags] == [True, True, False, False] * 2 + [False] * 8
    named = [i for i, bag in enumerate(bags) if "dog" in bag]
    assert 2 <= len(named) <= 4 and set(named) <= {2, 3, 6, 7}


def test_the_language_model_is_never_told_a_held_out_combination():
    """In 800 dialogues no patch is a held-out drawing in its place on its background."""
    told = {tuple(bag.split(maxsplit=1)) for n in range(800) for bag in dialogue(SPEC, n, 4).patches}
    assert len(told) > 300
    assert not told & {(name, f"{CELLS[cell]} {background}") for name, cell, background in held_out(SPEC)}


def test_a_patch_is_read_as_the_mean_of_its_words(words):
    """Embeddings of ids stay; each picture token takes the mean of its own bag, in order over the batch."""
    model = language.build_language_model(SIZES, len(words))
    rows = model.get_input_embeddings().weight
    ids = torch.tensor([[5, IMAGE_TOKEN, IMAGE_TOKEN], [IMAGE_TOKEN, 6, 7]])
    embeds = embed_written(model, ids, [[8, 9], [10], [11, 12, 13]])
    expected = [[rows[5], (rows[8] + rows[9]) / 2, rows[10]], [rows[[11, 12, 13]].mean(0), rows[6], rows[7]]]
    for n in range(2):
        for t in range(3):
            torch.testing.assert_close(embeds[n, t], expected[n][t])


def test_teaching_the_language_model_lowers_its_loss(words):
    """Forty steps take a third off what a uniform guess costs."""
    losses = []
    language.train_language_model(SPEC, words, SIZES, 2, 0, lambda _step, made: losses.append(made["language_loss"]))
    assert len(losses) == 40
    assert sum(losses[-8:]) / 8 < 0.65 * losses[0]


def test_the_contrast_is_least_when_each_feature_is_nearest_its_own_text():
    """Several features of one text count as its own, in both directions."""
    target = torch.tensor([0, 0, 1, 2])
    own = torch.nn.functional.one_hot(target, 3).float() * 20
    wrong = own.roll(1, dims=0)
    assert two_sided_loss(own, target) < two_sided_loss(torch.zeros(4, 3), target) < two_sided_loss(wrong, target)
    # From a text with two features the best is an even mix: ln 2 of one text in three, halved over two directions.
    assert two_sided_loss(own * 5, target).item() == pytest.approx(0.6931 / 3 / 2, abs=1e-3)


def test_teaching_the_tower_makes_patches_tell_places(words):
    """In 25 steps all three contrasts fall."""
    first, last = {}, {}

    def report(step, losses):
        (first if step == 0 else last).update(losses)

    sizes = VisionSettings(width=32, layers=2, heads=2, patch_size=32, steps=25, batch_size=24, learning_rate=3e-3)
    vision.train_tower(SPEC, words, sizes, 0, report)
    assert set(first) == {"tower_caption_loss", "tower_place_loss", "tower_background_loss"}
    assert all(last[name] < first[name] - 0.2 for name in ("tower_place_loss", "tower_background_loss"))
