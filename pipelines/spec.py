"""What an attempt is told to do, written once into its own namespace before it is submitted.

It names content (digests) beside places, so an attempt can refuse an input or a source that is no longer what the key
stands for. It holds no secret: an attempt finds its credentials where its node keeps them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pipelines.dag import Step
from pipelines.identity import Identity, Source, stage_reference
from pipelines.record import attempt_prefix
from pipelines.schema import read_json
from pipelines.stage import BadInput

if TYPE_CHECKING:
    from pipelines.store import ObjectStore

SCHEMA = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """stage: ``module:name``. config: the step's whole config as JSON, ``run`` included. artifacts: step -> key of the
    committed record for every step whose files are read. digests: step -> content digest that the key stands for.
    """

    step: str
    stage: str
    key: str
    generation: int
    epoch: int
    run_id: str
    recipe: str
    seed: int
    config: Mapping[str, Any]
    document: Mapping[str, Any]
    inputs: Mapping[str, str]
    sources: Mapping[str, Source]
    artifacts: Mapping[str, str]
    digests: Mapping[str, str]

    @property
    def prefix(self) -> str:
        return attempt_prefix(self.step, self.key, self.generation, self.epoch)

    def to_json(self) -> bytes:
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1, sort_keys=True).encode()

    @classmethod
    def from_json(cls, body: bytes) -> Spec:
        raw = read_json(body, SCHEMA, "an attempt's spec")
        return cls(**{**raw, "sources": {n: Source(**s) for n, s in raw["sources"].items()}})


def write_spec(store: ObjectStore, spec: Spec) -> str:
    """Put the spec into the attempt's namespace; the first that was written stays. Returns its key."""
    key = f"{spec.prefix}/spec.json"
    store.create(key, spec.to_json())
    return key


def read_spec(store: ObjectStore, key: str) -> Spec:
    if (stored := store.get(key)) is None:
        raise BadInput(f"no attempt's spec at {key} in {store.uri}")
    return Spec.from_json(stored.body)


def make_spec(step: Step, identity: Identity, *, generation: int, epoch: int, run_id: str, recipe: str, seed: int,
              artifacts: Mapping[str, tuple[str, str]]) -> Spec:
    """artifacts: step -> (key, content digest) for the steps that this one depends on."""
    return Spec(step=step.name, stage=stage_reference(step.stage), key=identity.key, generation=generation, epoch=epoch,
                run_id=run_id, recipe=recipe, seed=seed, config=step.config.model_dump(mode="json", by_alias=True),
                document=identity.document, inputs=identity.inputs, sources=identity.sources,
                artifacts={n: k for n, (k, _) in artifacts.items()}, digests={n: d for n, (_, d) in artifacts.items()})
