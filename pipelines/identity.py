"""What a step is: its key, and everything that the key stands for.

The key document holds content, never places: an input by its content digest, a source by the digest of its bytes, the
code by the digests of the files it imports. So the same work has the same key wherever its inputs lie, and the document
can be read back to say why two keys differ.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipelines.artifact import Manifest
from pipelines.dag import Step, step_of
from pipelines.keys import CodeDigest, code_digest, step_key
from pipelines.sources import digest_source, tree_digest
from pipelines.stage import BadInput, Stage, source_fields

IMPORT = "from"  # the name under which an imported output stands among the sources


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """uri: where it lies. digest: of its bytes."""

    uri: str
    digest: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """key: sha256 hex of the document. inputs: input name -> step. sources: config field -> where and what."""

    key: str
    document: Mapping[str, Any]
    inputs: Mapping[str, str]
    sources: Mapping[str, Source]


def stage_reference(stage: Stage) -> str:
    """``module:stage name``, from which another process loads the same stage."""
    own = f"pipelines.stages.{stage.name}"
    try:
        shipped = importlib.util.find_spec(own) is not None and importlib.import_module(own).STAGE is stage
    except ModuleNotFoundError:
        shipped = False
    return f"{own if shipped else stage.run.__module__}:{stage.name}"


def load_reference(reference: str) -> Stage:
    """The stage of that reference. Raises BadInput when the module has none of that name."""
    module_name, _, name = reference.partition(":")
    module = importlib.import_module(module_name)
    for value in vars(module).values():
        if isinstance(value, Stage) and value.name == name:
            return value
    raise BadInput(f"the module {module_name} has no stage {name!r}")


@lru_cache
def stage_code(reference: str, package_data: tuple[str, ...]) -> CodeDigest:
    """Digest of the code that the stage runs, taken once a process."""
    return fresh_stage_code(reference, package_data)


def fresh_stage_code(reference: str, package_data: tuple[str, ...]) -> CodeDigest:
    """The same, of the files as they are now."""
    module = importlib.import_module(reference.partition(":")[0])
    return code_digest(Path(str(module.__file__)), package_data)


def library_versions(names: tuple[str, ...]) -> dict[str, str]:
    """Installed versions; a library that is absent counts as such."""
    versions = {}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "absent"
    return versions


def source_digest(uri: str, manifests: Mapping[str, Manifest], known: Mapping[str, str]) -> str:
    """Digest of a source: of a part of another step's artifact, or of bytes outside (unless ``known`` already)."""
    if (named := step_of(uri)) is None:
        return known.get(uri) or digest_source(uri)
    step, path = named
    files = manifests[step].files
    prefix = f"{path.rstrip('/')}/" if path else ""
    entries = [("", f.size, f.sha256) for f in files if f.name == path] or [
        (f.name.removeprefix(prefix), f.size, f.sha256) for f in files if f.name.startswith(prefix)]
    if not entries:
        raise BadInput(f"{uri}: the artifact of {step} has no {path!r}; "
                       f"it has {', '.join(sorted(f.name for f in files)[:12])}")
    return tree_digest(entries)


def _absolute(uri: str) -> str:
    """An attempt's working folder may be another than the driver's."""
    return uri if "://" in uri else str(Path(uri).expanduser().resolve())


def identify(step: Step, seed: int, manifests: Mapping[str, Manifest], known: Mapping[str, str]) -> Identity:
    """The step's key. manifests: of every step that it depends on. known: URI -> digest of sources already read.

    Raises BadInput when a source is not there.
    """
    stage = step.stage
    reference = stage_reference(stage)
    code = stage_code(reference, stage.package_data)
    uris = {IMPORT: step.imported} if step.imported else dict(step.sources)
    sources = {n: Source(uri=_absolute(u), digest=source_digest(u, manifests, known)) for n, u in uris.items()}
    config = step.config.model_dump(mode="json", by_alias=True, exclude={"run", "from_"})
    for name in source_fields(stage.config):
        config.pop(name, None)
    inputs = {} if step.imported else dict(step.inputs)
    document = {
        "stage": stage.name,
        "imported": bool(step.imported),
        "code": dict(code.nodes),
        "config": config,
        "sources": {n: s.digest for n, s in sources.items()},
        "inputs": {n: manifests[s].digest for n, s in inputs.items()},
        "libraries": library_versions(stage.libraries),
        "seed": seed,
    }
    return Identity(key=step_key(document), document=document, inputs=inputs, sources=sources)
