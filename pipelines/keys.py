"""Step keys: a key changes exactly when the step's result could, and can be read back to say why.

A key is the digest of its key document: the stage's code, config, inputs, sources, libraries and seed, each by content.
The document is stored beside the manifest, so two keys are compared by comparing what they stand for.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from pipelines.code_digest import CodeDigest, code_digest

__all__ = ["CodeDigest", "canonical", "code_digest", "diff_documents", "step_key"]

ENCODING = 1


def canonical(obj: Any) -> bytes:
    """One spelling of a JSON value: keys sorted, floats by ``repr``, no white space.

    Tuples are lists. 1 and 1.0 differ, as they do for a stage. Raises ValueError for NaN, infinities and other types.
    """
    return json.dumps(_plain(obj, "value"), sort_keys=True, separators=(",", ":"), ensure_ascii=False,
                      allow_nan=False).encode("utf-8", "surrogatepass")


def _plain(obj: Any, where: str) -> Any:
    if obj is None or isinstance(obj, (bool, int, str)):
        return obj
    if isinstance(obj, float):
        if not math.isfinite(obj):
            raise ValueError(f"{where} is {obj}: only finite numbers can be part of a key or a digest")
        return obj
    if isinstance(obj, Mapping):
        for key in obj:
            if not isinstance(key, str):
                raise ValueError(f"{where} has the key {key!r}: keys are text")
        return {key: _plain(value, f"{where}.{key}") for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(obj)]
    raise ValueError(f"{where} is a {type(obj).__name__}: only JSON values can be part of a key or a digest")


def step_key(document: Mapping[str, Any]) -> str:
    """sha256 (hex) of the key document."""
    return hashlib.sha256(canonical({"encoding": ENCODING, "document": document})).hexdigest()


def diff_documents(old: Mapping[str, Any], new: Mapping[str, Any], step: str = "") -> list[str]:
    """Why two keys differ, a sentence each: code first, then config, inputs, sources, libraries, the rest.

    step: the name under which config is shown (``pretrain_projector.learning_rate 0.002 -> 0.001``).
    """
    said: list[str] = []
    before, after = old.get("code", {}), new.get("code", {})
    for name in sorted({*before, *after}):
        if name not in before:
            said.append(f"{name} is imported now")
        elif name not in after:
            said.append(f"{name} is no longer imported")
        elif before[name] != after[name]:
            said.append(f"{name} changed")
    for path, a, b in _changes(old.get("config", {}), new.get("config", {}), step or str(new.get("stage", ""))):
        said.append(f"{path} {a} -> {b}")
    for section, noun in (("inputs", "input"), ("sources", "source")):
        for path, a, b in _changes(old.get(section, {}), new.get(section, {}), ""):
            said.append(f"{noun} {path} is {'new' if a == ABSENT else 'gone' if b == ABSENT else 'other content'}")
    for path, a, b in _changes(old.get("libraries", {}), new.get("libraries", {}), ""):
        said.append(f"library {path} {a.strip(QUOTE)} -> {b.strip(QUOTE)}")
    shown = ("code", "config", "inputs", "sources", "libraries")
    for path, a, b in _changes({k: v for k, v in old.items() if k not in shown},
                               {k: v for k, v in new.items() if k not in shown}, ""):
        said.append(f"{path} {a} -> {b}")
    return said


ABSENT = "(not set)"
QUOTE = '"'


def _changes(old: Any, new: Any, path: str) -> list[tuple[str, str, str]]:
    """(dotted path, old value, new value) for every leaf that differs."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found = []
        for name in sorted({*old, *new}):
            dotted = f"{path}.{name}" if path else name
            if name not in old or name not in new:
                found.append((dotted, _shown(old[name]) if name in old else ABSENT,
                              _shown(new[name]) if name in new else ABSENT))
            else:
                found += _changes(old[name], new[name], dotted)
        return found
    return [] if canonical(old) == canonical(new) else [(path, _shown(old), _shown(new))]


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
