"""The web that the demo's captions point to: ``python -m llava.demo.pictures --port P`` answers ``/<world>/<n>.jpg``.

It keeps no state: an address names the world and the picture, and what is answered follows from them, so the server
can be stopped, started and asked twice. Links are dead, files broken and pictures huge where ``corpus.fate`` says so.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import re
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from llava.demo.corpus import Fate, fate, web_scene
from llava.demo.drawing import encode, picture
from llava.demo.world import WorldSpec

_ADDRESS = re.compile(r"^/seed(\d{1,9})-drawings(\d{1,3})-size(\d{1,4})/(\d{1,9})\.jpg$")
_PAGE = b"<!doctype html><title>Moved</title><p>This picture has a new home.</p>\n"
HUGE_SIDES = (10_000, 8_000)  # beyond llava.images.MAX_PIXELS
MAX_SIZE = 512  # of a picture that the server draws


def reply(path: str) -> tuple[int, str, bytes]:
    """Status, content type and body for the path of a request."""
    if path == "/health":
        return 200, "text/plain", b"ok\n"
    found = _ADDRESS.match(path)
    if not found:
        return 404, "text/plain", b"no such picture: /seed7-drawings32-size64/1.jpg is one\n"
    seed, num_drawings, size, number = map(int, found.groups())
    try:
        spec = WorldSpec(seed=seed, num_drawings=num_drawings, image_size=size)
    except ValueError as error:
        return 404, "text/plain", f"no such world: {error}\n".encode()
    if size > MAX_SIZE:
        return 404, "text/plain", b"no such world: its pictures are too large\n"
    return _picture(spec, number)


def _picture(spec: WorldSpec, number: int) -> tuple[int, str, bytes]:
    outcome = fate(spec, number)
    match outcome:
        case Fate.MISSING:
            return 404, "text/html", b"<h1>Not found</h1>\n"
        case Fate.GONE:
            return 410, "text/html", b"<h1>Gone</h1>\n"
        case Fate.FAILING:
            return 500, "text/html", b"<h1>Something went wrong</h1>\n"
        case Fate.PAGE:
            return 200, "text/html; charset=utf-8", _PAGE
        case Fate.HUGE:
            return 200, "image/png", huge_picture()
        case Fate.CORRUPT:
            return 200, "image/jpeg", np.random.default_rng(number).bytes(2048)
    body = encode(picture(web_scene(spec, number), spec.image_size), "JPEG")
    return 200, "image/jpeg", body[:len(body) // 2] if outcome is Fate.TRUNCATED else body


@functools.lru_cache(maxsize=1)
def huge_picture() -> bytes:
    """A grey PNG of 80 megapixels in a few kilobytes, made without drawing it."""
    width, height = HUGE_SIDES
    packer, row = zlib.compressobj(9), b"\0" + b"\x80" * width
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4) + kind + body + zlib.crc32(kind + body).to_bytes(4)

    header = width.to_bytes(4) + height.to_bytes(4) + bytes((8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        status, kind, body = reply(self.path)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:  # thousands of requests: the client's report tells
        pass


class PictureServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m llava.demo.pictures", description="Serve the demo's web pictures.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    with PictureServer((arguments.host, arguments.port), _Handler) as server:
        print(f"pictures at http://{arguments.host}:{server.server_address[1]}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


if __name__ == "__main__":
    main()
