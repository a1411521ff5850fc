"""Teachers: whoever answers chat messages. What a record was written by is said in the record.

A teacher is asked with messages and gives text; it knows nothing of kinds, images or files. The demo's teacher is a
program, a grammar over captions and boxes. It reads the same messages as a language model would and calls itself what
it is, so its records can never be taken for a language model's.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from llava.instructions.parse import Kind
from llava.instructions.prompts import load_prompt

SHORTEST_SECRET = 8  # a shorter key stands where an endpoint asks for none
GRAMMAR = "grammar teacher, not a language model"


class TeacherMisconfigured(Exception):
    """No request can succeed before a person mends the address, the model's name or the key."""


class TeacherUnavailable(ConnectionError):
    """The endpoint did not answer, or not usefully, though it was asked again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherReply:
    """finish_reason: as in the chat-completions protocol. usage: tokens by kind. model: who answered."""

    text: str
    finish_reason: str
    model: str
    usage: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"text": self.text, "finish_reason": self.finish_reason, "model": self.model, "usage": dict(self.usage)}


class Teacher(Protocol):
    """Safe to be called from several threads at once."""

    def answer(self, messages: Sequence[Mapping[str, str]], *, temperature: float, seed: int,
               max_tokens: int) -> TeacherReply:
        """Raises TeacherMisconfigured or TeacherUnavailable; a request that alone is refused gives a reply with
        finish_reason ``refused``."""
        ...


def request_digest(teacher: str, messages: Sequence[Mapping[str, str]], *, temperature: float, seed: int,
                   max_tokens: int) -> str:
    """The identity of a request: equal requests are asked once. teacher: what is asked, such as the model's name."""
    body = {"teacher": teacher, "messages": [dict(m) for m in messages], "temperature": temperature, "seed": seed,
            "max_tokens": max_tokens}
    return hashlib.sha256(json.dumps(body, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class GrammarTeacher:
    """The demo's teacher: a grammar over what the last message holds. Temperature and length do not matter."""

    def answer(self, messages: Sequence[Mapping[str, str]], *, temperature: float, seed: int,
               max_tokens: int) -> TeacherReply:
        from llava.demo.grammar import respond

        kind = next((k for k in Kind if load_prompt(k).system == messages[0]["content"]), None)
        if kind is None:
            raise TeacherMisconfigured("the grammar teacher only knows the three prompts of llava/instructions/prompts")
        text = respond(messages[-1]["content"], kind.value, seed)
        return TeacherReply(text=text, finish_reason="stop", model=GRAMMAR)


class OpenAITeacher:
    """Any endpoint of the OpenAI chat-completions API. The client retries with back-off and honours Retry-After."""

    def __init__(self, *, base_url: str, model: str, api_key_env: str, timeout_s: float, retries: int) -> None:
        """api_key_env: name of the variable that holds the key; an endpoint without keys takes any text there."""
        import openai

        key = os.environ.get(api_key_env, "")
        if not key:
            raise TeacherMisconfigured(f"the environment variable {api_key_env} is not set; it must hold the key of "
                                       f"{base_url} (any text if the endpoint asks for none)")
        self.model = model
        self.base_url = base_url
        self._key = key
        self._client = openai.OpenAI(base_url=base_url, api_key=key, timeout=timeout_s, max_retries=retries)

    def answer(self, messages: Sequence[Mapping[str, str]], *, temperature: float, seed: int,
               max_tokens: int) -> TeacherReply:
        import openai

        try:
            reply = self._client.chat.completions.create(
                model=self.model, messages=list(messages), temperature=temperature, seed=seed,  # type: ignore[arg-type]
                max_tokens=max_tokens)
            choice = reply.choices[0]
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
            raise TeacherMisconfigured(f"{self.base_url} refuses model {self.model!r}: {self._said(error)}") from None
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            return TeacherReply(text=self._said(error), finish_reason="refused", model=self.model)
        except openai.APIError as error:
            raise TeacherUnavailable(f"{self.base_url}: {self._said(error)}") from None
        except (IndexError, TypeError, AttributeError, ValueError):
            raise TeacherUnavailable(f"{self.base_url} answered without a choice, or with broken JSON") from None
        usage = reply.usage
        return TeacherReply(text=choice.message.content or "", finish_reason=choice.finish_reason or "stop",
                            model=reply.model or self.model,
                            usage={"prompt_tokens": usage.prompt_tokens,
                                   "completion_tokens": usage.completion_tokens} if usage else {})

    def _said(self, error: Any) -> str:
        """What the endpoint said, without the key, should it echo it."""
        text = str(error.message)
        return text.replace(self._key, "***") if len(self._key) >= SHORTEST_SECRET else text
