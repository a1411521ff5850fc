"""An HTTP proxy before a real S3 server that hurts requests on purpose.

    with FaultyProxy("http://127.0.0.1:8333", plan) as proxy:   # clients talk to proxy.url

plan(method, path, n) says what happens to the n-th request (from 1):
    pass        nothing
    503, 409    refused with that status, not carried out
    reset       the connection is cut, not carried out
    lost        carried out, and the connection cut instead of the answer
    truncate    carried out, and half of the answer's body sent
    flip        carried out, and one bit of the answer's body turned
    slow        carried out after a second
"""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlparse

ERRORS = {"503": ("SlowDown", "Slow Down"), "409": ("ConditionalRequestConflict", "Conflict")}


class FaultyProxy:
    def __init__(self, upstream: str, plan: Callable[[str, str, int], str]) -> None:
        self.done: list[tuple[str, str]] = []  # (method, what happened) in order
        lock = threading.Lock()
        address = urlparse(upstream).netloc
        done = self.done

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                with lock:
                    action = plan(self.command, self.path, len(done) + 1)
                    done.append((self.command, action))
                if action in ERRORS:
                    code, reason = ERRORS[action]
                    text = f"<Error><Code>{code}</Code><Message>{reason}</Message></Error>"
                    self.answer(int(action), {}, text.encode())
                    return
                if action == "reset":
                    self.cut()
                    return
                if action == "slow":
                    time.sleep(1)
                upstream = http.client.HTTPConnection(address, timeout=20)
                upstream.request(self.command, self.path, body, dict(self.headers))
                reply = upstream.getresponse()
                data = reply.read()
                if action == "lost":
                    self.cut()
                    return
                if action == "flip" and data:
                    data = bytes([data[0] ^ 1]) + data[1:]
                self.answer(reply.status, dict(reply.getheaders()), data, truncate=action == "truncate")

            def answer(self, status: int, headers: dict[str, str], data: bytes, truncate: bool = False) -> None:
                self.send_response_only(status)
                for name, value in headers.items():
                    if name.lower() not in ("transfer-encoding", "connection"):
                        self.send_header(name, value)
                if "Content-Length" not in headers:
                    self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data[:len(data) // 2] if truncate else data)
                if truncate:
                    self.cut()

            def cut(self) -> None:
                self.close_connection = True
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)

            def log_message(self, format: str, *args: object) -> None:
                pass

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_any

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FaultyProxy:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
