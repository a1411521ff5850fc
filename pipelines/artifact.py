"""Artifacts: files under a manifest, known by the digest of their content.

The content digest covers the sorted (name, size, sha256) of the files and the declared values: never who made them,
when, where or how fast. So equal content has one digest, whoever made it, and downstream keys depend on nothing else.
A manifest counts only once a COMMITTED record names it; names in it are relative, so a store can be moved.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.faults import crash_point
from pipelines.keys import canonical
from pipelines.schema import read_json
from pipelines.store import Damaged, FileEntry

if TYPE_CHECKING:
    from pipelines.record import StepRecord
    from pipelines.store import ObjectStore

SCHEMA = 1
PARALLEL = 8

__all__ = ["Damaged", "FileEntry", "Manifest", "check_present", "content_digest", "load_manifest", "materialise",
           "publish_files", "read_document", "verify", "write_document", "write_manifest"]


def content_digest(files: Iterable[FileEntry], values: Mapping[str, Any]) -> str:
    """sha256 (hex) of what the files and values are. Raises ValueError for values that JSON cannot hold (NaN)."""
    listed = sorted([f.name, f.size, f.sha256] for f in files)
    return hashlib.sha256(canonical({"files": listed, "values": dict(values)})).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an attempt made. files: sorted by name. values: JSON, part of the digest. producer: how it was made
    (versions, world size, metrics, times), which is shown and never compared. prefix: the namespace it lies in.
    """

    step: str
    key: str
    generation: int
    epoch: int
    files: tuple[FileEntry, ...]
    values: Mapping[str, Any]
    prefix: str
    producer: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        return content_digest(self.files, self.values)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(f.size for f in self.files)

    def at(self, file: FileEntry) -> str:
        """The file's key in the store."""
        return _file_key(self.prefix, file.name)

    def to_json(self) -> bytes:
        return json.dumps({
            "schema": SCHEMA, "step": self.step, "key": self.key, "generation": self.generation, "epoch": self.epoch,
            "content_digest": self.digest, "files": [asdict(f) for f in self.files], "values": dict(self.values),
            "producer": dict(self.producer)}, indent=1, sort_keys=True).encode()

    @classmethod
    def from_json(cls, body: bytes, prefix: str) -> Manifest:
        raw = read_json(body, SCHEMA, f"the manifest {prefix}/manifest.json")
        return cls(prefix=prefix, files=tuple(FileEntry(**f) for f in raw["files"]),
                   **{n: raw[n] for n in ("step", "key", "generation", "epoch", "values", "producer")})


def publish_files(store: ObjectStore, folder: Path, prefix: str,
                  progress: Callable[[int, int, str], None] | None = None) -> tuple[FileEntry, ...]:
    """Bring every file of the folder into the attempt's namespace, several at a time.

    progress: called in this thread with (files done, files in all, what); what it raises stops the upload.
    """
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    names = {p: p.relative_to(folder).as_posix() for p in paths}
    crash_point("publish.before_files")

    def bring(path: Path) -> FileEntry:
        entry = store.upload(path, _file_key(prefix, names[path]))
        crash_point("publish.between_files")
        return FileEntry(name=names[path], size=entry.size, sha256=entry.sha256)

    entries = []
    with ThreadPoolExecutor(PARALLEL, thread_name_prefix="publish") as pool:
        running = [pool.submit(bring, p) for p in paths]
        try:
            for done in as_completed(running):
                entries.append(done.result())
                if progress:
                    progress(len(entries), len(paths), "files stored")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return tuple(sorted(entries, key=lambda e: e.name))


def write_manifest(store: ObjectStore, manifest: Manifest) -> str:
    """Returns the manifest's key in the store. What it says is seen by nobody until a record names it."""
    crash_point("publish.before_manifest")
    key = f"{manifest.prefix}/manifest.json"
    store.put(key, manifest.to_json())
    return key


def load_manifest(store: ObjectStore, record: StepRecord) -> Manifest:
    """The manifest that a COMMITTED record names. Raises Damaged when it is missing or not what was committed."""
    if record.manifest is None:
        raise ValueError(f"{record.step} {record.key[:12]} is {record.state.value}: it names no manifest")
    where = f"{store.uri}/{record.manifest}"
    if (stored := store.get(record.manifest)) is None:
        raise Damaged(f"{where} is missing, though the record of {record.step} names it")
    try:
        manifest = Manifest.from_json(stored.body, record.manifest.rpartition("/")[0])
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{where} cannot be read: {error}") from None
    if manifest.digest != record.digest:
        raise Damaged(f"{where} has the content digest {manifest.digest[:12]}, the record of {record.step} says "
                      f"{str(record.digest)[:12]}")
    return manifest


