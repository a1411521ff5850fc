"""Conversations in the published JSON schema, and their token ids with labels.

A token is supervised if and only if it overlaps an answer or the stop that ends it; it may carry white space of the
template besides, never its letters. This holds because the text is tokenised once, with offsets, and each token is
held against the spans that the template emitted. Special tokens in anyone's words are plain text. A row that breaks
the schema, or a sample without a supervised token, is an error that names it, never a sample of zero loss.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, cast

from llava.templates import ASSISTANT, HUMAN, IMAGE, SUPERVISED, TEMPLATES, Kind, Span, Template, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["IGNORE", "IMAGE", "IMAGE_TOKEN", "TEMPLATES", "BadConversations", "CannotEncode", "Encoded", "Sample",
           "Turn", "Violation", "encode", "encode_prompt", "place_images", "read_samples", "write_samples"]

IGNORE = -100  # label of a token that is not supervised
IMAGE_TOKEN = -200  # id that stands for one feature of a picture


class BadConversations(ValueError):
    """The file as a whole is unusable: missing, not JSON, not a list. Names the file and the fix."""


class CannotEncode(ValueError):
    """This sample has no usable token sequence. Names the sample and why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One conversation. images: names in the order of the ``<image>`` marks in the human turns."""

    id: str
    images: tuple[str, ...] = ()
    turns: tuple[Turn, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Violation:
    """A row that breaks the schema. row is 0-based; field is a path within the row."""

    file: str
    row: int
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}, row {self.row}, {self.field}: {self.message}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """ids: token ids, IMAGE_TOKEN where a picture's features go. labels: the id where supervised, else IGNORE."""

    ids: list[int]
    labels: list[int]

    @property
    def num_supervised(self) -> int:
        return sum(label != IGNORE for label in self.labels)


def read_samples(path: Path | str) -> tuple[list[Sample], list[Violation]]:
    """Every row of the file is in exactly one of the two lists. Raises BadConversations for an unusable file."""
    path = Path(path)
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadConversations(f"{path} does not exist") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BadConversations(f"{path} is not JSON in UTF-8: {error}") from error
    if not isinstance(rows, list):
        raise BadConversations(f"{path} holds a {type(rows).__name__}; a JSON list of conversations is needed")
    samples, violations = [], []
    for i, row in enumerate(rows):
        try:
            samples.append(_read_row(row))
        except _Broken as broken:
            violations.append(Violation(file=path.name, row=i, field=broken.field, message=broken.message))
    return samples, violations


def write_samples(samples: Iterable[Sample], path: Path) -> None:
    """Write the published schema: one picture as a string, several as a list, none without the key."""
    rows = []
    for sample in samples:
        image = {"image": sample.images[0] if len(sample.images) == 1 else list(sample.images)} if sample.images else {}
        rows.append({"id": sample.id, **image,
                     "conversations": [{"from": t.role, "value": t.text} for t in sample.turns]})
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


class _Broken(Exception):
    def __init__(self, field: str, message: str) -> None:
        self.field, self.message = field, message


def _read_row(row: Any) -> Sample:
    if not isinstance(row, dict):
        raise _Broken("(row)", f"is a {type(row).__name__}, not an object")
    if not isinstance(row.get("id"), str) or not row["id"]:
        raise _Broken("id", f"is {row.get('id')!r}, not a non-empty string")
    turns = _read_turns(row.get("conversations"))
    images = _read_images(row["image"]) if "image" in row else ()
    marks = [turn.text.count(IMAGE) for turn in turns[::2]]
    if sum(marks) != len(images):
        raise _Broken("conversations", f"{sum(marks)} {IMAGE} in the human turns for {len(images)} picture(s)")
    if len(images) == 1 and not marks[0]:
        raise _Broken("conversations", f"{IMAGE} is not in the first human turn")
    return Sample(id=row["id"], images=images, turns=turns)


def _read_images(value: Any) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names:
        raise _Broken("image", f"is {value!r}, not a path or a list of paths")
    for name in names:
        if not isinstance(name, str) or not name:
            raise _Broken("image", f"{name!r} is not a path")
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise _Broken("image", f"{name!r} is not a path inside the folder of pictures")
    return tuple(names)


def _read_turns(value: Any) -> tuple[Turn, ...]:
    if not isinstance(value, list) or len(value) < 2 or len(value) % 2:
        raise _Broken("conversations", "is not a list of an even number of turns, two at least")
    turns = []
    for i, turn in enumerate(value):
        field = f"conversations[{i}]"
        if not isinstance(turn, dict):
            raise _Broken(field, f"is a {type(turn).__name__}, not an object")
        expected = (HUMAN, ASSISTANT)[i % 2]
        if turn.get("from") != expected:
            raise _Broken(f"{field}.from", f"is {turn.get('from')!r}; {expected!r} is due (human and gpt alternate)")
        if not isinstance(turn.get("value"), str) or not turn["value"].strip():
            raise _Broken(f"{field}.value", f"is {turn.get('value')!r}, not a non-empty string")
        turns.append(Turn(expected, turn["value"]))
    return tuple(turns)


def place_images(turns: Sequence[Turn], position: str) -> tuple[Turn, ...]:
    """Where pictures stand in their turn: ``kept`` as written, or ``front``: each on a line before the words.

    ``front`` is what the authors' later scripts do with whatever the data says.
    """
    if position == "kept":
        return tuple(turns)
    if position != "front":
        raise ValueError(f"image position {position!r} is neither 'kept' nor 'front'")
    moved = []
    for turn in turns:
        count = turn.num_marks
        text = f"{IMAGE}\n" * count + turn.text.replace(IMAGE, "", count).strip() if count else turn.text
        moved.append(replace(turn, text=text.strip() if count else text))
    return tuple(moved)


