"""Every refusal is one JSON object with a status that tells the client whether trying again can help.

``{"error": {"message", "type", "param", "code"}}``, as OpenAI's clients expect. A client's mistake is 4xx and never
5xx, because clients retry 408, 409, 429 and 5xx by themselves. ``param`` names the field, never what was in it.
"""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """A refusal. code: for programs. param: the field at fault. retry_after_s: when to try again."""

    def __init__(self, status: int, code: str, message: str, param: str | None = None,
                 retry_after_s: int | None = None) -> None:
        super().__init__(status, code, message, param, retry_after_s)  # all of them, so that pickling keeps them
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return self.message

    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": error_type(self.status), "param": self.param,
                          "code": self.code}}

    def headers(self) -> dict[str, str]:
        return {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}


def error_type(status: int) -> str:
    """OpenAI's coarse ``type`` of a status."""
    known = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error",
             503: "service_unavailable_error", 504: "timeout_error"}
    return known.get(status, "server_error" if status >= 500 else "invalid_request_error")


def invalid(param: str | None, message: str, code: str = "invalid_value") -> ApiError:
    """A malformed request: 400."""
    return ApiError(400, code, message, param)


def unsupported(param: str) -> ApiError:
    """A field that means something to OpenAI's API and nothing here: refused, since to ignore it would mislead."""
    return invalid(param, f"{param} is not supported by this server; leave it out", "unsupported_parameter")


def busy() -> ApiError:
    return ApiError(429, "queue_full", "too many requests are waiting; try again in a moment", retry_after_s=1)


def unavailable() -> ApiError:
    return ApiError(503, "no_replica", "the model is starting, draining or restarting; try again in a moment",
                    retry_after_s=2)


def too_late(seconds: float) -> ApiError:
    return ApiError(504, "deadline_exceeded", f"no answer within {seconds:g} seconds; ask for fewer tokens")


def internal(request_id: str) -> ApiError:
    return ApiError(500, "internal_error", f"the server failed on this request; its log has the reason under "
                                           f"{request_id}")


def unknown_model(name: str | None, served: str) -> ApiError:
    """404. name is None when it is no name that could be repeated safely."""
    named = f"the model {name!r} does not exist" if name else "this model does not exist"
    return ApiError(404, "model_not_found", f"{named}; this server has {served!r}", "model")


def unknown_route(method: str, path: str) -> ApiError:
    return ApiError(404, "unknown_url", f"unknown request URL: {method} {path[:200]}; this server has "
                                        f"POST v1/chat/completions, GET v1/models, GET health and a chat page")
