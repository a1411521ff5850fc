"""A boto3 client that asks once and tells the kinds of failure apart; waiting and asking again are decided here.

The client's own retries are off: a repeated conditional write would be refused because of its own first try, and
nobody could say which. Only the parts of bulk transfers are repeated by the client. Credentials come from boto3's
usual chain, are read again once when the store refuses them, and are never written anywhere.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    CredentialRetrievalError,
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    ResponseStreamingError,
)
from urllib3.exceptions import HTTPError

from pipelines.store import BucketMissing, StoreDenied, StoreUnavailable

T = TypeVar("T")
log = logging.getLogger(__name__)

CONNECT_S = 5.0
Kind = tuple[int, float]  # tries, and seconds to wait for an answer
ONCE: Kind = (1, 10.0)  # small objects: an answer that takes longer is not coming
BULK: Kind = (5, 60.0)  # parts of a transfer
FIRST_WAIT_S = 0.1
LOUD_WAIT_S = 3.0
LONGEST_WAIT_S = 10.0
NETWORK = (EndpointConnectionError, ConnectionClosedError, HTTPClientError, IncompleteReadError, ResponseStreamingError,
           HTTPError, ConnectionError, TimeoutError)
SLOW = {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "Throttling", "ThrottlingException",
        "TooManyRequestsException", "RequestLimitExceeded", "OperationAborted", "ConditionalRequestConflict"}
NO_CREDENTIALS = (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, ProfileNotFound)


class Unsure(Exception):
    """The store may or may not have done what it was asked."""


def status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def passes(error: Exception) -> bool:
    """Whether the same request may succeed later."""
    if isinstance(error, ClientError):
        return status(error) >= 500 or status(error) == 429 or code(error) in SLOW
    return isinstance(error, (*NETWORK, Unsure))


class S3Client:
    """One bucket's client for all threads of a process."""

    def __init__(self, bucket: str) -> None:
        self.bucket = bucket
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._clients: dict[Kind, Any] = {}
        self._bucket_seen = False

    @property
    def session(self) -> Session:
        with self._lock:
            self._session = self._session or Session()
            return self._session

    @property
    def client(self) -> Any:  # boto3 clients have no static type
        return self._client(ONCE)

    @property
    def endpoint(self) -> str:
        return str(self.client.meta.endpoint_url)

    def call(self, request: Callable[[Any], T], wait_s: float, bulk: bool = False) -> T:
        """``request`` of the client, again after a jittered, growing pause while the store is away or busy.

        bulk: with a client that repeats the parts of a transfer by itself.
        Raises StoreUnavailable after ``wait_s``, StoreDenied, BucketMissing; other ClientErrors as they are.
        """
        deadline = time.monotonic() + wait_s
        pause = FIRST_WAIT_S
        reread = False
        while True:
            try:
                return request(self._client(BULK if bulk else ONCE))
            except NO_CREDENTIALS as error:
                raise self._denied(str(error)) from None
            except ClientError as error:
                if status(error) in (401, 403):
                    if reread:
                        raise self._denied(code(error)) from None
                    reread = True
                    self._forget()
                    continue
                self._require_bucket(error)
                if not passes(error):
                    raise
                reason: Exception = error
            except (BotoCoreError, HTTPError, OSError, Unsure) as error:
                if not passes(error):
                    raise
                reason = error
            if time.monotonic() + pause > deadline:
                raise StoreUnavailable(f"the store at {self.endpoint} (bucket {self.bucket}) did not answer for "
                                       f"{wait_s:.0f} s ({_words(reason)}); is it up, and is AWS_ENDPOINT_URL right?"
                                       ) from reason
            if pause >= LOUD_WAIT_S:
                log.warning("the store at %s does not serve (%s); trying for %.0f s more", self.endpoint,
                            _words(reason), deadline - time.monotonic())
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, LONGEST_WAIT_S)

    def frozen_credentials(self) -> Any:
        """Raises StoreDenied when there are none."""
        credentials = self.session.get_credentials()
        if credentials is None:
            raise self._denied("no credentials")
        return credentials.get_frozen_credentials()

    def missing(self, error: ClientError) -> bool:
        """Whether the object is not there. A HEAD does not say if the bucket is: that is asked once."""
        if status(error) != 404:
            return False
        self._require_bucket(error)
        if not self._bucket_seen:
            try:
                self.client.head_bucket(Bucket=self.bucket)
            except ClientError as asked:
                if status(asked) == 404:
                    raise self._no_bucket() from None
                raise
            self._bucket_seen = True
        return True

    def _require_bucket(self, error: ClientError) -> None:
        if code(error) == "NoSuchBucket" or (status(error) == 404 and error.operation_name == "HeadBucket"):
            raise self._no_bucket() from None

    def _no_bucket(self) -> BucketMissing:
        return BucketMissing(f"the bucket {self.bucket!r} does not exist at {self.endpoint}: create it "
                             f"(aws s3 mb s3://{self.bucket}), or name another with LLAVA_STORE or --store")

    def _denied(self, why: str) -> StoreDenied:
        profile = os.environ.get("AWS_PROFILE", "default")
        where = self._clients[ONCE].meta.endpoint_url if ONCE in self._clients else "the S3 endpoint"
        return StoreDenied(f"{where} refuses the credentials of profile {profile!r} for bucket {self.bucket!r} "
                           f"({why}): check AWS_PROFILE, AWS_SHARED_CREDENTIALS_FILE and the bucket's policy")

    def _client(self, kind: Kind) -> Any:
        session = self.session
        with self._lock:
            if kind not in self._clients:
                tries, read_s = kind
                self._clients[kind] = session.client("s3", config=Config(
                    retries={"total_max_attempts": tries, "mode": "standard"}, connect_timeout=CONNECT_S,
                    read_timeout=read_s, max_pool_connections=32))
            return self._clients[kind]

    def _forget(self) -> None:
        """The next request reads the credentials anew."""
        with self._lock:
            self._session = None
            self._clients.clear()


def _words(error: Exception) -> str:
    return f"{code(error)} {status(error)}" if isinstance(error, ClientError) else f"{type(error).__name__}: {error}"
