"""The prompt of each kind, as plain files: a system message, and worked examples of a context and its answer.

A kind's folder holds ``system_message.txt`` and pairs ``NNN_caps.txt`` (what the teacher is given) and ``NNN_conv.txt``
(what it should answer). The messages are: system; for each pair, user and assistant; the context in question as user.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from llava.instructions.parse import Kind

FOLDER = Path(__file__).parent
Messages = list[dict[str, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """system: the system message. shots: (context, answer) of the worked examples."""

    system: str
    shots: tuple[tuple[str, str], ...]


@cache
def load_prompt(kind: Kind) -> Prompt:
    """The prompt of a kind. Raises FileNotFoundError when an example lacks its answer."""
    folder = FOLDER / kind.value
    shots = tuple((_text(caps), _text(caps.with_name(caps.name.replace("_caps", "_conv"))))
                  for caps in sorted(folder.glob("*_caps.txt")))
    return Prompt(system=_text(folder / "system_message.txt"), shots=shots)


def messages_for(kind: Kind, context: str) -> Messages:
    """What is sent for a rendered context."""
    prompt = load_prompt(kind)
    messages = [{"role": "system", "content": prompt.system}]
    for caps, answer in prompt.shots:
        messages += [{"role": "user", "content": caps}, {"role": "assistant", "content": answer}]
    return [*messages, {"role": "user", "content": context}]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip()
