"""Response bodies in OpenAI's form, and the events of a stream.

A stream that ends well ends with ``data: [DONE]``; one that fails ends with an error event and without it, so that a
client can always tell a finished answer from a broken one.
"""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from pipelines.serving.errors import ApiError

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the engine says. finish_reason: ``stop`` or ``length``. fingerprint: model version and serving code."""

    text: str
    finish_reason: str
    num_prompt_tokens: int
    num_completion_tokens: int
    fingerprint: str

    def usage(self) -> dict[str, int]:
        """Prompt tokens count the tokens of pictures."""
        return {"prompt_tokens": self.num_prompt_tokens, "completion_tokens": self.num_completion_tokens,
                "total_tokens": self.num_prompt_tokens + self.num_completion_tokens}


@dataclass(frozen=True, kw_only=True, slots=True)
class Delta:
    """A piece of an answer that is being written."""

    text: str
    fingerprint: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """One reply's identity, shared by all its events."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, answer: Answer) -> dict[str, Any]:
        choice = {"index": 0, "message": {"role": "assistant", "content": answer.text, "refusal": None},
                  "logprobs": None, "finish_reason": answer.finish_reason}
        return {"id": self.id, "object": "chat.completion", "created": self.created, "model": self.model,
                "system_fingerprint": answer.fingerprint, "choices": [choice], "usage": answer.usage()}

    def event(self, fingerprint: str, delta: dict[str, str], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return _event(self._chunk(fingerprint, [choice]))

    def usage_event(self, answer: Answer) -> bytes:
        return _event(self._chunk(answer.fingerprint, []) | {"usage": answer.usage()})

    def _chunk(self, fingerprint: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model,
                "system_fingerprint": fingerprint, "choices": choices}


def error_event(error: ApiError) -> bytes:
    return _event(error.body())


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
