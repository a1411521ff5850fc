"""The model behind the API, without Ray: requests in, answers or refusals out. Used from one thread only.

What a request itself is at fault for comes back as an ApiError value, beside the answers of the others; anything else
that goes wrong is raised.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from llava.chat import Chat, ChatReply, ChatRequest, PromptTooLong
from llava.images import BadImage
from llava.templates import HUMAN, IMAGE, Turn
from pipelines.serving.errors import ApiError
from pipelines.serving.parsing import Completion, Message, Sampling
from pipelines.serving.replies import Answer, Delta
from pipelines.serving.served import Canary

CANARY_TOKENS = 48
REFUSED = (PromptTooLong, BadImage)

Pieces = Generator[str, None, ChatReply]


class CanaryFailed(RuntimeError):
    """The model loads but does not answer as it must."""


class Assistant:
    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._chat = Chat.load(folder)
        self._fingerprint = fingerprint
        for name, weight in self._chat.model.named_parameters():
            if not torch.isfinite(weight).all():
                raise CanaryFailed(f"{fingerprint} is not served: its weight {name} holds numbers that are not finite")

    def answer(self, asked: Sequence[Completion]) -> list[Answer | ApiError]:
        """In order; requests of equal sampling are computed together."""
        groups: dict[Sampling, list[int]] = {}
        for i, one in enumerate(asked):
            groups.setdefault(one.sampling, []).append(i)
        answers: dict[int, Answer | ApiError] = {}
        for members in groups.values():
            answers |= zip(members, self._together([asked[i] for i in members]), strict=True)
        return [answers[i] for i in range(len(asked))]

    def start(self, asked: Completion) -> Pieces | ApiError:
        """A stream that ``piece`` takes forward."""
        try:
            return cast(Pieces, self._chat.stream(to_chat(asked.messages), **_options(asked.sampling)))
        except REFUSED as error:
            return _refusal(error)

    def piece(self, pieces: Pieces) -> Delta | Answer:
        """The next piece of a stream; at its end the whole answer."""
        try:
            return Delta(text=next(pieces), fingerprint=self._fingerprint)
        except StopIteration as end:
            return self._answered(end.value)

    def check(self, canaries: Sequence[Canary]) -> None:
        """Raises CanaryFailed unless every canary is answered as it must be."""
        for canary in canaries:
            asked = [Message(role=HUMAN, text=canary.question, images=(canary.picture,))]
            reply = self._chat.generate([to_chat(asked)], **_options(Sampling(max_tokens=CANARY_TOKENS)))[0]
            if complaint := canary.complaint(reply.text):
                raise CanaryFailed(f"{self._fingerprint} does not pass its canary: {complaint}")

    def _together(self, asked: Sequence[Completion]) -> list[Answer | ApiError]:
        """asked: of equal sampling. A request that the model cannot take does not spoil the others'."""
        try:
            replies = self._chat.generate([to_chat(one.messages) for one in asked], **_options(asked[0].sampling))
        except REFUSED as error:
            if len(asked) == 1:
                return [_refusal(error)]
            return [answer for one in asked for answer in self._together([one])]
        return [self._answered(reply) for reply in replies]

    def _answered(self, reply: ChatReply) -> Answer:
        return Answer(text=reply.text, finish_reason=reply.finish_reason, num_prompt_tokens=reply.num_prompt_tokens,
                      num_completion_tokens=reply.num_completion_tokens, fingerprint=self._fingerprint)


def to_chat(messages: Sequence[Message]) -> ChatRequest:
    """Pictures stand before the words of their turn, one a line; ``<image>`` in the words is text."""
    turns = []
    for message in messages:
        marks = len(message.images)
        text = f"{IMAGE}\n" * marks + message.text if marks else message.text
        turns.append(Turn(message.role, text.strip() if marks else text, num_images=marks))
    return ChatRequest(turns=tuple(turns), images=tuple(body for message in messages for body in message.images))


def _options(sampling: Sampling) -> dict[str, Any]:
    seed = random.getrandbits(63) if sampling.seed is None else sampling.seed
    return {"max_new_tokens": sampling.max_tokens, "temperature": sampling.temperature, "top_p": sampling.top_p,
            "seed": seed, "stop": sampling.stop}


def _refusal(error: Exception) -> ApiError:
    if isinstance(error, PromptTooLong):
        return ApiError(400, "context_length_exceeded", str(error), "messages")
    return ApiError(400, "invalid_image", "a picture cannot be read", "messages")
