"""Conversation templates: the exact strings that released LLaVA models were trained and are served with.

A template turns a conversation into spans, each of one kind, and nothing downstream ever looks for a separator in the
text again: what is supervised is decided here, where it is known, not recovered by searching. The strings are wire
format and carry over character for character; source: ``llava/conversation.py`` and ``preprocess_*`` in
``llava/train/train.py`` of https://github.com/haotian-liu/LLaVA.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

IMAGE = "<image>"  # stands for one picture in a human turn; anywhere else it is plain text

HUMAN, ASSISTANT, SYSTEM = "human", "gpt", "system"


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn. role: ``human`` or ``gpt`` as in the published schema; ``system`` only first, and only in a prompt.

    num_images: how many ``<image>``, from the front, stand for pictures; the rest is text that somebody typed. None,
    as in training data: every one.
    """

    role: str
    text: str
    num_images: int | None = None

    @property
    def num_marks(self) -> int:
        """How many pictures this turn shows."""
        if self.role != HUMAN:
            return 0
        return self.text.count(IMAGE) if self.num_images is None else self.num_images


class Kind(enum.Enum):
    """What a span of a rendered conversation is."""

    TEMPLATE = "template"  # the template's own words and white space
    USER = "user"  # words of a human turn or a system turn
    ANSWER = "answer"  # words of an assistant turn: supervised
    STOP = "stop"  # text that ends an answer: supervised
    END = "end"  # the tokenizer's end-of-sequence token after an answer: supervised
    BEGIN = "begin"  # the tokenizer's begin-of-sequence token
    PICTURE = "picture"  # one picture


SUPERVISED = frozenset({Kind.ANSWER, Kind.STOP, Kind.END})


@dataclass(frozen=True, slots=True)
class Span:
    """text is empty for BEGIN, END and PICTURE, which are no text."""

    kind: Kind
    text: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """opening: before the first human turn, ``{system}`` filled in. first_human, next_human: before a human turn.

    assistant: opens an answer, and is where a prompt ends. lead: white space between that and the answer. stop, end:
    what ends an answer, as text and as the end-of-sequence token. tail: after the last answer. next_begin: a
    begin-of-sequence token before every later round. instruction: False drops the words of human turns.
    """

    name: str
    system: str = ""
    opening: str
    first_human: str
    next_human: str
    assistant: str
    lead: str = " "
    stop: str = ""
    end: bool = False
    tail: str = ""
    next_begin: bool = False
    instruction: bool = True

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Texts that end an answer while generating; the end-of-sequence token always does."""
        return (self.stop.strip() or self.stop,) if self.stop and not self.end else ()

    def render(self, turns: Sequence[Turn], *, prompt: bool = False) -> Iterator[Span]:
        """Spans of the conversation, in order.

        prompt: end where the assistant is to speak (the last turn is then a human one). Raises ValueError when the
        roles do not alternate, or the last turn is not of the expected side.
        """
        system = self.system
        if turns and turns[0].role == SYSTEM:
            system, turns = turns[0].text, turns[1:]
        for i, turn in enumerate(turns):
            if turn.role != (HUMAN, ASSISTANT)[i % 2]:
                raise ValueError(f"turn {i} is of {turn.role!r}: human and gpt must alternate, human first")
        if len(turns) % 2 != prompt:
            raise ValueError("a prompt must end with a human turn" if prompt else
                             "a conversation must end with a gpt turn")
        before, _, after = self.opening.partition("{system}")
        yield Span(Kind.BEGIN)
        yield Span(Kind.TEMPLATE, before)
        yield Span(Kind.USER, system if self.opening else "")
        yield Span(Kind.TEMPLATE, after)
        for i, turn in enumerate(turns):
            if turn.role == HUMAN:
                if i and self.next_begin:
                    yield Span(Kind.BEGIN)
                yield Span(Kind.TEMPLATE, self.next_human if i else self.first_human)
                yield from self._human(turn)
                yield Span(Kind.TEMPLATE, self.assistant)
            else:
                yield Span(Kind.TEMPLATE, self.lead)
                yield Span(Kind.ANSWER, turn.text)
                yield Span(Kind.STOP, self.stop)
                if self.end:
                    yield Span(Kind.END)
        if not prompt:
            yield Span(Kind.TEMPLATE, self.tail)

    def _human(self, turn: Turn) -> Iterator[Span]:
        for i, words in enumerate(turn.text.split(IMAGE, turn.num_marks)):
            if i:
                yield Span(Kind.PICTURE)
            if self.instruction:
                yield Span(Kind.USER, words)


_CURIOUS_HUMAN = ("A chat between a curious human and an artificial intelligence assistant. "
                  "The assistant gives helpful, detailed, and polite answers to the human's questions.")
_CURIOUS_USER = ("A chat between a curious user and an artificial intelligence assistant. "
                 "The assistant gives helpful, detailed, and polite answers to the user's questions.")
_HELPFUL = ("You are a helpful language and vision assistant. You are able to understand the visual content that the "
            "user provides, and assist the user with a variety of tasks using natural language.")

_USER_ASSISTANT = {"opening": "{system} ", "first_human": "USER: ", "next_human": "USER: ",
                   "assistant": " ASSISTANT:", "end": True}

_ALL = (
    # Alignment of the released scripts: the picture, the caption and a newline; the instruction is not shown.
    Template(name="plain", opening="", first_human="", next_human="", assistant="", lead="", stop="\n",
             instruction=False),
    # The paper's. Rendered as in training everywhere; the newline belongs to the stop, or a model never learns it.
    Template(name="v0", system=_CURIOUS_HUMAN, opening="{system}\n\n", first_human="### Human: ",
             next_human=" Human: ", assistant="\n### Assistant:", stop="\n###", tail=" "),
    # The rendering that the authors' v0 models are served with: no line breaks.
    Template(name="llava_v0", system=_CURIOUS_HUMAN, opening="{system}###", first_human="Human: ",
             next_human="Human: ", assistant="###Assistant:", stop="###"),
    Template(name="v1", system=_CURIOUS_USER, **_USER_ASSISTANT),
    Template(name="llava_v1", system=_CURIOUS_HUMAN, **_USER_ASSISTANT),
    Template(name="llava_llama_2", system=_HELPFUL, opening="[INST] <<SYS>>\n{system}\n<</SYS>>\n\n", first_human="",
             next_human="[INST] ", assistant=" [/INST]", stop=" ", end=True, next_begin=True),
)

TEMPLATES: dict[str, Template] = {t.name: t for t in _ALL}
