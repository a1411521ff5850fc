"""From the registry's word to a folder that may be loaded: what was committed, byte for byte, and no code in it."""

from __future__ import annotations

from pathlib import Path

from pipelines import artifact, record
from pipelines.keys import code_digest
from pipelines.serving.served import Served, check_folder
from pipelines.settings import state_folder
from pipelines.stage import BadInput
from pipelines.store import open_store

FOLDER = "assistant"
CODE = Path(__file__).with_name("application.py")


def fetch_assistant(served: Served, cache: Path | None = None) -> Path:
    """The ``assistant/`` folder of the version, brought to this node's cache.

    Raises BadInput when the artifact is not the registered one or must not be loaded, store.Damaged when bytes are
    missing or altered.
    """
    store = open_store(served.store_uri)
    seen = record.read(store, served.step, served.key)
    found = seen.record if seen else None
    if found is None or found.state is not record.State.COMMITTED:
        raise BadInput(f"version {served.version} of {served.model} is gone: {served.step} {served.key[:12]} is not "
                       f"committed in {served.store_uri}; run the pipeline again to make it")
    if found.digest != served.digest:
        raise BadInput(f"version {served.version} of {served.model} was registered with the content "
                       f"{served.digest[:12]}, but {served.step} {served.key[:12]} holds {str(found.digest)[:12]}; "
                       f"run the pipeline again to register what is there")
    manifest = artifact.load_manifest(store, found)
    names = [f.name for f in manifest.files if f.name.startswith(f"{FOLDER}/")]
    if not names:
        raise BadInput(f"{served.step} {served.key[:12]} has no {FOLDER}/ folder, so it cannot be served")
    folder = artifact.materialise(store, manifest, cache or state_folder() / "cache", names) / FOLDER
    try:
        check_folder(folder)
    except ValueError as error:
        raise BadInput(f"version {served.version} of {served.model} is not served: {error}") from None
    return folder


def serving_code() -> str:
    """Digest of the code that a replica runs, the model's own included."""
    return code_digest(CODE, (str(CODE.with_name("chat.html").relative_to(CODE.parents[2])),)).digest
