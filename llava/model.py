"""The model: a frozen CLIP tower, one linear layer, a Llama-family language model.

A picture's features stand wherever its placeholders stand, at any position and number; a batch may mix samples with
many pictures, one or none. Every pass in training runs the tower and the projector, with a blank picture when the batch
has none, so that ranks which shard the weights stay in step. The tower never gets a gradient, and its layers after the
one that is read are not run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import nn

from llava.conversations import IMAGE_TOKEN
from llava.pixels import ASPECTS, Preprocessor
from llava.projector import Projector, read_projector
from llava.templates import TEMPLATES, Template

if TYPE_CHECKING:
    from transformers import CLIPVisionModel, LlamaForCausalLM, PreTrainedTokenizerBase

IMAGE_ENDS = ("<im_start>", "<im_end>")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class BadModel(ValueError):
    """A model folder is of the wrong kind, or its parts do not fit. Names the folder and the fix."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AssistantConfig:
    """How a model was trained to read conversations and pictures; stored with it, so that serving cannot differ.

    select_layer: which hidden state of the tower is read, -2 (before the last layer) or -1. feature: ``patch`` or
    ``cls_patch`` (keeps the class token). image_tokens: ``none``, or ``start_end`` for trained tokens around a picture.
    max_length: longest sequence in tokens, pictures included.
    """

    template: str
    select_layer: int = -2
    feature: Literal["patch", "cls_patch"] = "patch"
    image_tokens: Literal["none", "start_end"] = "none"
    image_position: Literal["kept", "front"] = "kept"
    image_aspect: Literal["square", "pad"] = "square"
    max_length: int = 2048

    def __post_init__(self) -> None:
        allowed: dict[str, tuple[Any, ...]] = {
            "template": tuple(TEMPLATES), "select_layer": (-1, -2), "feature": ("patch", "cls_patch"),
            "image_tokens": ("none", "start_end"), "image_position": ("kept", "front"), "image_aspect": ASPECTS}
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name}={getattr(self, name)!r} is none of {', '.join(map(str, values))}")


