"""Versions of a tiny model in a store and a registry, and the rollout stage run as a driver of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from pipelines import registry
from pipelines.artifact import Manifest, publish_files, write_manifest
from pipelines.record import Holder, attempt_prefix, reserve
from pipelines.registry import Version
from pipelines.settings import ROOT
from pipelines.stage import InputArtifact, StageContext
from pipelines.store import ObjectStore, open_store
from tests import tiny

STEP = "tune_chat"


def write_assistant(folder: Path, *, seed: int = 0) -> Path:
    """``assistant/`` below the folder, as a tuning step leaves it; random weights of that seed."""
    from llava.model import AssistantConfig, LlavaModel

    base = tiny.write_base_models(folder / f"base-{seed}", seed=seed)
    model = LlavaModel.from_parts(base / "vision_tower", base / "language_model", AssistantConfig(template="v1"),
                                  seed=seed)
    model.save(folder / f"tuned-{seed}" / "assistant")
    return folder / f"tuned-{seed}" / "assistant"


def commit(store: ObjectStore, folder: Path, key: str) -> Manifest:
    """Publish a folder as the output of ``tune_chat`` under that key."""
    seen = reserve(store, STEP, key, cluster="test")
    assert seen is not None
    held = seen.record
    with Holder(store, STEP, key, generation=held.generation, epoch=held.epoch) as holder:
        prefix = attempt_prefix(STEP, key, held.generation, held.epoch)
        manifest = Manifest(step=STEP, key=key, generation=held.generation, epoch=held.epoch,
                            files=publish_files(store, folder, prefix), values={}, prefix=prefix)
        holder.publish(write_manifest(store, manifest), manifest.digest)
    return manifest


def crown(store: ObjectStore, model: str, manifest: Manifest) -> Version:
    """Register the artifact and make it the champion."""
    version = registry.register(store, model, step=manifest.step, key=manifest.key, digest=manifest.digest, scores={},
                                why="a test")
    registry.promote(store, model, version.number, why="a test")
    return version


def context(store: ObjectStore, scratch: Path, digest: str, config: dict[str, Any]) -> StageContext:
    """What the engine gives the stage."""
    from pipelines.settings import load_settings
    from pipelines.stages import rollout

    (scratch / "out").mkdir(exist_ok=True)
    nothing: Any = None  # the stage records no observation
    return StageContext(
        step="rollout@chat", key="0" * 64, generation=1, epoch=1, seed=0, config=rollout.Config.model_validate(config),
        out=scratch / "out", scratch=scratch, settings=load_settings(), store=store, attempt_prefix="attempts/x",
        inputs={"model": InputArtifact(digest=digest, values={}, names=(), fetch=lambda _names: scratch)},
        source_paths={}, observations=nothing)


def roll_out(scratch: Path, digest: str, **config: Any) -> subprocess.CompletedProcess[str]:
    """Run the stage in a process of its own, which ends when it is done."""
    return subprocess.run([sys.executable, "-m", __name__, str(scratch), digest, json.dumps(config)], cwd=ROOT,
                          capture_output=True, text=True, timeout=400, check=False)


def main() -> None:
    import os

    from pipelines.stages import rollout

    scratch, digest, config = sys.argv[1:]
    store = open_store(os.environ["LLAVA_STORE"])
    result = rollout.run(context(store, Path(scratch), digest, json.loads(config)))
    print("RESULT", json.dumps([dict(result.values), dict(result.metrics)]))


if __name__ == "__main__":
    main()
