"""Errors as a person wants them: one sentence and an exit code; the traceback only with ``--debug``."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import typer

from pipelines.stage import BadInput
from pipelines.store import BucketMissing, StoreDenied, StoreUnavailable

EXIT_BAD_INPUT = 2


def one_message(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a verb: what a person must mend ends it with one message on stderr and exit code 2.

    A verb with a ``debug`` option shows the traceback when it is given.
    """
    @functools.wraps(function)
    def verb(*args: Any, **kwargs: Any) -> None:
        try:
            code = function(*args, **kwargs)
        except (BadInput, StoreDenied, BucketMissing, StoreUnavailable) as error:
            if kwargs.get("debug"):
                raise
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(EXIT_BAD_INPUT) from None
        raise typer.Exit(code or 0)

    return verb
