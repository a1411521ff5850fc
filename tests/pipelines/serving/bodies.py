"""Requests that must be refused, each with its status, code and the field that is named; shared by two tests."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from typing import Any

from PIL import Image

from tests import tiny

MODEL = "tiny"


def data_uri(body: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(body).decode()}"


def image_part(url: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def body(content: Any = "What is in the picture?", **fields: Any) -> dict[str, Any]:
    """A valid body, with these fields laid on it."""
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], "max_tokens": 4} | fields


def with_picture(url: Any, count: int = 1) -> dict[str, Any]:
    return body([*[image_part(url)] * count, {"type": "text", "text": "What is this?"}])


def huge_png(width: int = 60_000, height: int = 60_000) -> bytes:
    """A few bytes that claim 3.6 thousand million pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


def encoded(kind: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), "blue").save(out, kind)
    return out.getvalue()


PICTURE = data_uri(tiny.picture())

# name -> (body or raw bytes, status, code, param)
REFUSED: dict[str, tuple[Any, int, str, str | None]] = {
    "not json": (b"{", 400, "invalid_json", None),
    "empty body": (b"", 400, "invalid_json", None),
    "not utf-8": (b'{"model": "\xff"}', 400, "invalid_json", None),
    "a list": (b"[]", 400, "invalid_json", None),
    "NaN": (b'{"model": "tiny", "messages": [], "temperature": NaN}', 400, "invalid_json", None),
    "Infinity": (b'{"model": "tiny", "messages": [], "top_p": -Infinity}', 400, "invalid_json", None),
    "nested deep": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, 400, "invalid_json", None),
    "an endless number": (b'{"model": "tiny", "seed": ' + b"9" * 10_000 + b"}", 400, "invalid_json", None),
    "no model": ({k: v for k, v in body().items() if k != "model"}, 400, "missing_required_parameter", "model"),
    "unknown model": (body(model="gpt-4"), 404, "model_not_found", "model"),
    "no messages": (body(messages=[]), 400, "invalid_value", "messages"),
    "messages no list": (body(messages="hello"), 400, "invalid_value", "messages"),
    "too many messages": (body(messages=[{"role": "user", "content": "a"}] * 1000), 400, "invalid_value", "messages"),
    "unknown role": (body(messages=[{"role": "hacker", "content": "a"}]), 400, "invalid_value", "messages[0].role"),
    "role of a tool": (body(messages=[{"role": "tool", "content": "a"}]), 400, "unsupported_parameter",
                       "messages[0].role"),
    "system message late": (body(messages=[{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]), 400,
                            "invalid_value", "messages[1].role"),
    "assistant last": (body(messages=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]), 400,
                       "invalid_value", "messages"),
    "assistant first": (body(messages=[{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]), 400,
                        "invalid_value", "messages"),
    "no content": (body(None), 400, "invalid_value", "messages[0].content"),
    "empty text": (body("  "), 400, "invalid_value", "messages[0].content"),
    "half a surrogate": (b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}', 400,
                         "invalid_value", "messages[0].content[0].text"),
    "unknown part": (body([{"type": "hologram"}]), 400, "invalid_value", "messages[0].content[0].type"),
    "audio part": (body([{"type": "input_audio"}]), 400, "unsupported_parameter", "messages[0].content[0].type"),
    "too much text": (body("a" * 1_000_000), 400, "context_length_exceeded", "messages"),
    "longer than the context": (body("word " * 2_000), 400, "context_length_exceeded", "messages"),
    "max_tokens 0": (body(max_tokens=0), 400, "invalid_value", "max_tokens"),
    "max_tokens huge": (body(max_tokens=10**9), 400, "invalid_value", "max_tokens"),
    "max_tokens true": (body(max_tokens=True), 400, "invalid_value", "max_tokens"),
    "max_tokens 1.5": (body(max_tokens=1.5), 400, "invalid_value", "max_tokens"),
    "max_completion_tokens -1": (body(max_tokens=None, max_completion_tokens=-1), 400, "invalid_value",
                                 "max_completion_tokens"),
    "both limits": (body(max_completion_tokens=5), 400, "invalid_value", "max_tokens"),
    "temperature 3": (body(temperature=3), 400, "invalid_value", "temperature"),
    "temperature as text": (body(temperature="hot"), 400, "invalid_value", "temperature"),
    "top_p 0": (body(top_p=0), 400, "invalid_value", "top_p"),
    "seed 2**80": (body(seed=2**80), 400, "invalid_value", "seed"),
    "stop empty": (body(stop=""), 400, "invalid_value", "stop"),
    "stop five": (body(stop=["a"] * 5), 400, "invalid_value", "stop"),
    "stream as text": (body(stream="yes"), 400, "invalid_value", "stream"),
    "stream_options alone": (body(stream_options={"include_usage": True}), 400, "invalid_value", "stream_options"),
    "n 2": (body(n=2), 400, "unsupported_parameter", "n"),
    "n true": (body(n=True), 400, "unsupported_parameter", "n"),
    "tools": (body(tools=[{"type": "function"}]), 400, "unsupported_parameter", "tools"),
    "json mode": (body(response_format={"type": "json_object"}), 400, "unsupported_parameter", "response_format"),
    "logprobs": (body(logprobs=True), 400, "unsupported_parameter", "logprobs"),
    "logit_bias": (body(logit_bias={"5": 100}), 400, "unsupported_parameter", "logit_bias"),
    "presence_penalty": (body(presence_penalty=1), 400, "unsupported_parameter", "presence_penalty"),
    **{f"url {url}": (with_picture(url), 400, "image_url_not_allowed", "messages[0].content[0].image_url.url")
       for url in ("http://127.0.0.1:9/x.png", "https://example.org/x.png", "http://[::ffff:127.0.0.1]/x",
                   "http://2130706433/", "//127.0.0.1/x", "file:///etc/passwd", "ftp://x/y", "s3://b/k",
                   "/etc/passwd", "gopher://x", "")},
    "url no string": (with_picture(5), 400, "invalid_value", "messages[0].content[0].image_url.url"),
    "image_url as text": (body([{"type": "image_url", "image_url": PICTURE}]), 400, "invalid_value",
                          "messages[0].content[0].image_url"),
    "media options": (body([{"type": "image_url", "image_url": {"url": PICTURE, "num_frames": 9}}]), 400,
                      "invalid_value", "messages[0].content[0].image_url"),
    **{f"picture {name}": (with_picture(url), 400, "invalid_image", "messages[0].content[0].image_url.url")
       for name, url in {
           "of another type": "data:text/html;base64,PGI+", "without a comma": "data:image/png;base64",
           "not base64": "data:image/png,%89PNG", "bad base64": "data:image/png;base64,@@@@",
           "with white space": PICTURE[:40] + "\n" + PICTURE[40:], "empty": data_uri(b""),
           "no picture": data_uri(b"hello"), "cut off": data_uri(tiny.picture(size=(64, 64))[:60]),
           "a bomb": data_uri(huge_png()), "a strip": data_uri(huge_png(50_000, 1_000)),
           "an SVG": "data:image/svg+xml;base64,PHN2Zy8+", "a TIFF": data_uri(encoded("TIFF")),
           "a BMP": data_uri(encoded("BMP"), "jpeg"), "too large": data_uri(bytes(11_000_000))}.items()},
    "too many pictures": (with_picture(PICTURE, count=300), 400, "invalid_image", "messages"),
    "picture of the assistant": (body(messages=[{"role": "user", "content": "a"},
                                                {"role": "assistant", "content": [image_part(PICTURE)]},
                                                {"role": "user", "content": "b"}]), 400, "invalid_value",
                                 "messages[1].content[0]"),
}
ONLY_SERVED = {"longer than the context"}  # the model itself must say it


def raw(sent: Any) -> bytes:
    return sent if isinstance(sent, bytes) else json.dumps(sent).encode()
