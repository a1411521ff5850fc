"""Caption files: every line ends as a row or as a rejected row with a reason, and a row's identity is its content.

A file is UTF-8 text, one ``caption<TAB>url`` a line, no header; a byte-order mark, CRLF line ends and gzip are taken as
they come. A row's number is its line (0-based, running on through the files) and serves only as its name; choices
and ties use its identity, SHA-256 of caption, tab and URL, so the order of lines and files never shows.
"""

from __future__ import annotations

import codecs
import enum
import gzip
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

MAX_LINE_BYTES = 64 * 1024  # the longest of CC3M's 3.3M lines is under 2 kB; a longer line is no caption
MAX_TEXT = 500  # characters of a rejected line that are kept
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class RowProblem(enum.Enum):
    """Why a line is not a row."""

    EMPTY_LINE = "empty_line"
    INVALID_UTF8 = "invalid_utf8"
    WRONG_NUMBER_OF_FIELDS = "wrong_number_of_fields"
    EMPTY_CAPTION = "empty_caption"
    CONTROL_CHARACTER = "control_character"
    BAD_URL = "bad_url"
    TOO_LONG = "too_long"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A usable line. row: its 0-based number. identity: 32 bytes."""

    row: int
    caption: str
    url: str
    identity: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class RejectedRow:
    """A line that is no row. text: its beginning, undecodable bytes shown as ``\\xNN``."""

    row: int
    reason: RowProblem
    text: str


def caption_identity(caption: str, url: str) -> bytes:
    """SHA-256 of caption, tab and URL: what makes two rows the same row."""
    return hashlib.sha256(f"{caption}\t{url}".encode()).digest()


def read_rows(files: Iterable[Path]) -> Iterator[Row | RejectedRow]:
    """Every line of the files, in order. Memory is bounded by the longest line that is kept.

    Raises OSError for a file that cannot be read, gzip damage included.
    """
    row = 0
    for file in files:
        with _open(file) as stream:
            for first, line in _lines(stream):
                yield _parse(row, line.removeprefix(codecs.BOM_UTF8) if first else line)
                row += 1


def _open(file: Path) -> BinaryIO:
    with open(file, "rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    return gzip.open(file, "rb") if packed else open(file, "rb")  # type: ignore[return-value]


def _lines(stream: BinaryIO) -> Iterator[tuple[bool, bytes]]:
    """Lines without their end; of a line that is too long only the beginning, still over the limit."""
    first = True
    while line := stream.readline(MAX_LINE_BYTES + 2):
        rest = line
        while not rest.endswith(b"\n") and (rest := stream.readline(MAX_LINE_BYTES)):
            pass
        yield first, line.removesuffix(b"\n").removesuffix(b"\r")
        first = False


def _parse(row: int, line: bytes) -> Row | RejectedRow:
    def rejected(reason: RowProblem) -> RejectedRow:
        text = line[:MAX_TEXT * 4].decode("utf-8", "backslashreplace")
        return RejectedRow(row=row, reason=reason, text=text[:MAX_TEXT])

    if len(line) > MAX_LINE_BYTES:
        return rejected(RowProblem.TOO_LONG)
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        return rejected(RowProblem.INVALID_UTF8)
    if not text.strip():
        return rejected(RowProblem.EMPTY_CAPTION if "\t" in text else RowProblem.EMPTY_LINE)
    fields = text.split("\t")
    if len(fields) != 2:
        return rejected(RowProblem.WRONG_NUMBER_OF_FIELDS)
    caption, url = fields
    if not caption.strip():
        return rejected(RowProblem.EMPTY_CAPTION)
    if CONTROL.search(caption):
        return rejected(RowProblem.CONTROL_CHARACTER)
    if not is_web_url(url):
        return rejected(RowProblem.BAD_URL)
    return Row(row=row, caption=caption, url=url, identity=caption_identity(caption, url))


def is_web_url(url: str) -> bool:
    """Whether it is an absolute http or https URL with a host, no user name, and a port that is a number."""
    if any(c.isspace() or not c.isprintable() for c in url):
        return False
    try:
        parts = urlsplit(url)
        return (parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
                and parts.port != 0)
    except ValueError:
        return False
