"""A web server on loopback that misbehaves on purpose: the path says how."""

from __future__ import annotations

import contextlib
import io
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

from PIL import Image


def picture(kind: str = "JPEG", size: tuple[int, int] = (96, 64), colour: int = 0) -> bytes:
    """A picture that compresses badly enough to be cut in half."""
    image = Image.effect_noise(size, 80).convert("RGB") if colour == 0 else Image.new("RGB", size, colour)
    body = io.BytesIO()
    image.save(body, kind)
    return body.getvalue()


JPEG = picture()


def bomb() -> bytes:
    """A small file whose header claims 3.6 gigapixels."""
    plain = picture("PNG", (8, 8), 1)
    header = b"IHDR" + (60_000).to_bytes(4, "big") * 2 + plain[24:29]
    return plain[:12] + header + zlib.crc32(header).to_bytes(4, "big") + plain[33:]


BODIES = {
    "/good.jpg": JPEG, "/good.png": picture("PNG"), "/good.webp": picture("WEBP"), "/good.gif": picture("GIF"),
    "/html": b"<!DOCTYPE html><html><body>sold</body></html>", "/svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "/bad-header": picture("PNG")[:20] + b"\0" * 500,
    "/tiff": picture("TIFF"), "/empty": b"", "/truncated-file": JPEG[:len(JPEG) // 2],
    "/corrupt": picture("PNG")[:60] + b"\0" * 500, "/bomb": bomb(), "/small": picture(size=(8, 80)),
    "/large": b"\xff\xd8" + b"x" * 300_000,
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    asked: ClassVar[Counter[str]] = Counter()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        Handler.asked[self.path] += 1
        first = Handler.asked[self.path] == 1
        if path in BODIES:
            self._answer(200, BODIES[path], {"Content-Type": "image/jpeg"})
        elif path.startswith("/status/"):
            self._answer(int(path.removeprefix("/status/")), b"no")
        elif path in ("/heals", "/heals-429"):
            self._answer(200, JPEG) if not first else self._answer(
                429 if path.endswith("429") else 503, b"later", {"Retry-After": "0"})
        elif path == "/cut-once" and not first:
            self._answer(200, JPEG)
        elif path in ("/cut", "/cut-once"):
            self._answer(200, JPEG[:100], length=len(JPEG))
            self.close_connection = True
        elif path == "/drip":
            self._answer(200, b"", length=1000)
            with contextlib.suppress(OSError):
                for _ in range(50):
                    self.wfile.write(b"x")
                    time.sleep(0.1)
        elif path == "/endless":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(b"8000\r\n" + b"x" * 0x8000 + b"\r\n")
        elif path == "/reset":
            self.close_connection = True
        elif path == "/not-http":
            self.wfile.write(b"SSH-2.0-OpenSSH\r\n")
            self.close_connection = True
        elif path.startswith("/to/"):
            self._answer(302, b"", {"Location": path.removeprefix("/to/").replace("~", "/")})
        else:
            self._answer(404, b"no such picture")

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None,
                length: int | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextlib.contextmanager
def misbehaving_server() -> Iterator[str]:
    """The address of the running server, ``http://127.0.0.1:port``."""
    Handler.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
