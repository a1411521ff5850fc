"""A teacher's answer becomes turns, or is rejected with a named reason. Nothing is repaired or guessed.

conversation and complex: blocks between lines that are ``===``, headed ``Question:`` and ``Answer:`` in turn; complex
has exactly one pair. detail: the answer alone. A picture's reader must not be told of captions or boxes, so text that
mentions its sources is rejected, as are refusals and answers that were cut off.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

REFUSALS = re.compile(
    r"\b(i'?m sorry|i apologi[sz]e|as an ai|as a language model"
    r"|i (cannot|can't|am unable to) (see|view|assist|help|comply|fulfil))", re.IGNORECASE)
SOURCES = re.compile(
    r"\b(captions?|bounding[- ]box(es)?|coordinates?|(the|these|five) sentences? (above|provided|given))\b"
    r"|\[\s*[01]?\.\d+\s*,\s*[01]?\.\d+", re.IGNORECASE)
HEADERS = ("Question:", "Answer:")


class Kind(enum.StrEnum):
    """The three kinds of instruction data (paper, section 3)."""

    CONVERSATION = "conversation"
    DETAIL = "detail"
    COMPLEX = "complex"


class Reason(enum.Enum):
    """Why an answer is no sample."""

    EMPTY = "empty"
    TRUNCATED = "truncated"  # finish reason "length"
    FILTERED = "filtered"  # withheld by the endpoint
    REFUSAL = "refusal"
    MENTIONS_SOURCE = "mentions_source"  # captions, boxes or coordinates
    IMAGE_TOKEN = "image_token"  # the text holds the placeholder itself
    MISSING_HEADER = "missing_header"
    WRONG_ORDER = "wrong_order"  # blocks do not alternate question, answer
    UNPAIRED = "unpaired"  # a question without an answer
    EMPTY_TURN = "empty_turn"
    WRONG_NUMBER_OF_PAIRS = "wrong_number_of_pairs"
    UNEXPECTED_BLOCKS = "unexpected_blocks"  # headers or separators in a detailed description
    REQUEST_REFUSED = "request_refused"  # the endpoint did not take the request itself


@dataclass(frozen=True, kw_only=True, slots=True)
class Parsed:
    """pairs: (question, answer) texts; of a detailed description the question is empty, it is drawn elsewhere."""

    pairs: tuple[tuple[str, str], ...]


def parse(kind: Kind, text: str, finish_reason: str) -> Parsed | Reason:
    """finish_reason: as in the chat-completions protocol."""
    if finish_reason == "content_filter":
        return Reason.FILTERED
    if not text.strip():
        return Reason.EMPTY
    if finish_reason == "length":
        return Reason.TRUNCATED
    if "<image>" in text:
        return Reason.IMAGE_TOKEN
    if REFUSALS.search(text):
        return Reason.REFUSAL
    if SOURCES.search(text):
        return Reason.MENTIONS_SOURCE
    if kind is Kind.DETAIL:
        return _detail(text)
    pairs = _pairs(text)
    if kind is Kind.COMPLEX and isinstance(pairs, Parsed) and len(pairs.pairs) != 1:
        return Reason.WRONG_NUMBER_OF_PAIRS
    return pairs


def _detail(text: str) -> Parsed | Reason:
    if any(line.strip() == "===" or line.strip().startswith(HEADERS) for line in text.splitlines()):
        return Reason.UNEXPECTED_BLOCKS
    return Parsed(pairs=(("", text.strip()),))


def _pairs(text: str) -> Parsed | Reason:
    blocks = _blocks(text)
    turns = []
    for i, block in enumerate(blocks):
        header = next((h for h in HEADERS if block.startswith(h)), None)
        if header is None:
            return Reason.MISSING_HEADER
        if header != HEADERS[i % 2]:
            return Reason.WRONG_ORDER
        body = block.removeprefix(header).strip()
        if not body:
            return Reason.EMPTY_TURN
        turns.append(body)
    if len(turns) % 2:
        return Reason.UNPAIRED
    return Parsed(pairs=tuple(zip(turns[::2], turns[1::2], strict=True)))


def _blocks(text: str) -> list[str]:
    """What lies between separators; separators before the first and after the last block do not count."""
    blocks, block = [], []
    for line in [*text.strip().splitlines(), "==="]:
        if line.strip() == "===":
            blocks.append("\n".join(block).strip())
            block = []
        else:
            block.append(line)
    while blocks and not blocks[0]:
        blocks.pop(0)
    while blocks and not blocks[-1]:
        blocks.pop()
    return blocks
