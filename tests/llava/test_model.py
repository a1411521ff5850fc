"""The forward pass, the splice, what is trained, and what is stored."""

import json

import pytest
import torch
import torch.nn.functional as F

from llava.conversations import IMAGE_TOKEN
from llava.model import AssistantConfig, BadModel, LlavaModel
from llava.projector import Projector
from tests.tiny import IMAGE_SIZE, picture, write_base_models


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base_models(tmp_path_factory.mktemp("base"))


def build(base, **config) -> LlavaModel:
    return LlavaModel.from_parts(base / "vision_tower", base / "language_model",
                                 AssistantConfig(template="v1", **config)).eval()


def reference(model: LlavaModel, ids: list[int], pixels: list[torch.Tensor]) -> torch.Tensor:
    """Hidden states of one sample, written out with stock transformers pieces and a Python loop."""
    states = []
    for each in pixels:
        with torch.no_grad():
            hidden = model.vision_tower(each[None], output_hidden_states=True).hidden_states
        chosen = hidden[model.config.select_layer][0]
        states.append(F.linear(chosen[1:] if model.config.feature == "patch" else chosen,
                               model.projector.weight, model.projector.bias))
    rows = iter(torch.cat(states) if states else [])
    table = model.language_model.get_input_embeddings().weight
    embedded = torch.stack([next(rows) if i == IMAGE_TOKEN else table[i] for i in ids])
    return model.language_model.model(inputs_embeds=embedded[None]).last_hidden_state[0]


@pytest.mark.parametrize(("layer", "feature"), [(-2, "patch"), (-1, "patch"), (-2, "cls_patch")])
def test_forward_equals_a_written_out_reference(base, layer, feature):
    """One picture, several and none in one padded batch give what each sample gives alone, in float64."""
    model = build(base, select_layer=layer, feature=feature).double()
    run = [IMAGE_TOKEN] * model.num_image_tokens
    torch.manual_seed(1)
    pixels = torch.randn(3, 3, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.float64)
    samples = [([1, *run, 7, 8, 9], pixels[:1]), ([1, 5, 6], pixels[:0]), ([1, 5, *run, 6, *run, 11], pixels[1:])]
    longest = max(len(ids) for ids, _ in samples)
    batch = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in samples])
    mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in samples])
    hidden = model(batch, mask, pixels)
    for row, (ids, own) in zip(hidden, samples, strict=True):
        torch.testing.assert_close(row[:len(ids)], reference(model, ids, list(own)), rtol=1e-9, atol=1e-9)


def test_pictures_and_placeholders_must_match(base):
    """A picture too few or too many is an error, never a shifted splice."""
    model = build(base)
    ids = torch.tensor([[1, *[IMAGE_TOKEN] * 4, 5]])
    for number in (0, 2):
        with pytest.raises(ValueError, match="4 image placeholders"):
            model.embed(ids, torch.zeros(number, 3, IMAGE_SIZE, IMAGE_SIZE))


def test_a_batch_without_pictures_still_trains_the_projector_by_zero(base):
    """Without a picture the projector gets a gradient of exactly zero, and the values are unchanged."""
    model = build(base)
    ids = torch.tensor([[1, 5, 6]])
    expected = model(ids, torch.ones_like(ids), None)
    model.train()
    hidden = model(ids, torch.ones_like(ids), None)
    hidden.sum().backward()
    assert torch.equal(hidden, expected)
    assert model.projector.weight.grad is not None and not model.projector.weight.grad.any()


def test_alignment_trains_the_projector_and_the_new_rows_only(base):
    """In alignment exactly the projector and the start and end tokens' rows have gradients; the table is untouched."""
    model = build(base, image_tokens="start_end")
    model.train_alignment()
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        "projector.weight", "projector.bias", "new_token_embeddings"}
    start, end = model.image_ends
    ids = torch.tensor([[1, start, *[IMAGE_TOKEN] * 4, end, 9]])
    model(ids, torch.ones_like(ids), torch.randn(1, 3, IMAGE_SIZE, IMAGE_SIZE)).sum().backward()
    assert model.new_token_embeddings.grad.abs().sum(dim=1).min() > 0
    with torch.no_grad():
        model.new_token_embeddings.add_(1.0)
    moved = model.embed(torch.tensor([[start, end, 9]]), None)[0]
    table = model.language_model.get_input_embeddings().weight
    assert torch.equal(moved[:2], model.new_token_embeddings) and torch.equal(moved[2], table[9])


