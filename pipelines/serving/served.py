"""What is served: one value that says everything about an application, so that two of them can be compared.

Equal digests mean an equal application, down to the bytes of the model and the code that serves it; a running
application says its digest, and a rollout is needed exactly when it is not the wanted one.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipelines.serving.parsing import Limits


@dataclass(frozen=True, kw_only=True, slots=True)
class Canary:
    """A question that a model must answer before it gets traffic. expect: words of which one must be in the answer."""

    question: str
    picture: bytes = field(repr=False)
    expect: tuple[str, ...] = ()

    def complaint(self, answer: str) -> str | None:
        """Why the answer does not pass; None when it does."""
        if not answer.strip():
            return f"no text in answer to {self.question!r}"
        words = set(re.findall(r"\w+", answer.lower()))
        if self.expect and not any(set(re.findall(r"\w+", e.lower())) <= words for e in self.expect):
            return f"{answer[:200]!r} in answer to {self.question!r} holds none of {', '.join(self.expect)}"
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """One application of Ray Serve: a version of a model and how it is served.

    version: its number in the registry. store_uri, step, key, digest: the committed artifact whose ``assistant/``
    folder is served, by its step record and its content digest. code: digest of the code that serves it. threads: of
    each replica. batch_size: questions that one replica answers together.
    """

    model: str
    version: int
    store_uri: str
    step: str
    key: str
    digest: str
    code: str = ""
    route_prefix: str = "/"
    num_replicas: int = 1
    cpus_per_replica: float = 0.25
    threads: int = 1
    batch_size: int = 8
    max_queued_requests: int = 64
    description: str = ""
    example_questions: tuple[str, ...] = ()
    canaries: tuple[Canary, ...] = ()
    limits: Limits = field(default_factory=Limits)

    @property
    def fingerprint(self) -> str:
        """What ``system_fingerprint`` of every answer says."""
        return f"{self.model}-v{self.version}" + (f"-{self.code[:8]}" if self.code else "")

    @property
    def deployment(self) -> str:
        """What a running application is compared by."""
        plain = json.dumps(asdict(self), sort_keys=True, default=lambda raw: hashlib.sha256(raw).hexdigest())
        return hashlib.sha256(plain.encode()).hexdigest()

    def as_model(self, created: int) -> dict[str, Any]:
        """The entry of ``/v1/models``; fields that OpenAI's clients do not know are for the page and the rollout."""
        return {"id": self.model, "object": "model", "created": created, "owned_by": "llava",
                "system_fingerprint": self.fingerprint, "deployment": self.deployment, "description": self.description,
                "example_questions": list(self.example_questions)}


def check_folder(folder: Path) -> None:
    """Refuse a model folder that could run code or reach outside itself. Raises ValueError naming the file."""
    root = folder.resolve()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not path.resolve().is_relative_to(root):
            raise ValueError(f"{name} is a link; a served model holds plain files only")
        if path.is_file() and path.suffix not in SUFFIXES:
            raise ValueError(f"{name} is not of a kind that a served model holds ({', '.join(sorted(SUFFIXES))}); "
                             f"weights are read from safetensors only")
        if path.suffix == ".json" and '"auto_map"' in path.read_text(encoding="utf-8"):
            raise ValueError(f"{name} names code of its own (auto_map), which is never run")


SUFFIXES = frozenset({".safetensors", ".json", ".txt", ".jinja", ".model", ".md"})
