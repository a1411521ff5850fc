"""Generation for one assistant: the engine behind evaluation and behind a serving replica.

A prompt is encoded by the template and the preprocessing that are stored with the model, so it is what training showed.
Requests of a batch are padded on the left and do not see one another; what one draws depends on its own words, its
pictures and the seed, not on its neighbours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from llava.conversations import IMAGE, encode_prompt, place_images
from llava.model import LlavaModel
from llava.templates import Turn

BATCH = 16


class PromptTooLong(ValueError):
    """The prompt leaves no room for an answer. Says how many tokens it has and how many are allowed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatRequest:
    """turns: ends with a human turn; the human turns mark one ``<image>`` a picture. images: encoded pictures."""

    turns: tuple[Turn, ...]
    images: tuple[bytes, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatReply:
    """finish_reason: ``stop`` (the model ended its answer) or ``length``. Counts are tokens, pictures included."""

    text: str
    finish_reason: str
    num_prompt_tokens: int
    num_completion_tokens: int


@dataclass(slots=True)
class _Row:
    """One request while it is being answered."""

    prompt: list[int]
    pixels: list[torch.Tensor]
    generator: torch.Generator
    room: int
    stops: tuple[str, ...]
    ids: list[int]
    text: str = ""
    finished: str | None = None


class Chat:
    """Answers requests, in batches or one at a time as a stream. Not safe for use by several threads at once."""

    def __init__(self, model: LlavaModel) -> None:
        self.model = model.eval()
        ends = model.language_model.generation_config.eos_token_id if model.language_model.generation_config else None
        self._ends = {cast(int, model.tokenizer.eos_token_id), *(ends if isinstance(ends, list) else [ends])} - {None}

    @classmethod
    def load(cls, folder: Path | str, *, dtype: torch.dtype | None = None) -> Chat:
        """From an ``assistant/`` folder. Raises llava.model.BadModel."""
        return cls(LlavaModel.load(folder, dtype=dtype))

    @property
    def max_length(self) -> int:
        """Tokens of prompt and answer together."""
        return min(self.model.config.max_length, self.model.language_model.config.max_position_embeddings)

    def generate(self, requests: Sequence[ChatRequest], *, max_new_tokens: int = 256, temperature: float = 0.0,
                 top_p: float = 1.0, seed: int = 0, stop: Sequence[str] = (), batch_size: int = BATCH
                 ) -> list[ChatReply]:
        """One reply a request, in order. temperature 0 is greedy.

        Raises ValueError for a request whose pictures and ``<image>`` differ in number or that does not end with a
        human turn, PromptTooLong, and llava.images.BadImage.
        """
        replies: list[ChatReply] = []
        for first in range(0, len(requests), batch_size):
            rows = [self._row(r, max_new_tokens, seed, stop) for r in requests[first:first + batch_size]]
            for _ in self._decode(rows, temperature, top_p):
                pass
            replies += [self._reply(row) for row in rows]
        return replies

    def stream(self, request: ChatRequest, *, max_new_tokens: int = 256, temperature: float = 0.0, top_p: float = 1.0,
               seed: int = 0, stop: Sequence[str] = ()) -> Generator[str, None, ChatReply]:
        """Pieces of the answer as they become certain; joined they are the text that ``generate`` gives.

        The generator's return value is the ChatReply. Raises as ``generate`` does, at the call.
        """
        return self._pieces(self._row(request, max_new_tokens, seed, stop), temperature, top_p)

    def _pieces(self, row: _Row, temperature: float, top_p: float) -> Generator[str, None, ChatReply]:
        sent = 0
        for _ in self._decode([row], temperature, top_p):
            certain = row.text if row.finished else _certain(row.text, row.stops)
            shown = certain.strip()
            if len(shown) > sent:
                yield shown[sent:]
                sent = len(shown)
        return self._reply(row)

    def _row(self, request: ChatRequest, max_new_tokens: int, seed: int, stop: Sequence[str]) -> _Row:
        marks = sum(turn.num_marks for turn in request.turns)
        if marks != len(request.images):
            raise ValueError(f"{marks} {IMAGE} in the human turns for {len(request.images)} picture(s)")
        model = self.model
        prompt = encode_prompt(place_images(request.turns, model.config.image_position), model.template,
                               model.tokenizer, model.num_image_tokens, image_ends=model.image_ends)
        room = min(max_new_tokens, self.max_length - len(prompt))
        if room < 1:
            raise PromptTooLong(f"the prompt has {len(prompt)} tokens, pictures included; this model takes "
                                f"{self.max_length} with the answer")
        identity = hashlib.sha256(repr((seed, prompt)).encode() + b"".join(request.images)).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(identity[:7], "big"))
        return _Row(prompt=prompt, pixels=[model.preprocessor(body) for body in request.images], generator=generator,
                    room=room, stops=(*model.template.stop_strings, *stop), ids=[])

    @torch.inference_mode()
    def _decode(self, rows: list[_Row], temperature: float, top_p: float) -> Iterator[None]:
        """Advance every unfinished row by one token, until all are finished."""
        model = self.model
        language_model = cast(Any, model.language_model)
        device = model.projector.weight.device
        longest = max(len(row.prompt) for row in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros(len(rows), longest, dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, longest - len(row.prompt):] = torch.tensor(row.prompt)
            mask[i, longest - len(row.prompt):] = 1
        pixels = [p for row in rows for p in row.pixels]
        embedded = model.embed(ids.to(device), torch.stack(pixels).to(device) if pixels else None)
        mask = mask.to(device)
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        cache = None
        while True:
            out = language_model(inputs_embeds=embedded, attention_mask=mask, position_ids=positions,
                                 past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = out.past_key_values
            tokens = [self._next(row, logits, temperature, top_p)
                      for row, logits in zip(rows, out.logits[:, -1].float().cpu(), strict=True)]
            yield
            if all(row.finished for row in rows):
                return
            embedded = model.embed(torch.tensor(tokens, device=device)[:, None], None)
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            positions = positions[:, -1:] + 1

    def _next(self, row: _Row, logits: torch.Tensor, temperature: float, top_p: float) -> int:
        """Take the row's next token and see whether its answer ends there; finished rows idle on a pad token."""
        if row.finished:
            return 0
        token = _draw(logits, temperature, top_p, row.generator)
        row.ids.append(token)
        if token in self._ends:
            row.finished = "stop"
            return token
        row.text = self._text(row.ids)
        ends = [at for stop in row.stops if (at := row.text.find(stop)) >= 0]
        if ends:
            row.text, row.finished = row.text[:min(ends)], "stop"
        elif len(row.ids) >= row.room:
            row.finished = "length"
        return token

    def _text(self, ids: list[int]) -> str:
        return cast(str, self.model.tokenizer.decode(ids, skip_special_tokens=True))

    def _reply(self, row: _Row) -> ChatReply:
        return ChatReply(text=row.text.strip(), finish_reason=cast(str, row.finished),
                         num_prompt_tokens=len(row.prompt), num_completion_tokens=len(row.ids))


def _draw(logits: torch.Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    """logits: float32 [V]. The smallest set of tokens that holds ``top_p`` of the probability is drawn from."""
    if temperature <= 0:
        return int(logits.argmax())
    probabilities, order = torch.softmax(logits / temperature, dim=-1).sort(descending=True)
    before = probabilities.cumsum(dim=-1) - probabilities
    probabilities[before >= top_p] = 0.0
    return int(order[torch.multinomial(probabilities, 1, generator=generator)])


def _certain(text: str, stops: Sequence[str]) -> str:
    """The part of a growing text that nothing to come can change: no half character, no beginning of a stop."""
    text = text.rstrip("�")
    for stop in stops:
        for length in range(min(len(stop), len(text)), 0, -1):
            if text.endswith(stop[:length]):
                text = text[:-length]
                break
    return text
