"""Which samples a step holds, and how ranks share them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llava.batches import Sampler, TrainingSet, encode_samples, prefetched, share
from llava.conversations import IGNORE, Sample
from llava.images import BadImage
from llava.model import AssistantConfig, LlavaModel
from llava.templates import Turn
from tests.tiny import picture, write_base_models


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 5))
def test_an_epoch_holds_every_sample_once(num_samples, global_batch, seed):
    """Each epoch is a permutation; another epoch is another one; a step can be asked for on its own."""
    sampler = Sampler(num_samples=num_samples, global_batch=global_batch, epochs=2, seed=seed)
    steps = [sampler.batch(k) for k in range(sampler.num_steps)]
    half = sampler.steps_per_epoch
    for epoch in (steps[:half], steps[half:]):
        assert sorted(i for batch in epoch for i in batch) == list(range(num_samples))
        assert all(len(batch) == global_batch for batch in epoch[:-1])
    assert sampler.batch(sampler.num_steps - 1) == steps[-1]
    if num_samples > 12:
        assert steps[:half] != steps[half:]


def test_max_steps_cuts_the_plan():
    """``max_steps`` ends training early and changes no batch."""
    whole = Sampler(num_samples=50, global_batch=8, epochs=3, seed=1)
    cut = Sampler(num_samples=50, global_batch=8, epochs=3, seed=1, max_steps=4)
    assert (whole.num_steps, cut.num_steps) == (21, 4)
    assert [cut.batch(k) for k in range(4)] == [whole.batch(k) for k in range(4)]


@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 5))
def test_ranks_share_a_batch_exactly(size, world, micro_batch):
    """Every sample goes to exactly one rank, and all ranks have the same number of micro-batches."""
    batch = list(range(100, 100 + size))
    lengths = {i: (i * 7) % 13 for i in batch}
    shares = [share(batch, lengths, rank, world, micro_batch) for rank in range(world)]
    assert sorted(i for mine in shares for micro in mine for i in micro) == batch
    assert len({len(mine) for mine in shares}) == 1
    assert all(len(micro) <= micro_batch for mine in shares for micro in mine)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    base = write_base_models(tmp_path_factory.mktemp("base"))
    return LlavaModel.from_parts(base / "vision_tower", base / "language_model",
                                 AssistantConfig(template="v1", max_length=200, image_position="front"))


SAMPLES = [
    Sample(id="short", turns=(Turn("human", "Hi"), Turn("gpt", "Yes."))),
    Sample(id="picture", images=("a.png",), turns=(Turn("human", "What?\n<image>"), Turn("gpt", "A red cat."))),
    Sample(id="lost", images=("gone.png",), turns=(Turn("human", "<image>"), Turn("gpt", "A cat."))),
    Sample(id="long", turns=(Turn("human", "why " * 200), Turn("gpt", "so"))),
]


def test_what_cannot_be_trained_on_is_counted_and_named(model):
    """Every sample is kept or dropped with its reason."""
    kept, encoded, dropped = encode_samples(SAMPLES, model, {"a.png": picture()})
    assert [s.id for s in kept] == ["short", "picture"] and len(encoded) == 2
    assert [d.id for d in dropped] == ["lost", "long"]
    assert "gone.png" in dropped[0].reason and "supervised" in dropped[1].reason


def test_collation_pads_on_the_right_and_weighs_each_sample(model):
    """Ids, labels, mask and weights line up; pictures come in the order of their rows."""
    images = {"a.png": picture()}
    kept, encoded, _ = encode_samples(SAMPLES, model, images)
    data = TrainingSet(kept, encoded, model, images)
    batch = data.collate([0, 1], {0: 0.5, 1: 0.25})
    for row, (each, weight) in enumerate(zip(encoded, (0.5, 0.25), strict=True)):
        length = len(each.ids)
        assert batch.ids_NT[row, :length].tolist() == each.ids and not batch.mask_NT[row, length:].any()
        assert batch.labels_NT[row, length:].eq(IGNORE).all()
        assert batch.weight_NT[row, :length].eq(weight).all()
    assert torch.equal(batch.pixels[0], model.preprocessor(images["a.png"])) and len(batch.pixels) == 1
    filler = data.collate([], {})
    assert filler.ids_NT.shape == (1, 1) and filler.pixels is None and filler.labels_NT.eq(IGNORE).all()


def test_a_broken_picture_is_named(model):
    """Training that meets bytes that are no picture says which one."""
    images = {"a.png": b"nothing"}
    kept, encoded, _ = encode_samples(SAMPLES[1:2], model, images)
    with pytest.raises(BadImage, match=r"a\.png"):
        TrainingSet(kept, encoded, model, images).collate([0], {0: 1.0})


def test_prefetching_keeps_order_and_raises():
    """Items come in order; an error in the background is raised where its item is due."""
    assert list(prefetched(2, 6, lambda k: k * k)) == [4, 9, 16, 25]
    coming = prefetched(0, 3, lambda k: 1 // (1 - k))
    assert next(coming) == 1
    with pytest.raises(ZeroDivisionError):
        next(coming)
    assert list(prefetched(3, 3, lambda k: k)) == []