def test_tuning_never_trains_the_tower(base):
    """In tuning everything but the vision tower has gradients."""
    model = build(base)
    model.train_tuning()
    assert all(p.requires_grad != n.startswith("vision_tower.") for n, p in model.named_parameters())


def test_new_rows_start_at_the_mean_and_come_with_the_projector(base):
    """Start and end tokens begin at the mean row, and a projector brings its trained ones."""
    model = build(base, image_tokens="start_end")
    start, end = model.image_ends
    table = model.language_model.get_input_embeddings().weight
    assert torch.equal(table[start], table[:start].mean(dim=0)) and torch.equal(table[start], table[end])
    rows = torch.randn(2, 64)
    model.use_projector(Projector(weight=torch.ones(64, 32), bias=torch.zeros(64), new_token_embeddings=rows))
    assert torch.equal(table[[start, end]], rows) and model.projector.weight.eq(1).all()


def test_a_projector_of_other_image_tokens_is_refused(base):
    """Rows without start and end tokens, or the other way round, are one clear error."""
    with pytest.raises(BadModel, match="image_tokens"):
        build(base, image_tokens="start_end").use_projector(Projector(weight=torch.ones(64, 32), bias=torch.zeros(64)))
    with pytest.raises(BadModel, match=r"\[64, 31\]"):
        build(base).use_projector(Projector(weight=torch.ones(64, 31), bias=torch.zeros(64)))


def test_save_and_load_give_the_same_model(base, tmp_path):
    """A stored assistant answers with the same numbers and knows how it was trained."""
    model = build(base, image_tokens="start_end", select_layer=-1, image_aspect="pad")
    model.save(tmp_path)
    loaded = LlavaModel.load(tmp_path)
    assert loaded.config == model.config and loaded.image_ends == model.image_ends
    ids = torch.tensor([[1, *[IMAGE_TOKEN] * 4, 5]])
    pixels = loaded.preprocessor(picture())[None]
    assert torch.equal(pixels, model.preprocessor(picture())[None])
    assert torch.equal(loaded(ids, torch.ones_like(ids), pixels), model(ids, torch.ones_like(ids), pixels))


def test_a_saved_assistant_is_a_function_of_its_weights(base, tmp_path):
    """Two saves of one model are the same bytes, file for file."""
    model = build(base)
    for name in ("a", "b"):
        model.save(tmp_path / name)
    files = [{p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*") if p.is_file()}
             for n in ("a", "b")]
    assert files[0] == files[1] and len(files[0]) >= 8


def test_a_wrong_base_model_is_one_clear_error(base, tmp_path):
    """A model of another kind, or no model, is named with what is needed."""
    with pytest.raises(BadModel, match=r"'llama'.*clip_vision_model"):
        LlavaModel.from_parts(base / "language_model", base / "language_model", AssistantConfig(template="v1"))
    with pytest.raises(BadModel, match="no config"):
        LlavaModel.from_parts(tmp_path, base / "language_model", AssistantConfig(template="v1"))
    with pytest.raises(BadModel, match="no assistant"):
        LlavaModel.load(base)


def test_a_newer_config_is_refused(base, tmp_path):
    """A field that this version does not know is an error, not a guess."""
    build(base).save(tmp_path)
    config = json.loads((tmp_path / "llava.json").read_text())
    (tmp_path / "llava.json").write_text(json.dumps({**config, "zoom": 2}))
    with pytest.raises(BadModel, match="zoom"):
        LlavaModel.load(tmp_path)
    with pytest.raises(ValueError, match="select_layer"):
        AssistantConfig(template="v1", select_layer=-3)
