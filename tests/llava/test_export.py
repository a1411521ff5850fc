"""Stock transformers loads what is exported and says the same."""

import io

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import AutoProcessor, LlavaForConditionalGeneration

from llava.conversations import encode_prompt
from llava.export import export_hf
from llava.images import decode_image
from llava.model import AssistantConfig, LlavaModel
from llava.templates import Turn
from tests.tiny import picture, write_base_models


def build(folder, hidden=64, tied=False, **config) -> LlavaModel:
    base = write_base_models(folder / "base", hidden=hidden, tied=tied)
    return LlavaModel.from_parts(base / "vision_tower", base / "language_model",
                                 AssistantConfig(**{"template": "v1", **config})).eval()


@pytest.mark.parametrize(("hidden", "form", "layer", "tied"), [
    (64, "relu", -2, False), (32, "linear", -2, False), (64, "relu", -1, False), (64, "relu", -2, True)])
def test_stock_llava_gives_the_same_logits(tmp_path, hidden, form, layer, tied):
    """The exported projector is exact in both forms, and pixels, ids and logits agree; tied weights stay tied."""
    build(tmp_path, hidden, tied, select_layer=layer).save(tmp_path / "assistant")
    model = LlavaModel.load(tmp_path / "assistant")
    assert export_hf(model, tmp_path / "hf") == form
    stock = LlavaForConditionalGeneration.from_pretrained(tmp_path / "hf").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "hf")
    body = picture((10, 200, 90), (31, 20))
    turns = (Turn("human", "<image>\nWhat is it?"),)
    ids = encode_prompt(turns, model.template, model.tokenizer, model.num_image_tokens)
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    theirs = processor(text=text, images=decode_image(body), return_tensors="pt", add_special_tokens=False)
    image_id = stock.config.image_token_index
    assert [i if i >= 0 else image_id for i in ids] == theirs["input_ids"][0].tolist()
    pixels = model.preprocessor(body)[None]
    torch.testing.assert_close(theirs["pixel_values"], pixels, rtol=0, atol=0)
    with torch.no_grad():
        logits = stock(**theirs).logits
        hidden_states = model(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long), pixels)
        ours = model.language_model.lm_head(hidden_states)
    torch.testing.assert_close(logits[..., :ours.shape[-1]], ours, rtol=1e-5, atol=1e-5)


def test_an_export_is_a_function_of_the_model(tmp_path):
    """Two exports of one model are the same bytes, file for file."""
    model = build(tmp_path)
    for name in ("a", "b"):
        export_hf(model, tmp_path / name)
    files = [{p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in ("a", "b")]
    assert files[0] == files[1] and {"config.json", "model.safetensors", "tokenizer.json"} <= files[0].keys()


def test_tower_keys_are_in_the_layout_that_servers_accept(tmp_path):
    """Tower weights carry the ``vision_model`` prefix, and nothing is missing."""
    model = build(tmp_path)
    export_hf(model, tmp_path / "hf")
    with safe_open(tmp_path / "hf" / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert {f"vision_tower.vision_model.{n}" for n in model.vision_tower.state_dict()} <= names


DIALOGUES = [
    [("user", "Hi?")], [("user", "a"), ("assistant", "it's \\ b\n"), ("user", "c'\n ?")],
    [("system", "Be brief."), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")]]


@pytest.mark.parametrize("template", ["v0", "llava_v0", "v1", "llava_v1", "llava_llama_2"])
@pytest.mark.parametrize("image_tokens", ["none", "start_end"])
def test_the_exported_chat_template_gives_our_ids(tmp_path, template, image_tokens):
    """The processor renders conversations to the same token ids as ours, for every template."""
    model = build(tmp_path, template=template, image_tokens=image_tokens)
    export_hf(model, tmp_path / "hf")
    processor = AutoProcessor.from_pretrained(tmp_path / "hf")
    image_id = processor.tokenizer.convert_tokens_to_ids("<image>")
    roles = {"user": "human", "assistant": "gpt", "system": "system"}
    for dialogue in DIALOGUES:
        messages = [{"role": r, "content": [{"type": "text", "text": t}]} for r, t in dialogue]
        first = next(m for m in messages if m["role"] == "user")
        first["content"].insert(0, {"type": "image"})
        turns = [Turn(roles[r], t) for r, t in dialogue]
        at = next(i for i, t in enumerate(turns) if t.role == "human")
        turns[at] = Turn("human", "<image>\n" + turns[at].text)
        ours = encode_prompt(turns, model.template, model.tokenizer, 4, image_ends=model.image_ends)
        text = processor.apply_chat_template(messages, add_generation_prompt=True)
        theirs = processor(text=text, images=decode_image(picture()), add_special_tokens=False)["input_ids"][0]
        assert [i if i >= 0 else image_id for i in ours] == list(theirs)


def test_pad_is_exported(tmp_path):
    """A model trained on padded pictures is exported with a processor that pads, to the same pixels."""
    model = build(tmp_path, image_aspect="pad")
    export_hf(model, tmp_path / "hf")
    out = io.BytesIO()
    Image.effect_noise((40, 13), 80).convert("RGB").save(out, "PNG")
    theirs = AutoProcessor.from_pretrained(tmp_path / "hf").image_processor(decode_image(out.getvalue()))
    torch.testing.assert_close(torch.as_tensor(theirs["pixel_values"][0]), model.preprocessor(out.getvalue()))
