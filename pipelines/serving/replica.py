"""The engine: one model in one process, and one thread that computes.

Everything that touches the model runs in that thread, one step at a time: a batch of whole answers, or one piece of one
stream. So the event loop stays free to accept and refuse, streams go forward side by side, and a client that leaves
costs at most the step under way. A replica that fails a canary never becomes ready: it gets no traffic, and with a
surge the version before it goes on serving.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

from ray import serve

from pipelines.serving.errors import ApiError
from pipelines.serving.parsing import Completion
from pipelines.serving.replies import Answer, Delta
from pipelines.serving.served import Served


class Replica:
    """``complete`` and ``stream`` give an ApiError as a value for what is wrong with the request itself."""

    def __init__(self, served: Served) -> None:
        import torch  # here, so that the ingress and the driver, which only name this class, load no torch

        from pipelines.serving.assistant import Assistant
        from pipelines.serving.fetch import fetch_assistant

        torch.set_num_threads(served.threads)
        cast(Any, self.complete).set_max_batch_size(served.batch_size)
        self._assistant = Assistant(fetch_assistant(served), served.fingerprint)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="generate")
        self._thread.submit(self._assistant.check, served.canaries).result()

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.005)
    async def complete(self, asked: list[Completion]) -> list[Answer | ApiError]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._assistant.answer, asked)

    async def stream(self, asked: Completion) -> AsyncIterator[Delta | Answer | ApiError]:
        """Deltas, then the Answer (its text is all of them); or an ApiError alone."""
        loop = asyncio.get_running_loop()
        pieces = await loop.run_in_executor(self._thread, self._assistant.start, asked)
        if isinstance(pieces, ApiError):
            yield pieces
            return
        try:
            while True:
                item = await loop.run_in_executor(self._thread, self._assistant.piece, pieces)
                yield item
                if isinstance(item, Answer):
                    return
        finally:
            self._thread.submit(pieces.close)
