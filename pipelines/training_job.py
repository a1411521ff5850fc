"""What a training worker is told: everything by value or by path, so that it can be sent to another process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.store import ObjectStore


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingJob:
    """alignment: train the projector alone. assistant, training: fields of llava's AssistantConfig, TrainingConfig.

    vision_tower, language_model, projector, samples, images: local paths. unreadable: pictures known to be damaged,
    with the reason. run_prefix: where in the store checkpoints and the result go. key, layout: of the checkpoints.
    """

    alignment: bool
    vision_tower: Path
    language_model: Path
    projector: Path | None
    samples: Path
    images: Path
    unreadable: Mapping[str, str]
    assistant: Mapping[str, Any]
    training: Mapping[str, Any]
    activation_checkpointing: str
    threads: int
    store: ObjectStore
    run_prefix: str
    key: str
    layout: str

    @property
    def result_prefix(self) -> str:
        return f"{self.run_prefix}/result"
