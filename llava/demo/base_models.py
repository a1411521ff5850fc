"""The demo's two base models as folders in the published layout, trained or with random weights.

Trained or random, a folder is what ``from_pretrained`` of the real classes reads: safetensors, the tower's
preprocessor, the language model's tokenizer. The tokenizer is learnt in either case, since it takes a second.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from llava.demo import language, vision
from llava.demo.language import LanguageSettings
from llava.demo.tokenizer import train_tokenizer
from llava.demo.vision import IMAGE_MEAN, IMAGE_STD, VisionSettings
from llava.demo.world import WorldSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Report = Callable[[int, int, str, dict[str, float]], None]
"""Called with steps done, steps in all, what is being trained, and the losses of the step."""

NUM_TOKENIZER_TEXTS = 600


def learn_tokenizer(spec: WorldSpec, sizes: LanguageSettings, patch_size: int) -> PreTrainedTokenizerFast:
    side = spec.image_size // patch_size
    return train_tokenizer(language.texts(spec, NUM_TOKENIZER_TEXTS, side), sizes.vocab_size)


def write_tower(folder: Path, spec: WorldSpec, tokenizer: PreTrainedTokenizerFast, sizes: VisionSettings, seed: int,
                report: Report | None) -> None:
    """A CLIP vision tower and its preprocessor. report: None leaves the weights random."""
    import torch
    from transformers import CLIPImageProcessorPil

    torch.manual_seed(seed)
    if report is None:
        tower = vision.build_tower(sizes, spec.image_size)
    else:
        tower = vision.train_tower(spec, tokenizer, sizes, seed,
                                   lambda step, losses: report(step + 1, sizes.steps, "steps of the tower", losses))
    tower.save_pretrained(folder)
    side = {"height": spec.image_size, "width": spec.image_size}
    CLIPImageProcessorPil(size={"shortest_edge": spec.image_size}, crop_size=side, image_mean=list(IMAGE_MEAN),
                          image_std=list(IMAGE_STD)).save_pretrained(folder)


def write_language_model(folder: Path, spec: WorldSpec, tokenizer: PreTrainedTokenizerFast, sizes: LanguageSettings,
                         patch_size: int, seed: int, report: Report | None) -> None:
    """A Llama model and its tokenizer. report: None leaves the weights random."""
    import torch

    torch.manual_seed(seed)
    if report is None:
        model = language.build_language_model(sizes, len(tokenizer))
    else:
        model = language.train_language_model(
            spec, tokenizer, sizes, spec.image_size // patch_size, seed,
            lambda step, losses: report(step + 1, sizes.steps, "steps of the language model", losses))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
