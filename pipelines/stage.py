"""What a stage is, and what it is given.

A stage is a function from a context to files in ``ctx.out`` and declared values; it decides nothing about when it
runs, where its output is kept or who may publish it. So a stage can be run in a test with three folders, and the
engine can run any stage under the same record, heartbeat and checks.
"""

from __future__ import annotations

import enum
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from pipelines.observations import Observations
    from pipelines.settings import Settings
    from pipelines.store import ObjectStore


class BadInput(Exception):
    """Something that a person must mend: a file, a row, a recipe. Names what, where and the fix. Exit code 2."""


class SourceMark:
    """Marks a config field that names content outside the step; its digest enters the key in place of its text."""


Source = Annotated[str, SourceMark()]
"""A path, an ``s3://`` URI, or ``step://<step>/<relative path>`` for a file or folder of another step's artifact."""


class Placement(enum.Enum):
    """Where a step's work runs."""

    JOB = "job"  # a Ray job of its own
    DRIVER = "driver"  # short control work, in the process of the driver


class RunSettings(BaseModel):
    """How a step is run. Never in the key: more workers or another time-out give the same result."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_workers: int = Field(default=1, ge=1, description="workers of the step's own parallel part")
    cpus_per_worker: float = Field(default=1.0, ge=0)
    gpus_per_worker: float = Field(default=0.0, ge=0)
    threads_per_worker: int = Field(default=1, ge=1, description="torch and OpenMP threads in each worker")
    retries: int = Field(default=2, ge=0, description="further attempts after an infrastructure failure")
    timeout_s: float = Field(default=172_800.0, gt=0, description="seconds after which an attempt is stopped")


class StepConfig(BaseModel):
    """Base of every stage's Config. Every field enters the step's key except ``run``."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    run: RunSettings = RunSettings()
    from_: Source | None = Field(None, alias="from", description="use this as the step's output instead of running it")


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What a stage declares beside its files.

    values: JSON, deterministic, part of the content digest. metrics: shown and tracked, never part of a digest.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


class InputArtifact:
    """An upstream step's committed output. Bytes are verified before they are handed out.

    ``fetch`` brings the named files (all, when None) to a local folder and returns that folder. step and key name the
    step record of which it is the output.
    """

    def __init__(self, *, digest: str, values: Mapping[str, Any], names: tuple[str, ...],
                 fetch: Callable[[tuple[str, ...] | None], Path], step: str = "", key: str = "") -> None:
        self.digest = digest
        self.step = step
        self.key = key
        self.values = values
        self.names = names
        self._fetch = fetch

    def folder(self) -> Path:
        """A local folder with every file of the artifact."""
        return self._fetch(None)

    def file(self, name: str) -> Path:
        """A local path of one file, or of one sub-folder with all its files."""
        wanted = tuple(n for n in self.names if n == name or n.startswith(f"{name.rstrip('/')}/"))
        if not wanted:
            raise BadInput(f"the artifact has no {name!r}; it has {', '.join(sorted(self.names)[:12])}")
        return self._fetch(wanted) / name

    @classmethod
    def of_folder(cls, folder: Path, values: Mapping[str, Any] | None = None, digest: str = "local") -> InputArtifact:
        """An artifact that already lies in a folder: for tests and for trying a stage by hand."""
        names = tuple(sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()))
        return cls(digest=digest, values=values or {}, names=names, fetch=lambda _names: folder)


@dataclass(kw_only=True)
class StageContext:
    """All that a stage may use. ``config`` is an instance of the stage's own Config."""

    step: str
    key: str
    generation: int
    epoch: int
    seed: int
    config: Any
    out: Path
    scratch: Path
    settings: Settings
    store: ObjectStore
    attempt_prefix: str
    inputs: Mapping[str, InputArtifact]
    source_paths: Mapping[str, Callable[[], Path]]
    observations: Observations
    on_metrics: Callable[[Mapping[str, float], int | None], None] = lambda _metrics, _step: None
    on_progress: Callable[[int, int, str], None] = lambda _done, _total, _what: None
    check: Callable[[], None] = lambda: None

    @property
    def run(self) -> RunSettings:
        return self.config.run

    def input(self, name: str) -> InputArtifact:
        return self.inputs[name]

    def source(self, name: str) -> Path:
        """Local, verified path of a Source field. Raises BadInput when the recipe gives none."""
        if name not in self.source_paths:
            raise BadInput(f"{self.step}.{name} is not set; give a path, an s3:// or a step:// URI "
                           f"with --set {self.step}.{name}=...")
        return self.source_paths[name]()

    def has_source(self, name: str) -> bool:
        return name in self.source_paths

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.on_metrics(metrics, step)

    def progress(self, done: int, total: int, what: str) -> None:
        """Tell how far the work is, and stop here if the attempt has lost its place or was cancelled."""
        self.check()
        self.on_progress(done, total, what)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A kind of step.

    inputs: names of the upstream artifacts it reads; a name ending in ``?`` may be left unwired.
    needs: Source fields without which it cannot work; ``a|b`` means at least one of them.
    import_output: validates a given output (``--set <step>.from=PATH``) and lays it out in the folder.
    effect: level-triggered; compares desired with actual on every run, and publishes no artifact of interest.
    package_data: globs from the repository root whose bytes enter the key. libraries: distributions whose version does.
    """

    name: str
    config: type[StepConfig]
    run: Callable[[StageContext], Result]
    inputs: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    placement: Placement = Placement.JOB
    effect: bool = False
    import_output: Callable[[Path, Path, Any], Result] | None = None
    package_data: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()


def source_fields(config: type[BaseModel]) -> tuple[str, ...]:
    """Names of the config fields that are Sources (``from_`` apart)."""
    def marked(annotation: Any, metadata: tuple[Any, ...]) -> bool:
        if any(isinstance(m, SourceMark) for m in metadata):
            return True
        arguments = getattr(annotation, "__args__", ())
        return any(marked(a, getattr(a, "__metadata__", ())) for a in arguments)

    return tuple(n for n, f in config.model_fields.items() if n != "from_" and marked(f.annotation, tuple(f.metadata)))


def load_stage(name: str) -> Stage:
    """The stage of that name. Stage modules are light to import."""
    return importlib.import_module(f"pipelines.stages.{name}").STAGE
