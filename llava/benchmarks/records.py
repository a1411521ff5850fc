"""Records of benchmarks on disk: every row is read whole and named, or the file is refused.

An error names the file, the row and the field. Rows are joined by question id, never by their place in a file, so a
file in another order gives the same scores and a file that lacks a question is caught.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

QuestionId = int | str
"""As the file has it; two ids are the same question when their texts are equal (``7`` and ``"7"``)."""


class MalformedRecords(ValueError):
    """A benchmark file that cannot be used. The message names the file, the row, the field and the fix."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One answer of one model to one question, in the fields of the official answer files."""

    question_id: QuestionId
    prompt: str
    text: str
    model_id: str
    metadata: Mapping[str, Any]

    @property
    def answer_id(self) -> str:
        """Equal answers have equal ids, so a rerun writes the same bytes."""
        parts = [str(self.question_id), self.prompt, self.text, self.model_id]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:22]

    def as_json(self) -> dict[str, Any]:
        return {"question_id": self.question_id, "prompt": self.prompt, "text": self.text,
                "answer_id": self.answer_id, "model_id": self.model_id, "metadata": dict(self.metadata)}


def read_json(path: Path) -> Any:
    """The JSON document in a file. Raises MalformedRecords."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MalformedRecords(f"{path}: cannot be read: {error.strerror}; give the path of the file") from None
    except UnicodeDecodeError as error:
        raise MalformedRecords(f"{path}: not valid UTF-8 at byte {error.start}; save it as UTF-8") from None
    except json.JSONDecodeError as error:
        raise MalformedRecords(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from None


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file, blank lines left out. Raises MalformedRecords."""
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise MalformedRecords(f"{path}: cannot be read: {error.strerror}; give the path of the file") from None
    except UnicodeDecodeError as error:
        raise MalformedRecords(f"{path}: not valid UTF-8 at byte {error.start}; save it as UTF-8") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise MalformedRecords(f"{path}:{number}: not valid JSON: {error.msg}") from None
        if not isinstance(row, dict):
            raise MalformedRecords(f"{path}:{number}: a row is a JSON object, found {type(row).__name__}")
        rows.append(row)
    if not rows:
        raise MalformedRecords(f"{path}: holds no row")
    return rows


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One object a line, in the order given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def field(row: Mapping[str, Any], name: str, kind: type | tuple[type, ...], where: str) -> Any:
    """``row[name]``, which must be of that kind. ``where`` names the file and the row in the error."""
    if name not in row:
        raise MalformedRecords(f"{where}: the field {name!r} is missing; it has {', '.join(sorted(row)) or 'none'}")
    value = row[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise MalformedRecords(f"{where}: the field {name!r} has the wrong type: {value!r}")
    return value


def question_ids(rows: Sequence[Mapping[str, Any]], path: Path) -> list[QuestionId]:
    """The id of each row: ``question_id``; else ``id`` where it is unique; else the row's number from 0.

    The last is how the In-the-Wild release numbers its questions: there ``id`` names the picture, and the answer
    files count the questions. Raises MalformedRecords for a repeated ``question_id`` or rows that mix the two.
    """
    with_own = [row for row in rows if "question_id" in row]
    if with_own and len(with_own) < len(rows):
        raise MalformedRecords(f"{path}: {len(rows) - len(with_own)} of {len(rows)} rows have no question_id")
    if with_own:
        ids = [field(row, "question_id", (int, str), f"{path}: row {i + 1}") for i, row in enumerate(rows)]
    else:
        ids = [field(row, "id", (int, str), f"{path}: row {i + 1}") for i, row in enumerate(rows)]
        if len({str(i) for i in ids}) < len(ids):
            return list(range(len(ids)))
    seen: set[str] = set()
    for qid in ids:
        if str(qid) in seen:
            raise MalformedRecords(f"{path}: question {qid} occurs twice; keep one row of it")
        seen.add(str(qid))
    return ids


def in_order(qid: QuestionId) -> tuple[int, int, str]:
    """A sort key: numbers by value before other texts."""
    text = str(qid)
    return (0, int(text), text) if text.isdecimal() else (1, 0, text)


def named(ids: Iterable[QuestionId], limit: int = 8) -> str:
    """The ids as a person reads them, the first few of many."""
    ordered = sorted(ids, key=in_order)
    rest = f" and {len(ordered) - limit} more" if len(ordered) > limit else ""
    return ", ".join(str(i) for i in ordered[:limit]) + rest