class LlavaModel(nn.Module):
    """forward gives hidden states; the head is applied by the caller, only where it needs logits."""

    def __init__(self, config: AssistantConfig, vision_tower: CLIPVisionModel, language_model: LlamaForCausalLM,
                 projector: nn.Linear, tokenizer: PreTrainedTokenizerBase, preprocessor: Preprocessor) -> None:
        super().__init__()
        self.config = config
        self.vision_tower = vision_tower.requires_grad_(False).eval()
        self.projector = projector
        self.language_model = language_model
        self.new_token_embeddings: nn.Parameter | None = None
        self.tokenizer = tokenizer
        self.preprocessor = preprocessor

    @property
    def template(self) -> Template:
        return TEMPLATES[self.config.template]

    @property
    def num_image_tokens(self) -> int:
        """Features, and so placeholders, a picture."""
        vision = cast(Any, self.vision_tower.config)
        return (vision.image_size // vision.patch_size) ** 2 + (self.config.feature == "cls_patch")

    @property
    def image_ends(self) -> tuple[int, int] | None:
        if self.config.image_tokens == "none":
            return None
        start, end = cast("list[int]", self.tokenizer.convert_tokens_to_ids(list(IMAGE_ENDS)))
        return start, end

    def train(self, mode: bool = True) -> LlavaModel:
        super().train(mode)
        self.vision_tower.eval()
        return self

    def image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """pixels: [n, 3, H, W]. Returns [n, num_image_tokens, d], projected; gradients reach the projector only."""
        tower = cast(Any, self.vision_tower)
        with torch.no_grad():
            hidden = tower.pre_layrnorm(tower.embeddings(pixels.to(self.projector.weight.dtype)))
            num_layers = len(tower.encoder.layers) + 1 + self.config.select_layer
            for layer in tower.encoder.layers[:num_layers]:
                hidden = layer(hidden, None)
        return self.projector(hidden[:, 1:] if self.config.feature == "patch" else hidden)

    def embed(self, ids_NT: torch.Tensor, pixels: torch.Tensor | None) -> torch.Tensor:
        """Input embeddings [N, T, d] with the pictures spliced in.

        pixels: [n, 3, H, W], pictures in the order of their placeholders, row by row; None when there are none.
        Raises ValueError when placeholders and pictures do not match in number.
        """
        is_image = ids_NT == IMAGE_TOKEN
        embedded = input_rows(self.language_model)(ids_NT.clamp(min=0))
        if self.new_token_embeddings is not None:
            first = self._first_new_token
            rows = self.new_token_embeddings[(ids_NT - first).clamp(min=0)]
            embedded = torch.where((ids_NT >= first)[..., None], rows.to(embedded.dtype), embedded)
        expected, found = int(is_image.sum()), 0 if pixels is None else len(pixels) * self.num_image_tokens
        if expected != found:
            raise ValueError(f"{expected} image placeholders for {found} image features "
                             f"({self.num_image_tokens} a picture)")
        if pixels is not None and len(pixels):
            features = self.image_features(pixels).flatten(0, 1)
            return embedded.masked_scatter(is_image[..., None], features.to(embedded.dtype))
        if self.training:  # nothing to add, but the other ranks wait for this one's part of the weights
            side = cast(int, self.vision_tower.config.image_size)
            blank = self.image_features(torch.zeros(1, 3, side, side, device=ids_NT.device))
            embedded = embedded + blank.flatten()[:0].sum()
        return embedded

    def forward(self, ids_NT: torch.Tensor, mask_NT: torch.Tensor, pixels: torch.Tensor | None) -> torch.Tensor:
        """Last hidden states [N, T, d]. mask_NT: 1 for a token, 0 for padding (on the right)."""
        body = cast(Any, self.language_model).model
        return body(inputs_embeds=self.embed(ids_NT, pixels), attention_mask=mask_NT, use_cache=False).last_hidden_state

    # What is trained

    def train_alignment(self) -> None:
        """Only the projector, and the input rows of start and end tokens where there are any, get gradients.

        The rows are held apart from the frozen embedding, so that no other row can change or have optimizer state.
        """
        self.requires_grad_(False)
        self.projector.requires_grad_(True)
        ends = self.image_ends
        if ends:
            rows = input_rows(self.language_model).weight[list(ends)]
            self.new_token_embeddings = nn.Parameter(rows.detach().clone())

    def train_tuning(self) -> None:
        """The projector and the language model get gradients, the tower never."""
        self.requires_grad_(True)
        self.vision_tower.requires_grad_(False)

    @property
    def _first_new_token(self) -> int:
        return cast("tuple[int, int]", self.image_ends)[0]

    def current_projector(self) -> Projector:
        return Projector(weight=self.projector.weight, bias=cast(torch.Tensor, self.projector.bias),
                         new_token_embeddings=self.new_token_embeddings)

    # Load and save

    @classmethod
    def from_parts(cls, vision_tower: Path, language_model: Path, config: AssistantConfig, *,
                   projector: Projector | None = None, seed: int = 0, dtype: torch.dtype = torch.float32) -> LlavaModel:
        """From base model folders. Without a projector a new one is drawn from the seed.

        Start and end tokens, where the config has them, get new rows at the mean of the old ones. Raises BadModel.
        """
        tower, words, tokenizer = _load_parts(Path(vision_tower), Path(language_model), dtype)
        vision_width, width = tower.config.hidden_size, words.config.hidden_size
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            linear = nn.Linear(vision_width, width)
        model = cls(config, tower, words, linear.to(dtype), tokenizer, Preprocessor.load(vision_tower,
                                                                                        config.image_aspect))
        if config.image_tokens == "start_end":
            _add_image_ends(words, tokenizer)
        if projector is not None:
            model.use_projector(projector)
        return model

    def use_projector(self, projector: Projector) -> None:
        """Take these weights. Raises BadModel when they are of another shape or lack the new tokens' rows."""
        if projector.weight.shape != self.projector.weight.shape:
            raise BadModel(f"the projector is {list(projector.weight.shape)}; this tower and language model need "
                           f"{list(self.projector.weight.shape)}")
        with torch.no_grad():
            self.projector.weight.copy_(projector.weight)
            self.projector.bias.copy_(projector.bias)
            rows, ends = projector.new_token_embeddings, self.image_ends
            if (rows is None) != (ends is None):
                raise BadModel(f"image_tokens={self.config.image_tokens}, but the projector has "
                               f"{'no' if rows is None else 'its own'} rows for start and end tokens: "
                               "align it with the same image_tokens")
            if rows is not None and ends is not None:
                input_rows(self.language_model).weight[list(ends)] = rows[-2:].to(
                    self.projector.weight.dtype)

    @classmethod
    def load(cls, folder: Path | str, *, dtype: torch.dtype | None = None) -> LlavaModel:
        """From an ``assistant/`` folder. dtype: None keeps the stored one. Raises BadModel."""
        folder = Path(folder)
        config = read_config(folder)
        tower, words, tokenizer = _load_parts(folder / "vision_tower", folder / "language_model", dtype)
        projector = read_projector(folder / "projector.safetensors")
        linear = nn.Linear(tower.config.hidden_size, words.config.hidden_size).to(words.dtype)
        if projector.weight.shape != linear.weight.shape:
            raise BadModel(f"{folder}: projector {list(projector.weight.shape)} does not fit, "
                           f"{list(linear.weight.shape)} is needed")
        model = cls(config, tower, words, linear, tokenizer, Preprocessor.load(folder / "vision_tower",
                                                                              config.image_aspect))
        with torch.no_grad():
            linear.weight.copy_(projector.weight)
            linear.bias.copy_(projector.bias)
        return model.eval()

    def save(self, folder: Path, state: Mapping[str, torch.Tensor] | None = None) -> None:
        """Write an ``assistant/`` folder. state: the whole state dict, where the weights themselves are sharded."""
        from safetensors.torch import save_file

        state = dict(state if state is not None else self.state_dict())

        def part(prefix: str) -> dict[str, torch.Tensor]:
            return {n.removeprefix(prefix): t.contiguous() for n, t in state.items() if n.startswith(prefix)}

        if self.language_model.config.tie_word_embeddings:
            state.pop("language_model.lm_head.weight", None)
        folder.mkdir(parents=True, exist_ok=True)
        write_config(self.config, folder)
        self.vision_tower.save_pretrained(folder / "vision_tower", state_dict=part("vision_tower."))
        self.preprocessor.processor.save_pretrained(folder / "vision_tower")
        self.language_model.save_pretrained(folder / "language_model", state_dict=part("language_model."))
        self.tokenizer.save_pretrained(folder / "language_model")
        save_file(part("projector."), folder / "projector.safetensors")


def input_rows(language_model: LlamaForCausalLM) -> nn.Embedding:
    return cast(nn.Embedding, language_model.get_input_embeddings())


def read_config(folder: Path) -> AssistantConfig:
    """The ``llava.json`` of an assistant. Raises BadModel when it is missing or not understood."""
    path = folder / "llava.json"
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BadModel(f"{folder} is no assistant: {error}") from error
    unknown = values.keys() - {f.name for f in fields(AssistantConfig)}
    if unknown:
        raise BadModel(f"{path} has {', '.join(sorted(unknown))}, which this version does not know: update the code")
    return AssistantConfig(**values)


def write_config(config: AssistantConfig, folder: Path) -> None:
    (folder / "llava.json").write_text(json.dumps(asdict(config), indent=2, sort_keys=True) + "\n")


def _load_parts(vision_tower: Path, language_model: Path, dtype: torch.dtype | None
                ) -> tuple[CLIPVisionModel, LlamaForCausalLM, PreTrainedTokenizerBase]:
    from transformers import AutoConfig, AutoTokenizer, CLIPVisionModel, LlamaForCausalLM

    for folder, kinds in ((vision_tower, ("clip_vision_model", "clip")), (language_model, ("llama",))):
        if not (folder / "config.json").is_file():
            raise BadModel(f"{folder} has no config.json: a {kinds[0]} in safetensors is needed")
        kind = AutoConfig.from_pretrained(folder).model_type
        if kind not in kinds:
            raise BadModel(f"{folder} is a {kind!r} model; {' or '.join(kinds)} is needed")
    how: dict[str, Any] = {"use_safetensors": True, "dtype": dtype or "auto"}
    tower = CLIPVisionModel.from_pretrained(vision_tower, **how)
    words = LlamaForCausalLM.from_pretrained(language_model, **how)
    tokenizer = AutoTokenizer.from_pretrained(language_model, use_fast=True)
    rows = input_rows(words).weight.shape[0]
    if len(tokenizer) > rows:
        raise BadModel(f"{language_model}: the tokenizer has {len(tokenizer)} tokens, the model {rows} rows")
    return tower, words, tokenizer


def _add_image_ends(words: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    """New rows of input and output start at the mean of the old ones, as the authors' do."""
    num_old = input_rows(words).weight.shape[0]
    tokenizer.add_tokens(list(IMAGE_ENDS), special_tokens=True)
    if len(tokenizer) > num_old:
        words.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    new = cast("list[int]", tokenizer.convert_tokens_to_ids(list(IMAGE_ENDS)))
    with torch.no_grad():
        for matrix in (input_rows(words).weight, words.lm_head.weight):
            matrix[new] = matrix[:min(num_old, new[0])].mean(dim=0)
