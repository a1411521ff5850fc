"""Object stores: one contract, kept by S3 and by a directory.

A conditional write has one winner, and its writer learns the truth: after a refusal, a conflict, a time-out or a lost
answer the store reads back and compares, so "None" means that another's object is there. That needs bodies that differ
(``with_nonce``), because equal bodies look alike to S3. A body that is equal counts as one's own.

Every call waits while the store is unreachable or asks to slow down, up to the store's patience (``within`` gives the
same store with another), then raises StoreUnavailable. Keys are relative to the URI of the store.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipelines.stage import BadInput

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

PATIENCE_S = 300.0


class StoreUnavailable(ConnectionError):
    """The store did not answer for as long as was waited. Names the endpoint."""


class StoreDenied(Exception):
    """The store refuses the credentials. Names the profile and the endpoint, never a secret."""


class BucketMissing(Exception):
    """There is no such bucket. Names it and the fix."""


class Damaged(Exception):
    """Bytes that are not what was stored: missing, cut short or altered. Names the object."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry:
    """One file: its relative name, size in bytes and sha256 (hex)."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """A small object as read. last_modified and now are both of the store's own clock."""

    body: bytes
    etag: str
    last_modified: datetime
    now: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectInfo:
    """What is known without reading. sha256: that which ``upload`` stored beside the object; None from ``list``."""

    key: str
    size: int
    etag: str
    sha256: str | None = None


class ObjectStore(Protocol):
    """The contract. tests/pipelines/test_store.py is run against both implementations."""

    @property
    def uri(self) -> str: ...

    def within(self, wait_s: float) -> ObjectStore:
        """The same store, which gives up after so many seconds."""
        ...

    def get(self, key: str) -> Stored | None:
        """A whole small object; None when there is none."""
        ...

    def head(self, key: str) -> ObjectInfo | None: ...

    def create(self, key: str, body: bytes) -> str | None:
        """Write if there is nothing; the ETag, or None when another's object is there."""
        ...

    def replace(self, key: str, body: bytes, etag: str) -> str | None:
        """Write over exactly that version; the new ETag, or None when it is no longer there."""
        ...

    def put(self, key: str, body: bytes) -> str:
        """Write whatever is there. Only for what one writer owns."""
        ...

    def delete(self, key: str) -> None: ...

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Every object whose key begins so, in the order of keys."""
        ...

    def upload(self, path: Path, key: str) -> FileEntry:
        """Bring a file of any size in, its sha256 beside it. The entry is named by the key."""
        ...

    def download(self, key: str, path: Path, sha256: str | None = None) -> None:
        """Bring an object to a path, whole and checked (against ``sha256``, else the stored one), or not at all.

        Raises Damaged when it is missing or, after a second try, still not what was stored.
        """
        ...

    def now(self) -> datetime:
        """The store's clock, in UTC."""
        ...

    def filesystem(self) -> tuple[FileSystem, str]:
        """A pyarrow file system for bulk data, and the path of the store in it."""
        ...


def open_store(uri: str, wait_s: float = PATIENCE_S) -> ObjectStore:
    """The store at ``s3://bucket[/prefix]`` or ``file:///folder``. Nothing is asked of it yet."""
    if uri.startswith("s3://"):
        from pipelines.store.s3_store import S3Store

        return S3Store(uri, wait_s)
    if uri.startswith("file://"):
        from pipelines.store.directory_store import DirectoryStore

        return DirectoryStore(uri)
    raise BadInput(f"the store {uri!r} is neither s3://bucket/prefix nor file:///folder: set LLAVA_STORE or --store")


def with_nonce(content: Mapping[str, Any]) -> bytes:
    """JSON that no other write equals, so that a writer recognises its own."""
    return json.dumps({**content, "nonce": secrets.token_hex(8)}, sort_keys=True).encode()
