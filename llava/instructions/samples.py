"""Instruction samples in the published schema, drawn by hash: a sample depends on its own context and seed alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llava.instructions.context import SymbolicContext, render
from llava.instructions.parse import Kind, Parsed
from llava.instructions.prompts import Messages, messages_for
from llava.instructions.questions import DETAILED, draw_instruction, drawn, place_image


def order_of_asking(contexts: Iterable[SymbolicContext], kind: Kind, seed: int) -> list[SymbolicContext]:
    """The contexts in the order in which a kind's quota is filled."""
    return sorted(contexts, key=lambda c: (drawn(seed, "order", kind.value, c.id), c.id))


def request_for(context: SymbolicContext, kind: Kind, seed: int, *, conversation_boxes: bool) -> tuple[Messages, int]:
    """Messages and the request's own seed (31 bits). Conversation sees captions only, unless told otherwise."""
    with_boxes = conversation_boxes or kind is not Kind.CONVERSATION
    return (messages_for(kind, render(context, with_boxes=with_boxes)),
            drawn(seed, "request", kind.value, context.id) >> 33)


def sample(context: SymbolicContext, kind: Kind, parsed: Parsed, seed: int, model: str) -> dict[str, Any]:
    """One record of ``chat.json``. The question of a detailed description is drawn from the published list of 16."""
    about = (kind.value, context.id)
    turns = []
    for i, (question, answer) in enumerate(parsed.pairs):
        asked = question or draw_instruction(DETAILED, seed, *about)
        turns += [{"from": "human", "value": asked if i else place_image(asked, seed, *about)},
                  {"from": "gpt", "value": answer}]
    return {"id": context.id, "image": context.image, "model": model, "conversations": turns}
