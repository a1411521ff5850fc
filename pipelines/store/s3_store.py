"""S3 as an object store. AWS, SeaweedFS and any server that enforces If-None-Match and If-Match will do.

Each object carries the sha256 of its bytes as metadata, whole or in parts, so that readers can check what they read.
After any doubt about a conditional write the object itself is asked: what is there decides, not what was answered.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlparse

from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore.exceptions import ClientError, FlexibleChecksumError
from s3transfer.exceptions import RetriesExceededError

from pipelines.faults import crash_point
from pipelines.stage import BadInput
from pipelines.store import PATIENCE_S, Damaged, FileEntry, ObjectInfo, Stored
from pipelines.store.s3_client import S3Client, Unsure, code, status

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

T = TypeVar("T")

PART_BYTES = 16 << 20
TRANSFER = TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=4)


class S3Store:
    """uri: ``s3://bucket[/prefix]``. Endpoint, region and credentials are those of boto3's environment."""

    def __init__(self, uri: str, wait_s: float = PATIENCE_S, s3: S3Client | None = None) -> None:
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        if not bucket:
            raise BadInput(f"the store {uri!r} names no bucket: s3://bucket/prefix")
        self._uri = uri.rstrip("/")
        self._wait_s = wait_s
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._s3 = s3 or S3Client(bucket)

    def __reduce__(self) -> tuple[Any, ...]:
        return S3Store, (self._uri, self._wait_s)

    @property
    def uri(self) -> str:
        return self._uri

    def within(self, wait_s: float) -> S3Store:
        return S3Store(self._uri, wait_s, self._s3)

    def get(self, key: str) -> Stored | None:
        return self._ask(lambda client: self._get(client, key))

    def head(self, key: str) -> ObjectInfo | None:
        def request(client: Any) -> ObjectInfo:
            answer = client.head_object(**self._at(key))
            return ObjectInfo(key=key, size=answer["ContentLength"], etag=answer["ETag"],
                              sha256=answer["Metadata"].get("sha256"))

        return self._found(request)

    def create(self, key: str, body: bytes) -> str | None:
        return self._conditional(key, body, "store.create.reply", {"IfNoneMatch": "*"}, lambda held: held is None)

    def replace(self, key: str, body: bytes, etag: str) -> str | None:
        return self._conditional(key, body, "store.replace.reply", {"IfMatch": etag},
                                 lambda held: held is not None and held.etag == etag)

    def put(self, key: str, body: bytes) -> str:
        def request(client: Any) -> str:
            answer = self._put(client, key, body, {})
            crash_point("store.put.reply")
            return answer

        return self._ask(request)

    def delete(self, key: str) -> None:
        self._ask(lambda client: client.delete_object(**self._at(key)))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        token: dict[str, str] = {}
        while True:
            page = self._ask(lambda client, token=token: client.list_objects_v2(
                Bucket=self._bucket, Prefix=self._prefix + prefix, **token))
            for entry in page.get("Contents", ()):
                yield ObjectInfo(key=entry["Key"].removeprefix(self._prefix), size=entry["Size"], etag=entry["ETag"])
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def upload(self, path: Path, key: str) -> FileEntry:
        with open(path, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()

        def request(client: Any) -> None:
            try:
                with create_transfer_manager(client, TRANSFER) as transfers:
                    transfers.upload(str(path), extra_args={"Metadata": {"sha256": sha256}},
                                     **self._names(key)).result()
            except ClientError as error:
                if code(error) == "NoSuchUpload":  # completed already, and the answer was lost
                    raise Unsure(f"{self.uri}/{key}: the end of the upload was not confirmed") from error
                raise

        self._s3.call(request, self._wait_s, bulk=True)
        return FileEntry(name=key, size=size, sha256=sha256)

    def download(self, key: str, path: Path, sha256: str | None = None) -> None:
        info = self.head(key)
        if info is None:
            raise Damaged(f"{self.uri}/{key} is missing")
        wanted = sha256 or info.sha256
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        found = None
        try:
            for _ in range(2):  # bytes that were hurt on the way are whole at the second try
                with contextlib.suppress(FlexibleChecksumError):
                    self._s3.call(lambda client: self._fetch(client, key, part), self._wait_s, bulk=True)
                if not part.exists():
                    continue
                with open(part, "rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
                if not wanted or found == wanted:
                    os.replace(part, path)
                    return
        finally:
            part.unlink(missing_ok=True)
        raise Damaged(f"{self.uri}/{key} has the sha256 {str(found)[:12]}, not {str(wanted)[:12]} as it was stored")

    def now(self) -> datetime:
        return self._ask(lambda client: _date(client.head_bucket(Bucket=self._bucket)))

    def filesystem(self) -> tuple[FileSystem, str]:
        return self._filesystem, f"{self._bucket}/{self._prefix}".rstrip("/")

    @cached_property
    def _filesystem(self) -> FileSystem:
        from pyarrow.fs import S3FileSystem

        keys = self._s3.frozen_credentials()
        endpoint = urlparse(self._s3.endpoint)
        place = {} if endpoint.netloc.endswith(".amazonaws.com") else {
            "endpoint_override": endpoint.netloc, "scheme": endpoint.scheme}
        return S3FileSystem(access_key=keys.access_key, secret_key=keys.secret_key, session_token=keys.token,
                            region=self._s3.client.meta.region_name, **place)

    def _ask(self, request: Callable[[Any], T]) -> T:
        return self._s3.call(request, self._wait_s)

    def _found(self, request: Callable[[Any], T]) -> T | None:
        """The answer, or None when the object is not there."""
        def careful(client: Any) -> T | None:
            try:
                return request(client)
            except ClientError as error:
                if self._s3.missing(error):
                    return None
                raise

        return self._ask(careful)

    def _at(self, key: str) -> dict[str, str]:
        if not key or any(part in ("", ".", "..") for part in key.split("/")):
            raise ValueError(f"{key!r} is not a key: no empty part, no '.' or '..'")
        return {"Bucket": self._bucket, "Key": self._prefix + key}

    def _names(self, key: str) -> dict[str, str]:
        return {name.lower(): value for name, value in self._at(key).items()}

    def _get(self, client: Any, key: str) -> Stored | None:
        try:
            answer = client.get_object(**self._at(key))
        except ClientError as error:
            if self._s3.missing(error):
                return None
            raise
        kept = answer["Metadata"].get("sha256")
        try:
            body = answer["Body"].read()
            whole = not kept or hashlib.sha256(body).hexdigest() == kept
        except FlexibleChecksumError:
            body, whole = b"", False
        if not whole:
            raise Unsure(f"{self.uri}/{key} did not arrive as it was stored")
        return Stored(body=body, etag=answer["ETag"], last_modified=answer["LastModified"].astimezone(UTC),
                      now=_date(answer))

    def _put(self, client: Any, key: str, body: bytes, condition: dict[str, str]) -> str:
        answer = client.put_object(**self._at(key), Body=body, **condition,
                                   Metadata={"sha256": hashlib.sha256(body).hexdigest()})
        return str(answer["ETag"])

    def _conditional(self, key: str, body: bytes, point: str, condition: dict[str, str],
                     still_open: Callable[[Stored | None], bool]) -> str | None:
        """One write with one winner. still_open: whether what is there now leaves the condition to be met."""
        doubt = False  # whether an earlier try of this write may have been carried out

        def settled(client: Any) -> tuple[str | None] | None:
            """(the outcome,) as what is there decides it; None while it is open."""
            held = self._get(client, key)
            if held is not None and held.body == body:
                return (held.etag,)
            return None if still_open(held) else (None,)

        def request(client: Any) -> str | None:
            nonlocal doubt
            if doubt and (outcome := settled(client)):
                return outcome[0]
            doubt = True
            try:
                etag = self._put(client, key, body, condition)
                crash_point(point)
                return etag
            except ClientError as error:
                gone = code(error) == "NoSuchKey"  # the answer to replacing what was deleted
                if status(error) not in (409, 412) and not gone:
                    raise
                if outcome := settled(client):
                    return outcome[0]
                raise Unsure(f"{self.uri}/{key}: {code(error) or status(error)}") from error

        return self._ask(request)

    def _fetch(self, client: Any, key: str, part: Path) -> None:
        try:
            with create_transfer_manager(client, TRANSFER) as transfers:
                transfers.download(fileobj=str(part), **self._names(key)).result()
        except RetriesExceededError as error:
            raise Unsure(f"{self.uri}/{key}: {error.last_exception}") from error
        except ClientError as error:
            if status(error) == 404:
                raise Damaged(f"{self.uri}/{key} is missing") from None
            raise


def _date(answer: Any) -> datetime:
    """The store's clock, as every answer carries it."""
    return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]).astimezone(UTC)
