"""Downloaded bytes are a picture only if they decode: sniffed, bounded before decoding, fully read.

What the server says about its content is not looked at. Bytes are kept as they came unless a size is asked for;
then they are scaled down and stored without loss, so that equal bytes always give equal bytes.
"""

from __future__ import annotations

import enum
import io
from dataclasses import dataclass

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"GIF8")


class Problem(enum.Enum):
    """Why a URL gave no picture. ``connection`` tells what a working network might heal."""

    FORBIDDEN_ADDRESS = "forbidden_address"  # loopback, private, link-local or otherwise not public
    BAD_URL = "bad_url"  # cannot be asked for, such as an address written in an odd way
    BAD_REDIRECT = "bad_redirect"  # to something that is no web URL, or too many
    UNKNOWN_HOST = "unknown_host"
    UNREACHABLE = "unreachable"  # refused, reset, TLS failure, no HTTP
    TIMEOUT = "timeout"
    HTTP_ERROR = "http_error"  # a status that no retry heals
    SERVER_ERROR = "server_error"  # 429 and 5xx, after the retries
    TOO_BIG = "too_big"  # bytes
    EMPTY = "empty"
    HTML = "html"  # a page where a picture should be
    WRONG_TYPE = "wrong_type"  # neither JPEG, PNG, WEBP nor GIF
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_SMALL = "too_small"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    CHANGED = "changed"  # another picture than the one that was recorded, whose bytes are lost

    @property
    def connection(self) -> bool:
        return self in (Problem.UNKNOWN_HOST, Problem.UNREACHABLE, Problem.TIMEOUT)


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureRules:
    """size: shortest side in pixels to scale down to, None to keep the bytes. min_side: shortest side to accept."""

    size: int | None
    min_side: int
    max_pixels: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """body: the bytes to store. num_bytes, width, height: of the picture as fetched."""

    body: bytes
    num_bytes: int
    width: int
    height: int


def examine(body: bytes, rules: PictureRules) -> Picture | Problem:
    """The picture to store, or why the bytes are none. The header's size is checked before anything is decoded."""
    from PIL import Image, UnidentifiedImageError

    if not body:
        return Problem.EMPTY
    try:
        picture = Image.open(io.BytesIO(body), formats=FORMATS)
    except UnidentifiedImageError:
        if body.startswith(SIGNATURES):
            return Problem.CORRUPT
        return Problem.HTML if _is_html(body) else Problem.WRONG_TYPE
    except Image.DecompressionBombError:
        return Problem.TOO_MANY_PIXELS
    except (OSError, SyntaxError, ValueError):
        return Problem.CORRUPT
    width, height = picture.size
    if width * height > rules.max_pixels:
        return Problem.TOO_MANY_PIXELS
    if min(width, height) < rules.min_side:
        return Problem.TOO_SMALL
    try:
        rgb = picture.convert("RGB")
    except Exception as error:  # decoders raise whatever a damaged file leads them to
        return Problem.TRUNCATED if "truncated" in str(error) else Problem.CORRUPT
    if rules.size is None or min(width, height) <= rules.size:
        return Picture(body=body, num_bytes=len(body), width=width, height=height)
    scale = rules.size / min(width, height)
    smaller = rgb.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
    stored = io.BytesIO()
    smaller.save(stored, "PNG", compress_level=6)
    return Picture(body=stored.getvalue(), num_bytes=len(body), width=width, height=height)


def _is_html(body: bytes) -> bool:
    head = body[:2048].lstrip().lower()
    return head.startswith((b"<!doctype html", b"<html")) or b"<html" in head
