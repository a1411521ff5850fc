"""Pictures in requests: nothing is fetched, nothing is decoded before its header says that it is small enough.

A picture arrives as a base64 ``data:`` URI. Its format comes from its bytes, by a list of four, never from what the URI
claims: Pillow's other formats are attack surface. Width and height are read from the header, so a few bytes that claim
60000x60000 pixels cost nothing. Then the first frame is decoded once, here, so that a broken picture is the client's
error and not the engine's.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from dataclasses import dataclass

from PIL import Image

from pipelines.serving.errors import ApiError, invalid

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
HEAD = re.compile(r"data:image/(?:jpeg|jpg|png|webp|gif)(?:;[a-z]+=[\w.-]{1,40})*;base64\Z", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureLimits:
    """max_pictures: in one request. max_bytes: of one file. max_pixels: width times height of one picture."""

    max_pictures: int = 8
    max_bytes: int = 10_000_000
    max_pixels: int = 40_000_000


def read_picture(url: object, param: str, limits: PictureLimits) -> bytes:
    """The bytes of a usable picture. Raises ApiError 400: ``image_url_not_allowed`` or ``invalid_image``."""
    if not isinstance(url, str):
        raise invalid(param, f"{param} must be a string: data:image/png;base64,...")
    if url[:5].lower() != "data:":
        raise ApiError(400, "image_url_not_allowed", "this server fetches no pictures and reads no files: send the "
                                                     "picture itself as data:image/png;base64,...", param)
    head, comma, encoded = url.partition(",")
    if not comma or not HEAD.match(head):
        raise _bad(param, "must be data:image/TYPE;base64,... with TYPE one of jpeg, png, webp and gif")
    if len(encoded) * 3 // 4 > limits.max_bytes + 2:
        raise _bad(param, f"is larger than {limits.max_bytes:,} bytes")
    try:
        body = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise _bad(param, "is not valid base64") from None
    check_picture(body, param, limits)
    return body


def check_picture(body: bytes, param: str, limits: PictureLimits) -> None:
    """Raises ApiError 400 ``invalid_image`` unless the first frame decodes and all limits are kept."""
    if not body:
        raise _bad(param, "is empty")
    if len(body) > limits.max_bytes:
        raise _bad(param, f"is larger than {limits.max_bytes:,} bytes")
    try:
        with Image.open(io.BytesIO(body), formats=FORMATS) as picture:  # reads the header only
            if picture.width * picture.height > limits.max_pixels:
                raise _bad(param, f"has more than {limits.max_pixels:,} pixels")
            picture.load()
    except ApiError:
        raise
    except Image.DecompressionBombError:
        raise _bad(param, f"has more than {limits.max_pixels:,} pixels") from None
    except Exception:  # Pillow's decoders raise many kinds on damaged bytes; whichever it is, the picture is unusable
        raise _bad(param, "cannot be decoded; JPEG, PNG, WEBP and GIF are read") from None


def _bad(param: str, what: str) -> ApiError:
    return ApiError(400, "invalid_image", f"the picture {what}", param)
