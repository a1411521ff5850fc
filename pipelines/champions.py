"""Which champion each gate compares with: fixed when a run is planned, and part of the gate's key.

So a gate decides the same however often it is asked, and what others promote meanwhile cannot change a decision. If the
candidate is the champion already, the decision that made it so is found and reused: a model does not have to win
against itself because it won.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pipelines import registry
from pipelines.artifact import Manifest, load_manifest, read_document
from pipelines.dag import Pipeline, Step
from pipelines.history import earlier
from pipelines.record import State
from pipelines.store import Damaged, ObjectStore

FIELD = "champion"


@dataclass(frozen=True, kw_only=True, slots=True)
class Champions:
    """models: registry name -> its champion as a gate's config takes it. holds: registry name -> why it is on hold."""

    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    holds: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def fix(cls, pipeline: Pipeline, store: ObjectStore) -> Champions:
        """What the registry says now of every model that the pipeline decides about."""
        models, holds = {}, {}
        for name in dict.fromkeys(m for s in pipeline.steps if (m := getattr(s.config, "model", None)) and _decides(s)):
            state = registry.read(store, name)
            if (version := state.alias(FIELD)) is not None:
                models[name] = {"model": name, "version": version.number, "digest": version.digest,
                                "scores": dict(version.scores)}
            if state.hold:
                holds[name] = state.hold
        return cls(models=models, holds=holds)

    def into(self, step: Step, manifests: Mapping[str, Manifest], store: ObjectStore) -> Step:
        """The step with its champion in its config; any other step as it is.

        manifests: of all that the step depends on.
        """
        if FIELD not in step.stage.config.model_fields:
            return step
        champion = self.models.get(getattr(step.config, "model", ""))
        if champion is not None and (candidate := step.inputs.get("model")) is not None:
            made = manifests[candidate].digest
            if made == champion["digest"]:
                return with_champion(step, _compared_with(store, step, made, champion))
        return with_champion(step, champion)

    def hold_on(self, step: Step) -> str | None:
        """Why the step must leave its model alone, if a person said so."""
        return self.holds.get(getattr(step.config, "model", "")) if step.stage.effect else None


def with_champion(step: Step, champion: Mapping[str, Any] | None) -> Step:
    raw = {**step.config.model_dump(by_alias=True), FIELD: champion}
    return replace(step, config=step.stage.config.model_validate(raw))


def _decides(step: Step) -> bool:
    return FIELD in step.stage.config.model_fields or step.stage.effect


def _compared_with(store: ObjectStore, step: Step, digest: str,
                   champion: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The champion of the accepting decision about that candidate; the present one when there is no such decision."""
    for seen in earlier(store, step.name):
        if seen.record.state is not State.COMMITTED:
            continue
        try:
            manifest = load_manifest(store, seen.record)
        except Damaged:
            continue
        document = read_document(store, manifest.prefix)
        if document and manifest.values.get("accepted") is True and document["inputs"].get("model") == digest:
            return document["config"].get(FIELD)
    return champion
