"""``llavactl doctor``: try what the pipeline relies on, against any endpoint, and name what is missing.

A probe does the thing itself (it loses a race on purpose, it asks with a wrong key) and never believes a version or a
name. What it writes it deletes. Each finding names what was looked at, what was found there, and the fix.
"""

from __future__ import annotations

import enum
import os
import secrets
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from infra import preflight
from infra.local import services
from infra.local.services import Health
from pipelines.settings import load_environment
from pipelines.stage import BadInput
from pipelines.store import BucketMissing, ObjectStore, StoreDenied, StoreUnavailable, open_store

PART_BYTES = 5 << 20  # the least that S3 takes for a part that is not the last
SKEW_S = 5.0
TIMEOUT_S = 5.0


class Verdict(enum.Enum):
    """OK; WARNING: works, but look at it; MISSING: the pipeline needs it."""

    OK = "ok"
    WARNING = "warning"
    MISSING = "missing"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What was looked at, what was found, and the fix when there is something to mend."""

    what: str
    verdict: Verdict
    found: str
    fix: str = ""


def examine(state: Path, stores: tuple[str, ...] = ()) -> Iterator[Finding]:
    """Every finding about the machine, the local services, the stores, Ray and MLflow.

    stores: the URIs to probe; none means the one of the environment.
    """
    os.environ.setdefault("LLAVA_STATE", str(state))
    load_environment()
    yield from _machine(state)
    yield from _services(state)
    named = stores or tuple(filter(None, [os.environ.get("LLAVA_STORE")]))
    if not named:
        yield Finding(what="store", verdict=Verdict.MISSING, found="LLAVA_STORE is not set",
                      fix="llavactl up, or export LLAVA_STORE=s3://bucket/prefix")
    for uri in named:
        yield from examine_store(uri)
    yield from examine_ray(os.environ.get("RAY_API_SERVER_ADDRESS"), os.environ.get("RAY_AUTH_TOKEN_PATH"))
    yield examine_mlflow(os.environ.get("MLFLOW_TRACKING_URI"))


def _machine(state: Path) -> Iterator[Finding]:
    checks: tuple[tuple[str, str | None], ...] = (
        ("Python 3.11", preflight.missing_python()),
        ("gcc, g++", preflight.missing_compiler()),
        ("memory, 8 GB", preflight.missing_memory(preflight.total_memory())),
        ("disk, 8 GB", preflight.missing_disk(state, preflight.NEEDED_DISK)),
    )
    for what, missing in checks:
        found, _, fix = (missing or "").partition(": ")
        yield Finding(what=what, verdict=Verdict.MISSING if missing else Verdict.OK, found=found, fix=fix)


def _services(state: Path) -> Iterator[Finding]:
    for s in services.status(state):
        ready = s.health is Health.READY
        yield Finding(what=f"local {s.title}", verdict=Verdict.OK if ready else Verdict.WARNING,
                      found=f"{s.health.value}, {s.address}", fix="" if ready else f"llavactl up (log: {s.log})")


def examine_store(uri: str) -> Iterator[Finding]:
    """Whether the store keeps the promises on which records and artifacts stand."""
    prefix = f"doctor/{secrets.token_hex(8)}"
    try:
        store = open_store(uri)
        probes: list[tuple[str, Callable[[ObjectStore, str], str | None], str]] = [
            ("conditional create", _conditional_create, "the endpoint must honour If-None-Match on PUT"),
            ("conditional replace", _conditional_replace, "the endpoint must honour If-Match on PUT"),
            ("listing after writing", _listing, "the endpoint must list what was just written")]
        if uri.startswith("s3://"):
            probes += [("multipart upload", _multipart, "the endpoint must support multipart uploads"),
                       ("wrong keys refused", _wrong_keys, "switch on authentication at the endpoint")]
        for what, probe, fix in probes:
            broken = probe(store, prefix)
            yield Finding(what=f"{uri}: {what}", verdict=Verdict.MISSING if broken else Verdict.OK, found=broken or "",
                          fix=fix if broken else "")
        yield _clock(store, uri)
        for info in list(store.list(prefix)):
            store.delete(info.key)
    except StoreDenied as error:
        yield Finding(what=uri, verdict=Verdict.MISSING, found=str(error),
                      fix='eval "$(llavactl env)" for the local services; else AWS_PROFILE or the node\'s role')
    except BucketMissing as error:
        yield Finding(what=uri, verdict=Verdict.MISSING, found=str(error), fix="create the bucket, or mend the name")
    except StoreUnavailable as error:
        yield Finding(what=uri, verdict=Verdict.MISSING, found=str(error),
                      fix="llavactl up for the local services; else check AWS_ENDPOINT_URL and the network")
    except BadInput as error:
        yield Finding(what=uri, verdict=Verdict.MISSING, found=str(error), fix="mend the URI")


def _conditional_create(store: ObjectStore, prefix: str) -> str | None:
    key = f"{prefix}/create"
    if store.create(key, b"first") is None:
        return "a new object could not be created"
    if store.create(key, b"second") is not None or (kept := store.get(key)) is None or kept.body != b"first":
        return "a second create of one key was not refused"
    return None


def _conditional_replace(store: ObjectStore, prefix: str) -> str | None:
    key = f"{prefix}/replace"
    first = store.create(key, b"first")
    second = store.replace(key, b"second", first) if first else None
    if second is None or (now := store.get(key)) is None or now.body != b"second":
        return "an object could not be replaced by the one who read it last"
    if first and (store.replace(key, b"third", first) is not None):
        return "a replace that names an outdated ETag was not refused"
    return None


def _listing(store: ObjectStore, prefix: str) -> str | None:
    store.put(f"{prefix}/listed", b"x")
    found = {info.key for info in store.list(f"{prefix}/")}
    return None if f"{prefix}/listed" in found else "a written object is not listed"


def _multipart(store: ObjectStore, prefix: str) -> str | None:
    bucket, key = _place(store, f"{prefix}/multipart")
    client = _client()
    upload = client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    bodies = [b"a" * PART_BYTES, b"b"]
    parts = [{"PartNumber": n, "ETag": client.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=n,
                                                          Body=body)["ETag"]} for n, body in enumerate(bodies, 1)]
    client.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts})
    size = client.head_object(Bucket=bucket, Key=key)["ContentLength"]
    return None if size == PART_BYTES + 1 else f"an upload of {PART_BYTES + 1} bytes in two parts became {size} bytes"


def _wrong_keys(store: ObjectStore, prefix: str) -> str | None:
    from botocore.exceptions import ClientError

    bucket, key = _place(store, f"{prefix}/create")
    try:
        _client(secrets.token_hex(10), secrets.token_hex(20)).get_object(Bucket=bucket, Key=key)
    except ClientError as error:
        return None if error.response["ResponseMetadata"]["HTTPStatusCode"] in (400, 401, 403) else str(error)
    return "an object was read with keys that do not exist"


def _clock(store: ObjectStore, uri: str) -> Finding:
    skew = (store.now() - datetime.now(UTC)).total_seconds()
    near = abs(skew) < SKEW_S
    return Finding(what=f"{uri}: clock", verdict=Verdict.OK if near else Verdict.WARNING,
                   found=f"{skew:+.1f} s against this machine",
                   fix="" if near else "set this machine's clock (NTP); leases go by the store's, signatures by both")


def _client(access_key: str | None = None, secret_key: str | None = None) -> Any:
    """A boto3 client with these keys, or with those of the environment."""
    from boto3.session import Session
    from botocore.config import Config

    session = Session(aws_access_key_id=access_key, aws_secret_access_key=secret_key)
    return session.client("s3", config=Config(retries={"max_attempts": 1}, connect_timeout=5))


def _place(store: ObjectStore, name: str) -> tuple[str, str]:
    bucket, _, prefix = store.uri.removeprefix("s3://").partition("/")
    return bucket, f"{prefix.rstrip('/')}/{name}".lstrip("/")


def examine_ray(address: str | None, token_path: str | None) -> Iterator[Finding]:
    """Whether jobs can be submitted with the token, and cannot without."""
    if not address:
        yield Finding(what="Ray", verdict=Verdict.MISSING, found="RAY_API_SERVER_ADDRESS is not set",
                      fix='llavactl up; eval "$(llavactl env)"')
        return
    jobs = f"{address.rstrip('/')}/api/jobs/"
    without = _status(jobs, None)
    if without is None:
        yield Finding(what="Ray", verdict=Verdict.MISSING, found=f"nothing answers at {address}",
                      fix="llavactl up, or ray up ray_cluster.yaml and ray dashboard ray_cluster.yaml")
        return
    refused = without in (401, 403)
    yield Finding(what="Ray without a token", verdict=Verdict.OK if refused else Verdict.WARNING,
                  found=f"{address} answers {without}",
                  fix="" if refused else "anyone who reaches it runs code there: start Ray with RAY_AUTH_MODE=token")
    file = Path(token_path or "~/.ray/auth_token").expanduser()
    token = os.environ.get("RAY_AUTH_TOKEN") or (file.read_text().strip() if file.is_file() else None)
    if token is None:
        yield Finding(what="Ray token", verdict=Verdict.MISSING if refused else Verdict.WARNING,
                      found=f"no token in {file}", fix="set RAY_AUTH_TOKEN_PATH, or ray get-auth-token --generate")
        return
    answer = _status(jobs, token)
    yield Finding(what="Ray token", verdict=Verdict.OK if answer == 200 else Verdict.MISSING,
                  found=f"answers {answer} to the token of {file}",
                  fix="" if answer == 200 else "use the token with which the cluster was started")


def examine_mlflow(uri: str | None) -> Finding:
    """Whether MLflow answers. A warning only: no step waits for it."""
    if not uri:
        return Finding(what="MLflow", verdict=Verdict.WARNING, found="MLFLOW_TRACKING_URI is not set",
                       fix="runs are not shown in MLflow; set it to http://host:port")
    answer = _status(f"{uri.rstrip('/')}/health", None)
    return Finding(what="MLflow", verdict=Verdict.OK if answer == 200 else Verdict.WARNING,
                   found=f"{uri} answers {answer}" if answer else f"nothing answers at {uri}",
                   fix="" if answer == 200 else "llavactl up; what runs log meanwhile is sent later")


def _status(url: str, token: str | None) -> int | None:
    """The HTTP status of a GET; None when nothing answers."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=TIMEOUT_S) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None
