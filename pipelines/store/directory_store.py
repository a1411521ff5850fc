"""A directory as an object store, for tests, for one machine and for shared file systems: the contract of S3.

An object becomes visible by an atomic link or rename of a file that is complete, so a reader sees all of it or none.
Writers of one key exclude each other by a lock of the kernel, which a killed process gives back. The clock is the file
system's: no process's own time decides.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlparse

from pipelines.faults import ReplyDropped, crash_point
from pipelines.stage import BadInput
from pipelines.store import Damaged, FileEntry, ObjectInfo, Stored

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

OWN = ".store"  # locks, unfinished files and checksums: never listed as objects


class DirectoryStore:
    """uri: ``file:///folder``; the folder is made when it is not there."""

    def __init__(self, uri: str) -> None:
        self._uri = uri.rstrip("/")
        self.root = Path(unquote(urlparse(uri).path))
        if not self.root.is_absolute():
            raise BadInput(f"the store {uri!r} needs an absolute path: file:///folder")
        for name in ("parts", "locks", "sums"):
            (self.root / OWN / name).mkdir(parents=True, exist_ok=True)

    @property
    def uri(self) -> str:
        return self._uri

    def within(self, wait_s: float) -> DirectoryStore:
        return self

    def get(self, key: str) -> Stored | None:
        try:
            with open(self._path(key), "rb") as file:
                body, stat = file.read(), os.fstat(file.fileno())
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        return Stored(body=body, etag=_etag(stat), last_modified=_time(stat), now=self.now())

    def head(self, key: str) -> ObjectInfo | None:
        path = self._path(key)
        try:
            stat = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return ObjectInfo(key=key, size=stat.st_size, etag=_etag(stat), sha256=self._sum(key, stat)) \
            if path.is_file() else None

    def create(self, key: str, body: bytes) -> str | None:
        path = self._path(key)
        with self._part(body) as part, self._locked(key):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(part, path)
                crash_point("store.create.reply")
            except (FileExistsError, ReplyDropped):
                held = self.get(key)
                return held.etag if held and held.body == body else None
            return _etag(path.stat())

    def replace(self, key: str, body: bytes, etag: str) -> str | None:
        path = self._path(key)
        with self._part(body) as part, self._locked(key):
            if (held := self.get(key)) is None or held.etag != etag:
                return held.etag if held and held.body == body else None
            with contextlib.suppress(ReplyDropped):  # the lock is held: what is there is what was just written
                os.replace(part, path)
                crash_point("store.replace.reply")
            return _etag(path.stat())

    def put(self, key: str, body: bytes) -> str:
        path = self._path(key)
        with self._part(body) as part, self._locked(key):
            path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(ReplyDropped):
                os.replace(part, path)
                crash_point("store.put.reply")
            return _etag(path.stat())

    def delete(self, key: str) -> None:
        with self._locked(key):
            self._path(key).unlink(missing_ok=True)
            self._sum_path(key).unlink(missing_ok=True)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        folder = self.root / prefix.rpartition("/")[0]
        found = []
        for parent, folders, files in os.walk(folder):
            if Path(parent) == self.root and OWN in folders:
                folders.remove(OWN)
            for name in files:
                path = Path(parent) / name
                key = path.relative_to(self.root).as_posix()
                if key.startswith(prefix):
                    found.append((key, path))
        for key, path in sorted(found):
            try:
                stat = path.stat()
            except FileNotFoundError:  # deleted since
                continue
            yield ObjectInfo(key=key, size=stat.st_size, etag=_etag(stat))

    def upload(self, path: Path, key: str) -> FileEntry:
        part = self._part_path()
        target = self._path(key)
        try:
            shutil.copyfile(path, part)
            with open(part, "rb+") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                os.fsync(file.fileno())
            size = part.stat().st_size
            with self._locked(key):
                for folder in (target.parent, self._sum_path(key).parent):
                    folder.mkdir(parents=True, exist_ok=True)
                os.replace(part, target)
                with self._part(json.dumps({"etag": _etag(target.stat()), "sha256": sha256}).encode()) as note:
                    os.replace(note, self._sum_path(key))
        finally:
            part.unlink(missing_ok=True)
        return FileEntry(name=key, size=size, sha256=sha256)

    def download(self, key: str, path: Path, sha256: str | None = None) -> None:
        if (info := self.head(key)) is None:
            raise Damaged(f"{self.uri}/{key} is missing")
        wanted = sha256 or info.sha256
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        try:
            shutil.copyfile(self._path(key), part)
            with open(part, "rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if wanted and found != wanted:
                raise Damaged(f"{self.uri}/{key} has the sha256 {found[:12]}, not {wanted[:12]} as it was stored")
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)

    def now(self) -> datetime:
        clock = self.root / OWN / "clock"
        with open(clock, "ab") as file:
            os.utime(file.fileno())
            return _time(os.fstat(file.fileno()))

    def filesystem(self) -> tuple[FileSystem, str]:
        from pyarrow.fs import LocalFileSystem

        return LocalFileSystem(), str(self.root)

    def _path(self, key: str) -> Path:
        if not key or any(part in ("", ".", "..", OWN) for part in key.split("/")):
            raise ValueError(f"{key!r} is not a key: no empty part, no '.', '..' or '{OWN}'")
        return self.root / key

    def _sum_path(self, key: str) -> Path:
        return self.root / OWN / "sums" / key

    def _sum(self, key: str, stat: os.stat_result) -> str | None:
        """The stored checksum, unless the file is another than the one it was taken of."""
        try:
            note = json.loads(self._sum_path(key).read_text())
        except FileNotFoundError:
            return None
        return note["sha256"] if note["etag"] == _etag(stat) else None

    def _part_path(self) -> Path:
        return self.root / OWN / "parts" / secrets.token_hex(12)

    @contextlib.contextmanager
    def _part(self, body: bytes) -> Iterator[Path]:
        """A complete file that nobody sees yet."""
        path = self._part_path()
        try:
            with open(path, "xb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            yield path
        finally:
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        name = hashlib.sha256(key.encode()).hexdigest()[:3]  # 4096 locks, shared by keys that fall together
        with open(self.root / OWN / "locks" / name, "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _etag(stat: os.stat_result) -> str:
    return f"{stat.st_ino:x}-{stat.st_mtime_ns:x}-{stat.st_size:x}"


def _time(stat: os.stat_result) -> datetime:
    return datetime.fromtimestamp(stat.st_mtime_ns / 1e9, UTC)
