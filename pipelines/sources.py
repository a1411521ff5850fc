"""Content outside the DAG: a file, a folder or an ``s3://`` URI, known by its digest.

A source's digest is taken when a run is planned and checked again when the step reads it, so a file that changes
in between stops the step instead of giving a result under the wrong key.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.stage import BadInput

if TYPE_CHECKING:
    from pipelines.store import ObjectStore

Entry = tuple[str, int, str]  # relative name, size in bytes, sha256
CHUNK = 1 << 20


def tree_digest(entries: list[Entry]) -> str:
    """One digest of named files; the order in which they are listed does not matter."""
    body = "".join(f"{name}\0{size}\0{sha}\n" for name, size, sha in sorted(entries))
    return hashlib.sha256(body.encode()).hexdigest()


def digest_source(uri: str, progress: Callable[[int, int, str], None] | None = None) -> str:
    """The content digest of a path or ``s3://`` URI. Raises BadInput when there is nothing there."""
    return tree_digest(_s3_entries(uri, progress) if uri.startswith("s3://") else _local_entries(uri, progress))


def materialise_source(uri: str, digest: str, cache: Path) -> Path:
    """A local path with the source's content, which is checked against ``digest``."""
    path = _download(uri, cache / "sources" / digest) if uri.startswith("s3://") else Path(uri)
    found = tree_digest(_local_entries(str(path), None))
    if found != digest:
        raise BadInput(f"{uri} changed since the run was planned "
                       f"(digest {digest[:12]} then, {found[:12]} now): run again")
    return path


def _local_entries(uri: str, progress: Callable[[int, int, str], None] | None) -> list[Entry]:
    path = Path(uri).expanduser()
    if not path.exists():
        raise BadInput(f"{uri} does not exist (looked in {Path.cwd()}); give a file, a folder or an s3:// URI")
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    if not files:
        raise BadInput(f"the folder {uri} holds no file")
    entries = []
    for i, file in enumerate(files):
        name = "" if path.is_file() else file.relative_to(path).as_posix()
        entries.append((name, file.stat().st_size, _sha256(file)))
        if progress:
            progress(i + 1, len(files), f"files of {uri}")
    return entries


def _sha256(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _open_s3(uri: str) -> tuple[ObjectStore, str]:
    """The bucket of the URI as a store, and the key within it."""
    from pipelines.store import open_store

    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return open_store(f"s3://{bucket}"), key


def _s3_entries(uri: str, progress: Callable[[int, int, str], None] | None) -> list[Entry]:
    """Digests from stored checksums where the object carries one, else from its bytes."""
    store, key = _open_s3(uri)
    single = store.head(key) if key else None
    infos = [single] if single else list(store.list(f"{key.rstrip('/')}/" if key else ""))
    if not infos:
        raise BadInput(f"{uri} does not exist, or holds no object")
    entries = []
    for i, info in enumerate(infos):
        sha = info.sha256 or (store.head(info.key) or info).sha256 or _remote_sha256(store, info.key)
        name = "" if single else info.key.removeprefix(key).lstrip("/")
        entries.append((name, info.size, sha))
        if progress:
            progress(i + 1, len(infos), f"objects of {uri}")
    return entries


def _remote_sha256(store: ObjectStore, key: str) -> str:
    filesystem, root = store.filesystem()
    digest = hashlib.sha256()
    with filesystem.open_input_stream(f"{root}/{key}") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _download(uri: str, folder: Path) -> Path:
    """Bring an ``s3://`` source to the folder, whole or not at all."""
    store, key = _open_s3(uri)
    single = store.head(key) if key else None
    target = folder / Path(key).name if single else folder
    if target.exists():
        return target
    partial = folder.with_name(f"{folder.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    infos = [single] if single else list(store.list(f"{key.rstrip('/')}/"))
    for info in infos:
        name = Path(key).name if single else info.key.removeprefix(key).lstrip("/")
        (partial / name).parent.mkdir(parents=True, exist_ok=True)
        store.download(info.key, partial / name)
    try:
        partial.rename(folder)
    except OSError:  # another process of this node brought it first
        shutil.rmtree(partial)
    return target
