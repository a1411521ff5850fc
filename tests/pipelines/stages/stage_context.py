"""A context in which a stage can be run by itself: folders of a test, no store and no cluster."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from pipelines.settings import Settings
from pipelines.stage import InputArtifact, Stage, StageContext, StepConfig, source_fields


def stage_context(stage: Stage, folder: Path, config: StepConfig, inputs: Mapping[str, InputArtifact] | None = None,
                  seed: int = 0, **more: Any) -> StageContext:
    """Sources are read where the config says they lie; output goes to ``folder/out``."""
    given = {name: uri for name in source_fields(stage.config) if (uri := getattr(config, name)) is not None}
    for name in ("out", "scratch"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    settings = Settings(state=folder / "state", store_uri=f"file://{folder}/store", ray_address="", mlflow_uri=None,
                        pictures_url=None, serve_host="127.0.0.1", serve_port=0, lease_ttl_s=30)
    rest: dict[str, Any] = {"store": cast(Any, None), "observations": cast(Any, None), **more}
    return StageContext(
        step=stage.name, key="k", generation=1, epoch=1, seed=seed, config=config, out=folder / "out",
        scratch=folder / "scratch", settings=settings, attempt_prefix="attempt", inputs=inputs or {},
        source_paths={name: lambda uri=uri: Path(uri) for name, uri in given.items()}, **rest)
