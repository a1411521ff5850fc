"""A CLIP vision tower for the demo, taught by contrast with captions as CLIP was.

Two contrasts are drawn in each batch. Whole pictures against web captions, as in CLIP. And, at the layer that LLaVA
reads (the last but one), patches against phrases: what stands in the patch's quarter of the picture (``a dog at the
top left``) and what is behind it (``on sand``), as in the captions themselves. The second is what makes a feature say
what is where. The text encoder is thrown away afterwards. Only training scenes are shown.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llava.demo.drawing import pictures
from llava.demo.phrasing import web_caption
from llava.demo.vocabulary import CELLS, with_article
from llava.demo.world import Scene, WorldSpec, training_scene

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import CLIPVisionModel, PreTrainedTokenizerFast

IMAGE_MEAN, IMAGE_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's
READ_LAYER = -2  # the hidden state that LLaVA reads


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionSettings:
    """Sizes of the tower, in CLIP's terms, and of its training. learning_rate: the peak, reached after a tenth."""

    width: int = 128
    layers: int = 4
    heads: int = 4
    patch_size: int = 16
    steps: int = 450
    batch_size: int = 96
    learning_rate: float = 1e-3


def build_tower(settings: VisionSettings, image_size: int) -> CLIPVisionModel:
    """A tower with random weights."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    return CLIPVisionModel(CLIPVisionConfig(
        hidden_size=settings.width, intermediate_size=4 * settings.width, num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads, image_size=image_size, patch_size=settings.patch_size,
        projection_dim=settings.width))


def pixel_values(pixels: np.ndarray) -> torch.Tensor:
    """float32 [N, 3, H, W] as CLIP's processor makes them, of uint8 [N, H, W, 3]."""
    import torch

    scaled = torch.from_numpy(pixels).float() / 255
    return ((scaled - torch.tensor(IMAGE_MEAN)) / torch.tensor(IMAGE_STD)).permute(0, 3, 1, 2).contiguous()


def place_phrase(scene: Scene, cell: int) -> str:
    name = scene.at(cell)
    return f"{with_article(name) if name else 'nothing'} at the {CELLS[cell]}"


def train_tower(spec: WorldSpec, tokenizer: PreTrainedTokenizerFast, settings: VisionSettings, seed: int,
                report: Callable[[int, dict[str, float]], None]) -> CLIPVisionModel:
    """A tower taught on training scenes drawn afresh for every step. report: called with each step and its losses."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    tower = build_tower(settings, spec.image_size)
    text = _TextEncoder(len(tokenizer), settings.width)
    heads = nn.ModuleDict({name: nn.Linear(settings.width, settings.width, bias=False)
                           for name in ("caption", "place", "background")})
    log_scale = nn.ParameterDict({name: nn.Parameter(torch.tensor(math.log(10.0))) for name in heads})
    weights = [*tower.parameters(), *text.parameters(), *heads.parameters(), *log_scale.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    warm_up = max(1, settings.steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min(
        (s + 1) / warm_up, 0.5 + 0.5 * math.cos(math.pi * s / settings.steps)))
    quarter = _quarter_of_patch(spec.image_size // settings.patch_size)

    def embed(texts: list[str]) -> torch.Tensor:
        return text(tokenizer(texts, padding=True, return_tensors="pt"))

    def contrast(name: str, features_ND: torch.Tensor, texts: list[str]) -> torch.Tensor:
        unique = sorted(set(texts))
        index = {t: i for i, t in enumerate(unique)}
        target = torch.tensor([index[t] for t in texts])
        scale = log_scale[name].clamp(max=math.log(100.0)).exp()
        logits_NU = scale * nn.functional.normalize(heads[name](features_ND), dim=-1) @ embed(unique).T
        return two_sided_loss(logits_NU, target)

    tower.train()
    for step in range(settings.steps):
        scenes = [training_scene(spec, "tower", step * settings.batch_size + i) for i in range(settings.batch_size)]
        rng = random.Random(f"{seed}/captions/{step}")
        seen = tower(pixel_values=pixel_values(pictures(scenes, spec.image_size)), output_hidden_states=True)
        patches_BPD = seen.hidden_states[READ_LAYER][:, 1:]
        losses = {
            "caption": contrast("caption", seen.pooler_output, [web_caption(s, rng) for s in scenes]),
            "place": contrast("place", patches_BPD.flatten(0, 1),
                              [place_phrase(s, cell) for s in scenes for cell in quarter]),
            "background": contrast("background", patches_BPD.flatten(0, 1),
                                   [f"on {s.background}" for s in scenes for _ in quarter]),
        }
        loss = losses["caption"] * 0.5 + losses["place"] + losses["background"] * 0.5
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        report(step, {f"tower_{name}_loss": value.item() for name, value in losses.items()})
    return tower.eval()


def two_sided_loss(logits_NU: torch.Tensor, target_N: torch.Tensor) -> torch.Tensor:
    """Contrastive loss of N features against U different texts, where several features may have the same text.

    From features to texts: cross-entropy. From a text to features: cross-entropy against the even mix of its own.
    """
    import torch

    to_text = torch.nn.functional.cross_entropy(logits_NU, target_N)
    own_UN = torch.nn.functional.one_hot(target_N, logits_NU.shape[1]).T.to(logits_NU)
    mix_UN = own_UN / own_UN.sum(dim=1, keepdim=True)
    to_feature = -(mix_UN * logits_NU.T.log_softmax(dim=1)).sum(dim=1).mean()
    return (to_text + to_feature) / 2


def _quarter_of_patch(side: int) -> list[int]:
    """The place (index into CELLS) of each patch, in the tower's order."""
    return [2 * (2 * row // side) + 2 * column // side for row in range(side) for column in range(side)]


def _TextEncoder(vocab_size: int, width: int) -> torch.nn.Module:
    """One transformer layer over token embeddings, averaged, of length one. Built here: torch stays lazy."""
    import torch
    from torch import nn

    class TextEncoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Embedding(vocab_size, width)
            self.places = nn.Parameter(torch.randn(128, width) * 0.02)
            self.layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True,
                                                    norm_first=True)
            self.out = nn.Linear(width, width, bias=False)

        def forward(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
            mask_UT = batch["attention_mask"].bool()
            hidden_UTD = self.tokens(batch["input_ids"]) + self.places[:mask_UT.shape[1]]
            hidden_UTD = self.layer(hidden_UTD, src_key_padding_mask=~mask_UT)
            mean_UD = (hidden_UTD * mask_UT[..., None]).sum(1) / mask_UT.sum(1, keepdim=True)
            return nn.functional.normalize(self.out(mean_UD), dim=-1)

    return TextEncoder()
