"""Stored objects name their schema; what newer code wrote is refused with an instruction, never half understood."""

from __future__ import annotations

import json
from typing import Any

from pipelines.stage import BadInput


def read_json(body: bytes, newest: int, what: str) -> dict[str, Any]:
    """The object without its ``schema``. Raises BadInput when newer code wrote it, ValueError when it is no JSON."""
    raw = json.loads(body)
    schema = raw.pop("schema")
    if schema > newest:
        raise BadInput(f"{what} has schema {schema}, this code knows {newest}: it was written by newer code; "
                       f"update this checkout (or the cluster's) and run again")
    return raw