def encode(sample: Sample, template: Template, tokenizer: PreTrainedTokenizerBase, num_image_tokens: int, *,
           image_ends: tuple[int, int] | None = None, max_length: int | None = None) -> Encoded:
    """Ids and labels of a training sample.

    num_image_tokens: features a picture. image_ends: ids around each picture, where the recipe has such tokens.
    max_length: cut there, pictures included. Raises CannotEncode when a picture would be cut or lost, when nothing
    supervised is left, or when ``plain`` gets something else than one picture and one caption.
    """
    try:
        spans = list(template.render(sample.turns))
    except ValueError as error:
        raise CannotEncode(f"sample {sample.id!r}: {error}") from error
    num_pictures = sum(span.kind is Kind.PICTURE for span in spans)
    if num_pictures != len(sample.images):
        raise CannotEncode(f"sample {sample.id!r}: {num_pictures} {IMAGE} for {len(sample.images)} picture(s)")
    if not template.instruction and (num_pictures != 1 or len(sample.turns) != 2):
        raise CannotEncode(f"sample {sample.id!r}: template {template.name!r} is for one picture and one caption; "
                           f"found {num_pictures} picture(s), {len(sample.turns)} turns")
    encoded = _encode_spans(spans, tokenizer, num_image_tokens, image_ends)
    if max_length is not None and len(encoded.ids) > max_length:
        lost = encoded.ids[max_length - 1:] if image_ends else encoded.ids[max_length:]
        if IMAGE_TOKEN in lost:
            raise CannotEncode(f"sample {sample.id!r}: {len(encoded.ids)} tokens, and a picture lies beyond the "
                               f"{max_length} allowed")
        encoded = Encoded(ids=encoded.ids[:max_length], labels=encoded.labels[:max_length])
    if not encoded.num_supervised:
        raise CannotEncode(f"sample {sample.id!r}: no supervised token within {max_length or len(encoded.ids)} tokens")
    return encoded


def encode_prompt(turns: Sequence[Turn], template: Template, tokenizer: PreTrainedTokenizerBase,
                  num_image_tokens: int, *, image_ends: tuple[int, int] | None = None) -> list[int]:
    """Ids up to where the assistant is to speak: what training shows before the same answer.

    Raises ValueError when the last turn is not a human one.
    """
    return _encode_spans(list(template.render(turns, prompt=True)), tokenizer, num_image_tokens, image_ends).ids


def _encode_spans(spans: list[Span], tokenizer: PreTrainedTokenizerBase, num_image_tokens: int,
                  image_ends: tuple[int, int] | None) -> Encoded:
    """Text between pictures and special tokens is tokenised in one piece, as the authors' code does."""
    ids: list[int] = []
    labels: list[int] = []
    piece: list[Span] = []

    def add(new: list[int], supervised: list[bool]) -> None:
        ids.extend(new)
        labels.extend(i if keep else IGNORE for i, keep in zip(new, supervised, strict=True))

    def flush() -> None:
        add(*_tokenise(piece, tokenizer))
        piece.clear()

    for span in spans:
        if span.text:
            piece.append(span)
        elif span.kind in (Kind.PICTURE, Kind.BEGIN, Kind.END):
            flush()
            if span.kind is Kind.PICTURE:
                start, stop = ([image_ends[0]], [image_ends[1]]) if image_ends else ([], [])
                run = [*start, *[IMAGE_TOKEN] * num_image_tokens, *stop]
                add(run, [False] * len(run))
            else:
                add(*_special(span.kind, tokenizer))
    flush()
    return Encoded(ids=ids, labels=labels)


def _special(kind: Kind, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[bool]]:
    if kind is Kind.BEGIN:  # models without such a token (byte-level BPE families) start with the text
        return ([], []) if tokenizer.bos_token_id is None else ([cast(int, tokenizer.bos_token_id)], [False])
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no end-of-sequence token, which this template ends an answer with")
    return [cast(int, tokenizer.eos_token_id)], [True]


def _tokenise(spans: list[Span], tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[bool]]:
    """Token ids of the joined text and whether each is supervised."""
    text = "".join(span.text for span in spans)
    if not text:
        return [], []
    starts, place = [], 0
    for span in spans:
        starts.append(place)
        place += len(span.text)
    found = cast("dict[str, Any]", tokenizer(text, add_special_tokens=False, split_special_tokens=True,
                                             return_offsets_mapping=True))
    supervised = []
    for first, last in found["offset_mapping"]:
        touched = [(span, begin) for span, begin in zip(spans, starts, strict=True)
                   if begin < last and first < begin + len(span.text)]
        keep = any(span.kind in SUPERVISED for span, _ in touched)
        supervised.append(keep)
        foreign = [(span, begin) for span, begin in touched if span.kind not in SUPERVISED and
                   text[max(first, begin):min(last, begin + len(span.text))].strip()]
        if keep and foreign:  # a token across an answer and letters of the template: cut the text where they meet
            cut = next(i for i in range(1, len(spans)) if first < starts[i] < last
                       and (spans[i - 1].kind in SUPERVISED) != (spans[i].kind in SUPERVISED))
            left, right = _tokenise(spans[:cut], tokenizer), _tokenise(spans[cut:], tokenizer)
            return left[0] + right[0], left[1] + right[1]
    return found["input_ids"], supervised
