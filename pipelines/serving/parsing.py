"""A request body becomes a ``Completion`` or a refusal; nothing in it is guessed, and nothing that matters is ignored.

Fields of OpenAI's API that change the answer and that this server does not have are refused (``tools``,
``response_format``); fields that it does not know are ignored, as clients send new ones before servers know them.
A picture's place is known by counting, not by searching: ``<image>`` typed by a user stays text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llava.templates import ASSISTANT, HUMAN, SYSTEM
from pipelines.serving.errors import ApiError, invalid, unknown_model, unsupported
from pipelines.serving.pictures import PictureLimits, read_picture

ROLES = {"system": SYSTEM, "developer": SYSTEM, "user": HUMAN, "assistant": ASSISTANT}
REFUSED_ROLES = ("tool", "function")

# Fields that mean something, with the values that ask for nothing beyond what this server does.
HARMLESS: Mapping[str, tuple[Any, ...]] = {
    "tools": ([],), "tool_choice": ("none", "auto"), "functions": ([],), "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},), "modalities": (["text"],), "audio": (), "prediction": (),
    "web_search_options": (), "logprobs": (False,), "top_logprobs": (0,), "logit_bias": ({},),
    "presence_penalty": (0,), "frequency_penalty": (0,), "n": (1,),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one request may ask for. deadline_s: seconds from its arrival to the end of its answer."""

    max_body_bytes: int = 48_000_000
    max_messages: int = 128
    max_characters: int = 200_000
    max_tokens: int = 1024
    default_max_tokens: int = 256
    max_stops: int = 4
    deadline_s: float = 120.0
    health_deadline_s: float = 10.0
    pictures: PictureLimits = field(default_factory=PictureLimits)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How an answer is drawn. temperature 0 is greedy, and is the default: the same question gives the same answer."""

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """role: ``human``, ``gpt`` or ``system``. text: exactly what was typed. images: bytes of pictures before it."""

    role: str
    text: str
    images: tuple[bytes, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """One valid request. messages: an optional system message, then human and gpt in turn, human first and last."""

    model: str
    messages: tuple[Message, ...]
    sampling: Sampling
    stream: bool = False
    include_usage: bool = False


def parse(body: bytes, model: str, limits: Limits) -> Completion:
    """The request in a body. model: the name that is served. Raises ApiError for the first thing that is wrong."""
    raw = _load(body)
    asked = raw.get("model")
    if not isinstance(asked, str) or not asked:
        raise invalid("model", f"model is required; this server has {model!r}", "missing_required_parameter")
    if asked != model:
        raise unknown_model(asked if len(asked) <= 100 and asked.isprintable() else None, model)
    for name, harmless in HARMLESS.items():
        value = raw.get(name)
        if value is not None and not any(value == h and isinstance(value, bool) is isinstance(h, bool)
                                         for h in harmless):
            raise unsupported(name)
    stream = _boolean(raw, "stream")
    return Completion(model=asked, messages=_messages(raw.get("messages"), limits), sampling=_sampling(raw, limits),
                      stream=stream, include_usage=_include_usage(raw.get("stream_options"), stream))


def _load(body: bytes) -> dict[str, Any]:
    def constant(name: str) -> Any:
        raise invalid(None, f"the body holds {name}, which is not JSON", "invalid_json")

    try:
        raw = json.loads(body.decode("utf-8"), parse_constant=constant)
    except UnicodeDecodeError:
        raise invalid(None, "the body is not UTF-8", "invalid_json") from None
    except RecursionError:
        raise invalid(None, "the body is nested too deep", "invalid_json") from None
    except json.JSONDecodeError as error:
        raise invalid(None, f"the body is not JSON: {error.msg} at character {error.pos}", "invalid_json") from None
    except ValueError:  # an integer of thousands of digits
        raise invalid(None, "the body holds a number that is too long", "invalid_json") from None
    if not isinstance(raw, dict):
        raise invalid(None, "the body must be a JSON object", "invalid_json")
    return raw


def _messages(value: Any, limits: Limits) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise invalid("messages", "messages must be a list of at least one message")
    if len(value) > limits.max_messages:
        raise invalid("messages", f"messages holds more than {limits.max_messages}")
    _count_first(value, limits)
    merged: list[Message] = []
    for i, raw in enumerate(value):
        message = _message(raw, f"messages[{i}]", limits)
        if message.role == SYSTEM and merged and merged[-1].role != SYSTEM:
            raise invalid(f"messages[{i}].role", "a system message must come before all others")
        if merged and merged[-1].role == message.role:  # the templates alternate; two in a row are one turn
            last = merged.pop()
            message = Message(role=last.role, text=f"{last.text}\n{message.text}", images=last.images + message.images)
        merged.append(message)
    turns = [m for m in merged if m.role != SYSTEM]
    if not turns or turns[-1].role != HUMAN:
        raise invalid("messages", "the last message must be the user's")
    if turns[0].role != HUMAN:
        raise invalid("messages", "the first message after the system's must be the user's")
    return tuple(merged)


def _count_first(messages: list[Any], limits: Limits) -> None:
    """Bound the text and the number of pictures before any of them is looked at."""
    parts = [p for m in messages if isinstance(m, dict)
             for p in (m["content"] if isinstance(m.get("content"), list) else [m.get("content")])]
    texts = [p if isinstance(p, str) else p.get("text") if isinstance(p, dict) else None for p in parts]
    if sum(len(t) for t in texts if isinstance(t, str)) > limits.max_characters:
        raise ApiError(400, "context_length_exceeded", f"the messages hold more than {limits.max_characters:,} "
                                                       f"characters of text", "messages")
    pictures = sum(isinstance(p, dict) and p.get("type") == "image_url" for p in parts)
    if pictures > limits.pictures.max_pictures:
        raise ApiError(400, "invalid_image", f"{pictures} pictures in one request; at most "
                                             f"{limits.pictures.max_pictures} are read", "messages")


def _message(raw: Any, where: str, limits: Limits) -> Message:
    if not isinstance(raw, dict):
        raise invalid(where, "a message must be an object with role and content")
    role = raw.get("role")
    if role in REFUSED_ROLES:
        raise invalid(f"{where}.role", "messages of tools and functions are not supported", "unsupported_parameter")
    if not isinstance(role, str) or role not in ROLES:
        raise invalid(f"{where}.role", f"role must be one of {', '.join(ROLES)}")
    if raw.get("tool_calls") or raw.get("function_call"):
        raise unsupported(f"{where}.tool_calls")
    content = raw.get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list):
        raise invalid(f"{where}.content", "content must be a string or a list of parts")
    texts: list[str] = []
    images: list[bytes] = []
    for i, part in enumerate(parts):
        at = f"{where}.content[{i}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            texts.append(_text(part.get("text"), f"{at}.text"))
        elif kind == "image_url" and role == "user":
            images.append(_picture(part.get("image_url"), f"{at}.image_url", limits))
        elif kind == "image_url":
            raise invalid(at, "only the user's messages may hold pictures")
        elif isinstance(kind, str) and kind in ("input_audio", "file", "refusal", "video_url"):
            raise invalid(f"{at}.type", "parts of this type are not supported", "unsupported_parameter")
        else:
            raise invalid(f"{at}.type", "a part must be of type text or image_url")
    message = Message(role=ROLES[role], text="\n".join(texts), images=tuple(images))
    if role == "user" and not images and not message.text.strip():
        raise invalid(f"{where}.content", "the user's message is empty")
    return message


def _picture(value: Any, where: str, limits: Limits) -> bytes:
    if not isinstance(value, dict):
        raise invalid(where, 'image_url must be an object: {"url": "data:image/png;base64,..."}')
    if extra := [k for k in value if k not in ("url", "detail")]:
        raise invalid(where, f"image_url has {len(extra)} unknown key(s); it holds url and, if wanted, detail")
    if value.get("detail") not in (None, "auto", "low", "high"):
        raise invalid(f"{where}.detail", "detail must be auto, low or high")
    return read_picture(value.get("url"), f"{where}.url", limits.pictures)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise invalid(where, "text must be a string")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise invalid(where, "text holds half of a surrogate pair, which is no character") from None
    return value


def _sampling(raw: Mapping[str, Any], limits: Limits) -> Sampling:
    given = [name for name in ("max_completion_tokens", "max_tokens") if raw.get(name) is not None]
    if len(given) == 2 and raw[given[0]] != raw[given[1]]:
        raise invalid("max_tokens", "max_tokens and max_completion_tokens differ; give one of them")
    max_tokens = _integer(raw, given[0], 1, limits.max_tokens) if given else limits.default_max_tokens
    seed = _integer(raw, "seed", -2**63, 2**63 - 1) if raw.get("seed") is not None else None
    return Sampling(max_tokens=max_tokens, temperature=_number(raw, "temperature", 0.0, 2.0, 0.0),
                    top_p=_number(raw, "top_p", 0.0, 1.0, 1.0, above=True), seed=seed,
                    stop=_stop(raw.get("stop"), limits))


def _stop(value: Any, limits: Limits) -> tuple[str, ...]:
    if value is None:
        return ()
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > limits.max_stops:
        raise invalid("stop", f"stop must be a string or a list of at most {limits.max_stops}")
    for stop in stops:
        if not _text(stop, "stop") or len(stop) > 200:
            raise invalid("stop", "a stop string must have 1 to 200 characters")
    return tuple(stops)


def _boolean(raw: Mapping[str, Any], name: str) -> bool:
    value = raw.get(name)
    if value is not None and not isinstance(value, bool):
        raise invalid(name, f"{name} must be true or false")
    return bool(value)


def _integer(raw: Mapping[str, Any], name: str, least: int, most: int) -> int:
    value = raw[name]
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise invalid(name, f"{name} must be an integer from {least} to {most}")
    return value


def _number(raw: Mapping[str, Any], name: str, least: float, most: float, default: float, above: bool = False) -> float:
    """above: least itself is not allowed."""
    value = raw.get(name)
    if value is None:
        return default
    fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and \
        least <= value <= most and not (above and value == least)
    if not fits:
        raise invalid(name, f"{name} must be a number {'above' if above else 'from'} {least:g} "
                            f"{'and up' if above else ''} to {most:g}".replace("  ", " "))
    return float(value)


def _include_usage(value: Any, stream: bool) -> bool:
    if value is None:
        return False
    if not stream:
        raise invalid("stream_options", "stream_options is only for stream: true")
    if not isinstance(value, dict):
        raise invalid("stream_options", 'stream_options must be an object: {"include_usage": true}')
    return _boolean(value, "include_usage")
