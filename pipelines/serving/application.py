"""The HTTP side: only these routes exist, and every reply that is not 2xx is the one error object.

``POST /v1/chat/completions`` · ``GET /v1/models`` · ``GET /v1/models/{id}`` · ``GET /health`` · ``GET /`` (chat page).
The ingress holds no model: it parses, refuses, queues and forwards. The queue before the replicas is bounded; full is
429. A stream's status is decided by its first piece, so what can be refused is refused with a status, not mid-stream.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from starlette.exceptions import HTTPException

from pipelines.serving import errors
from pipelines.serving.errors import ApiError
from pipelines.serving.parsing import Completion, Limits, Message, Sampling, parse
from pipelines.serving.replica import Replica
from pipelines.serving.replies import DONE, Answer, Delta, Reply, error_event
from pipelines.serving.served import Served

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

log = logging.getLogger("ray.serve")
PAGE = Path(__file__).with_name("chat.html")
PAGE_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
                                           "img-src data: blob:; connect-src 'self'; base-uri 'none'; "
                                           "form-action 'none'; frame-ancestors 'none'",
                "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}
CONCURRENT = 512  # requests that the ingress holds at once, waiting ones included

class Ingress:
    """Stateless but for the handle to the replicas and what is served."""

    def __init__(self, engine: DeploymentHandle, served: Served) -> None:
        self._engine = engine
        self._served = served
        self._created = int(time.time())
        self._page = PAGE.read_text(encoding="utf-8")

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Ray Serve calls it in the replica, once the instance exists."""
        api = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
        api.get("/")(self.page)
        api.get("/v1/models")(self.models)
        api.get("/v1/models/{name:path}")(self.model)
        api.get("/health")(self.health)
        api.post("/v1/chat/completions")(self.chat)
        api.exception_handler(ApiError)(_refuse)
        api.exception_handler(HTTPException)(_refuse_route)
        return api

    async def page(self) -> Response:
        return HTMLResponse(self._page, headers=PAGE_HEADERS)

    async def models(self) -> dict[str, Any]:
        return {"object": "list", "data": [self._served.as_model(self._created)]}

    async def model(self, name: str) -> dict[str, Any]:
        if name != self._served.model:
            raise errors.unknown_model(name[:100] if name.isprintable() else None, self._served.model)
        return self._served.as_model(self._created)

    async def health(self) -> dict[str, Any]:
        """One token through the queue, in time: an engine that accepts and never answers is not healthy."""
        one = Completion(model=self._served.model, messages=(Message(role="human", text="Hello"),),
                         sampling=Sampling(max_tokens=1))
        answer = await self._complete(one, self._served.limits.health_deadline_s)
        return {"status": "ok", "model": self._served.model, "system_fingerprint": answer.fingerprint,
                "deployment": self._served.deployment}

    async def chat(self, request: Request) -> Response:
        body = await _read_body(request, self._served.limits)
        asked = await asyncio.to_thread(parse, body, self._served.model, self._served.limits)
        reply = Reply(model=asked.model)
        if not asked.stream:
            return JSONResponse(reply.whole(await self._complete(asked, self._served.limits.deadline_s)))
        items = self._items(asked, reply)
        first = await anext(items)
        if isinstance(first, ApiError):
            raise first
        return StreamingResponse(_events(reply, asked, first, items), media_type="text/event-stream",
                                 headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})

    async def _complete(self, asked: Completion, deadline_s: float) -> Answer:
        response = self._engine.complete.remote(asked)
        try:
            answer = await asyncio.wait_for(_result(response), deadline_s)
        except TimeoutError:
            response.cancel()
            raise errors.too_late(deadline_s) from None
        except Exception as error:
            raise _translate(error, "an answer") from error
        if isinstance(answer, ApiError):
            raise answer
        return answer

    async def _items(self, asked: Completion, reply: Reply) -> AsyncIterator[Delta | Answer | ApiError]:
        """What the engine says; ends after the Answer, or after an ApiError for whatever went wrong."""
        until = time.monotonic() + self._served.limits.deadline_s
        response: Any = self._engine.options(stream=True).stream.remote(asked)
        try:
            while True:
                item = await asyncio.wait_for(anext(response), max(0.0, until - time.monotonic()))
                yield item
                if not isinstance(item, Delta):
                    return
        except TimeoutError:
            yield errors.too_late(self._served.limits.deadline_s)
        except Exception as error:
            yield _translate(error, reply.id)
        finally:
            response.cancel()


async def _refuse(_request: Request, error: ApiError) -> Response:
    return JSONResponse(error.body(), error.status, headers=error.headers())


async def _refuse_route(request: Request, error: HTTPException) -> Response:
    if error.status_code == 405:
        refusal = ApiError(405, "method_not_allowed", f"{request.method} is not allowed here")
    else:
        refusal = errors.unknown_route(request.method, request.url.path)
    return JSONResponse(refusal.body(), refusal.status, headers=error.headers)


async def _result(response: Any) -> Answer | ApiError:
    return await response


async def _read_body(request: Request, limits: Limits) -> bytes:
    """JSON only: a page of another site can make a browser post forms and plain text here, but not JSON."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "unsupported_media_type", "send the header Content-Type: application/json")
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > limits.max_body_bytes:
            raise ApiError(413, "request_too_large", f"the body is larger than {limits.max_body_bytes:,} bytes")
    return bytes(body)


async def _events(reply: Reply, asked: Completion, first: Delta | Answer,
                  rest: AsyncIterator[Delta | Answer | ApiError]) -> AsyncIterator[bytes]:
    yield reply.event(first.fingerprint, {"role": "assistant", "content": ""})
    item: Delta | Answer | ApiError = first
    while True:
        if isinstance(item, ApiError):
            yield error_event(item)
            return
        if isinstance(item, Answer):
            yield reply.event(item.fingerprint, {}, item.finish_reason)
            if asked.include_usage:
                yield reply.usage_event(item)
            yield DONE
            return
        if item.text:
            yield reply.event(item.fingerprint, {"content": item.text})
        item = await anext(rest)


def _translate(error: Exception, what: str) -> ApiError:
    """The refusal that a failure of the engine or of its queue means to the client. The log has the failure itself."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, BackPressureError):
        return errors.busy()
    if isinstance(cause, (RayActorError, DeploymentUnavailableError, ReplicaUnavailableError)):
        log.warning("no replica for %s: %s", what, type(cause).__name__)
        return errors.unavailable()
    log.error("failed on %s", what, exc_info=error)
    return errors.internal(what)


def build_application(served: Served) -> serve.Application:
    """The application of one model, for ``serve.run``."""
    deployment: Any = serve.deployment  # its stub says that it always gives a decorator
    engine = deployment(
        Replica, name="Engine", num_replicas=served.num_replicas, max_queued_requests=served.max_queued_requests,
        max_ongoing_requests=2 * served.batch_size, max_surge_percent=100, max_constructor_retry_count=1,
        graceful_shutdown_timeout_s=served.limits.deadline_s + 10,
        ray_actor_options={"num_cpus": served.cpus_per_replica})
    ingress = deployment(
        serve.ingress()(Ingress), name="Ingress", max_ongoing_requests=CONCURRENT, max_surge_percent=100,
        graceful_shutdown_timeout_s=served.limits.deadline_s + 20, ray_actor_options={"num_cpus": 0})
    return ingress.bind(engine.bind(served), served)
