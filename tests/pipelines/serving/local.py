"""The ingress and the model in this process, without Ray: the same code behind the same HTTP, quick to start."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import uvicorn

from pipelines.serving.application import Ingress
from pipelines.serving.assistant import Assistant
from pipelines.serving.served import Served


class _Call:
    """What a handle's ``remote`` gives: one awaitable answer."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def __await__(self):
        yield from ()
        return self._answer

    def cancel(self) -> None:
        pass


class InProcess:
    """Stands where the handle of the engine's deployment stands."""

    def __init__(self, assistant: Assistant) -> None:
        self._assistant = assistant
        self.complete = self

    def remote(self, asked: Any) -> _Call:
        return _Call(self._assistant.answer([asked])[0])


@contextlib.contextmanager
def serving(served: Served, folder: Any, port: int) -> Iterator[None]:
    """The application at the root of that port."""
    engine: Any = InProcess(Assistant(folder, served.fingerprint))
    api = Ingress(engine, served).__serve_build_asgi_app__()
    server = uvicorn.Server(uvicorn.Config(api, host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.02)
        yield
    finally:
        server.should_exit = True
        thread.join()
