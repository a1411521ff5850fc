"""What was done before for a step, under whatever key: to explain why a key is new, and to find an earlier decision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipelines import record
from pipelines.artifact import read_document
from pipelines.keys import diff_documents
from pipelines.record import Seen, State

if TYPE_CHECKING:
    from pipelines.store import ObjectStore

LOOKED_AT = 20  # a step's newest records; an explanation compares with the nearest of them


def earlier(store: ObjectStore, step: str) -> list[Seen]:
    """Every record of the step, the newest first."""
    prefix = f"steps/{step}/"
    keys = [i.key.removeprefix(prefix).removesuffix(".json") for i in store.list(prefix)]
    found = [seen for key in keys if (seen := record.read(store, step, key))]
    return sorted(found, key=lambda seen: (seen.last_modified, seen.record.key), reverse=True)


def why_new(store: ObjectStore, step: str, document: Mapping[str, Any]) -> tuple[str, ...]:
    """How this key differs from the nearest earlier one that was committed, in sentences."""
    differences = []
    for seen in earlier(store, step)[:LOOKED_AT]:
        if seen.record.state is State.COMMITTED and (held := read_document(store, seen.record.prefix)):
            differences.append(diff_documents(held, document, step))
    return tuple(min(differences, key=len)) if differences else ("never run before",)