def check_present(store: ObjectStore, manifest: Manifest) -> list[str]:
    """What is wrong with the files by asking, without reading, for existence, size and stored checksum."""
    def problem(file: FileEntry) -> str | None:
        info = store.head(manifest.at(file))
        if info is None:
            return f"{file.name} is missing"
        if info.size != file.size:
            return f"{file.name} has {info.size} bytes, not {file.size}"
        return None if info.sha256 == file.sha256 else f"{file.name} was altered (its stored checksum differs)"

    return _problems(problem, manifest.files)


def verify(store: ObjectStore, manifest: Manifest) -> list[str]:
    """What is wrong with the files by reading every byte."""
    filesystem, root = store.filesystem()

    def problem(file: FileEntry) -> str | None:
        digest = hashlib.sha256()
        try:
            with filesystem.open_input_stream(f"{root}/{manifest.at(file)}") as stream:
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
        except FileNotFoundError:
            return f"{file.name} is missing"
        return None if digest.hexdigest() == file.sha256 else f"{file.name} holds other bytes than were published"

    return _problems(problem, manifest.files)


def materialise(store: ObjectStore, manifest: Manifest, cache: Path, names: Sequence[str] | None = None) -> Path:
    """A local folder with the named files (all of them, and nothing else, when None), every byte checked.

    Folders lie under ``cache`` by content digest, so equal artifacts share one; processes may do this at once.
    Raises Damaged naming the file.
    """
    folder = cache / "artifacts" / manifest.digest
    wanted = manifest.files if names is None else [f for f in manifest.files if f.name in set(names)]
    if names is not None and (unknown := set(names) - {f.name for f in wanted}):
        raise Damaged(f"the artifact of {manifest.step} has no {', '.join(sorted(unknown))}")
    folder.mkdir(parents=True, exist_ok=True)
    parts = cache / "parts"
    parts.mkdir(parents=True, exist_ok=True)

    def bring(file: FileEntry) -> None:
        path = folder / file.name
        if _checked(path, file):
            return
        part = parts / secrets.token_hex(12)
        store.download(manifest.at(file), part, file.sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(part, path)
        _checked(path, file)

    with ThreadPoolExecutor(PARALLEL, thread_name_prefix="materialise") as pool:
        for _ in pool.map(bring, wanted):
            pass
    if names is None:
        _remove_strays(folder, manifest)
    return folder


def write_document(store: ObjectStore, prefix: str, document: Mapping[str, Any]) -> None:
    """Keep what a key stands for beside the manifest, so that the key can be read back."""
    store.put(f"{prefix}/key.json", json.dumps({"schema": SCHEMA, "document": document}, sort_keys=True).encode())


def read_document(store: ObjectStore, prefix: str) -> dict[str, Any] | None:
    """The key document of an attempt (``StepRecord.prefix``); None when the attempt wrote none."""
    stored = store.get(f"{prefix}/key.json")
    return read_json(stored.body, SCHEMA, f"{prefix}/key.json")["document"] if stored else None


_seen: dict[Path, tuple[int, int, int, str]] = {}


def _checked(path: Path, file: FileEntry) -> bool:
    """Whether the path holds the file's bytes. They are read once a process, and again if the file was touched."""
    try:
        stat = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    mark = (stat.st_ino, stat.st_mtime_ns, stat.st_size, file.sha256)
    if _seen.get(path) == mark:
        return True
    if stat.st_size != file.size:
        return False
    with open(path, "rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != file.sha256:
            return False
    _seen[path] = mark
    return True


def _remove_strays(folder: Path, manifest: Manifest) -> None:
    """What somebody left among the files of an artifact is no part of it."""
    names = {f.name for f in manifest.files}
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).as_posix() not in names:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()


def _file_key(prefix: str, name: str) -> str:
    return f"{prefix}/files/{name}"


def _problems(problem: Callable[[FileEntry], str | None], files: Sequence[FileEntry]) -> list[str]:
    with ThreadPoolExecutor(PARALLEL, thread_name_prefix="check") as pool:
        return [found for found in pool.map(problem, files) if found]
