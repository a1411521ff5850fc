"""A caption as one turn of conversation, in the published schema of the alignment set.

The instruction and the side on which ``<image>`` stands are drawn by hash of the seed and the caption's identity, so
a row's record depends on that row alone.
"""

from __future__ import annotations

from typing import Any

from llava.instructions.questions import BRIEF, draw_instruction, place_image


def image_id(row: int) -> str:
    """The published name of a picture of Conceptual Captions: its line in the corpus, nine digits."""
    return f"GCC_train_{row:09d}"


def image_name(row: int) -> str:
    """File name of the row's picture; ``.jpg`` whatever its format, as published."""
    return f"{image_id(row)}.jpg"


def chat_record(row: int, caption: str, identity: str, seed: int) -> dict[str, Any]:
    """identity: hex of the caption's identity. The caption is the answer, unchanged."""
    question = place_image(draw_instruction(BRIEF, seed, identity), seed, identity)
    return {"id": image_id(row), "image": image_name(row),
            "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": caption}]}


def metadata_record(row: int, caption: str, url: str) -> dict[str, Any]:
    return {"id": image_id(row), "image": image_name(row), "url": url, "caption": caption}
