"""The context of a stage, made from an attempt's spec: inputs and sources as local folders whose bytes were checked.

An input is reached only through its committed record, and only if its content is what the step's key stands for. An
input that is damaged is marked as such at once, so that whoever looks next makes it again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipelines import record
from pipelines.artifact import Manifest, load_manifest, materialise
from pipelines.dag import step_of
from pipelines.identity import Source
from pipelines.observations import Observations
from pipelines.outcome import Cancelled, DamagedInput, Preempted
from pipelines.record import Holder
from pipelines.settings import Settings
from pipelines.sources import materialise_source
from pipelines.spec import Spec
from pipelines.stage import InputArtifact, Stage, StageContext
from pipelines.store import Damaged, ObjectStore


def make_context(store: ObjectStore, spec: Spec, settings: Settings, stage: Stage, folder: Path,
                 holder: Holder) -> StageContext:
    """folder: an empty local folder of the attempt's own. Raises DamagedInput naming the upstream step."""
    for part in ("out", "scratch"):
        (folder / part).mkdir()
    manifests = {step: _manifest(store, spec, step) for step in spec.artifacts}
    return StageContext(
        step=spec.step, key=spec.key, generation=spec.generation, epoch=spec.epoch, seed=spec.seed,
        config=stage.config.model_validate(spec.config), out=folder / "out", scratch=folder / "scratch",
        settings=settings, store=store, attempt_prefix=spec.prefix,
        inputs={name: _input(store, manifests[step], settings.cache) for name, step in spec.inputs.items()},
        source_paths={name: _source(store, source, manifests, settings.cache) for name, source in spec.sources.items()},
        observations=Observations(store, spec.step, spec.key),
        on_progress=lambda done, total, what: holder.report({"done": done, "total": total, "what": what}),
        check=lambda: _check(holder))


def _check(holder: Holder) -> None:
    """Stop here if the place is lost or the record asks for it."""
    holder.check()
    match holder.request:
        case record.Request.CANCEL:
            raise Cancelled("cancelled")
        case record.Request.PREEMPT:
            raise Preempted("asked to leave")


def _manifest(store: ObjectStore, spec: Spec, step: str) -> Manifest:
    seen = record.read(store, step, spec.artifacts[step])
    if seen is None or seen.record.state is not record.State.COMMITTED:
        state = seen.record.state.value if seen else "gone"
        raise DamagedInput(step, f"the input {step} is {state}, though it was committed when the work was planned")
    try:
        manifest = load_manifest(store, seen.record)
    except Damaged as error:
        raise _damaged(store, step, spec.artifacts[step], error) from error
    if manifest.digest != spec.digests[step]:
        raise DamagedInput(step, f"the input {step} was made again with other content "
                                 f"({manifest.digest[:12]} instead of {spec.digests[step][:12]})")
    return manifest


def _input(store: ObjectStore, manifest: Manifest, cache: Path) -> InputArtifact:
    def fetch(names: tuple[str, ...] | None) -> Path:
        try:
            return materialise(store, manifest, cache, names)
        except Damaged as error:
            raise _damaged(store, manifest.step, manifest.key, error) from error

    return InputArtifact(digest=manifest.digest, step=manifest.step, key=manifest.key, values=manifest.values,
                         names=tuple(f.name for f in manifest.files), fetch=fetch)


def _source(store: ObjectStore, source: Source, manifests: dict[str, Manifest], cache: Path) -> Callable[[], Path]:
    if (named := step_of(source.uri)) is None:
        return lambda: materialise_source(source.uri, source.digest, cache)
    step, path = named
    artifact = _input(store, manifests[step], cache)
    return lambda: artifact.file(path.rstrip("/")) if path else artifact.folder()


def _damaged(store: ObjectStore, step: str, key: str, error: Damaged) -> DamagedInput:
    """Mark the record, unless it has changed since."""
    seen = record.read(store, step, key)
    if seen is not None and seen.record.state is record.State.COMMITTED:
        record.damage(store, seen, str(error))
    return DamagedInput(step, f"the input {step} is damaged: {error}")
