"""Tiny models of the real architectures, random weights, built in a fraction of a second."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

from PIL import Image

IMAGE_SIZE, PATCH = 16, 8  # 4 patches a picture


@cache
def tokenizer():
    """A byte-level BPE tokenizer with <unk>, <s>, </s> and a few merges, unk as pad (as the authors')."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        ["a red cat on the mat", "Is it? Yes. No. A cat.", "two blue dogs sit",
         "what is in the picture USER ASSISTANT Human Assistant ###"] * 9,
        trainers.BpeTrainer(vocab_size=320, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False,
                            initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
                                   pad_token="<unk>", clean_up_tokenization_spaces=False)


def picture(colour: tuple[int, int, int] = (200, 30, 30), size: tuple[int, int] = (24, 16)) -> bytes:
    """PNG bytes of one colour."""
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


def write_base_models(folder: Path, *, seed: int = 0, hidden: int = 64, layers: int = 2, tied: bool = False
                      ) -> Path:
    """``vision_tower/`` (CLIP, 2 layers of width 32) and ``language_model/`` (Llama) as prepare_models leaves them."""
    import torch
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        CLIPVisionModel,
        LlamaConfig,
        LlamaForCausalLM,
    )

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tower = CLIPVisionModel(CLIPVisionConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=IMAGE_SIZE,
            patch_size=PATCH))
        words = tokenizer()
        model = LlamaForCausalLM(LlamaConfig(
            vocab_size=len(words), hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers,
            num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=512, bos_token_id=1, eos_token_id=2,
            pad_token_id=0, tie_word_embeddings=tied))
    tower.save_pretrained(folder / "vision_tower")
    CLIPImageProcessorPil(size={"shortest_edge": IMAGE_SIZE}, crop_size=IMAGE_SIZE).save_pretrained(
        folder / "vision_tower")
    model.save_pretrained(folder / "language_model")
    words.save_pretrained(folder / "language_model")
    return folder
