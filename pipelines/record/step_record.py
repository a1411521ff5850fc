"""The record itself and the swaps that change it; ``pipelines.record`` has the protocol."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pipelines.faults import crash_point
from pipelines.schema import read_json
from pipelines.store import with_nonce

if TYPE_CHECKING:
    from pipelines.store import ObjectStore

SCHEMA = 1


class State(enum.Enum):
    """Where a key stands."""

    RESERVED = "RESERVED"  # an epoch is promised to a job that may not have started
    RUNNING = "RUNNING"  # an attempt holds the place and renews its heartbeat
    COMMITTED = "COMMITTED"  # the artifact is what the manifest says
    DAMAGED = "DAMAGED"  # its artifact is missing or altered, or a person forgot it: it has to be made again


class Request(enum.Enum):
    """What the holder is asked to do at its next safe point."""

    CANCEL = "cancel"
    PREEMPT = "preempt"


class Ground(enum.Enum):
    """Why an epoch may be taken after another."""

    EXPIRED = "expired"  # the holder's heartbeat stopped
    JOB_ENDED = "job_ended"  # the job of this very cluster is known to have ended without a commit
    DAMAGED = "damaged"  # damaged or forgotten: a new generation
    AGAIN = "again"  # an effect is due again: each run compares what should be with what is


FITS = {
    Ground.EXPIRED: (State.RESERVED, State.RUNNING),
    Ground.JOB_ENDED: (State.RESERVED, State.RUNNING),
    Ground.DAMAGED: (State.DAMAGED,),
    Ground.AGAIN: (State.COMMITTED,),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class StepRecord:
    """cluster: where the job was submitted. holder: token of the attempt that claimed the epoch. place: host and pid
    of it. heartbeat: renewals so far. progress: the holder's last words. adopted: the checkpoint it went on from.
    manifest, digest: set once COMMITTED. reason: why this epoch or state came about. tombstone: when it was marked for
    removal.
    """

    step: str
    key: str
    generation: int
    epoch: int
    state: State
    cluster: str
    submission_id: str
    holder: str = ""
    place: Mapping[str, Any] = field(default_factory=dict)
    heartbeat: int = 0
    progress: Mapping[str, Any] = field(default_factory=dict)
    adopted: str | None = None
    request: Request | None = None
    manifest: str | None = None
    digest: str | None = None
    reason: str = ""
    tombstone: str | None = None

    @property
    def prefix(self) -> str:
        """The namespace of the attempt."""
        return attempt_prefix(self.step, self.key, self.generation, self.epoch)

    @property
    def live(self) -> bool:
        """Whether somebody has the place, though perhaps not any more."""
        return self.state in (State.RESERVED, State.RUNNING)

    def to_json(self) -> bytes:
        """Differs at every call, so that a writer knows its own write."""
        return with_nonce({"schema": SCHEMA, **asdict(self), "state": self.state.value,
                           "request": self.request.value if self.request else None})

    @classmethod
    def from_json(cls, body: bytes, what: str = "a step record") -> StepRecord:
        raw = read_json(body, SCHEMA, what)
        raw.pop("nonce")
        state, request = raw.pop("state"), raw.pop("request")
        return cls(state=State(state), request=Request(request) if request else None, **raw)


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """A record as it was read or written. now, last_modified: of the store's own clock."""

    record: StepRecord
    etag: str
    last_modified: datetime
    now: datetime

    @property
    def age_s(self) -> float:
        """Seconds since the record was last written, by the store's clock."""
        return (self.now - self.last_modified).total_seconds()


def record_key(step: str, key: str) -> str:
    return f"steps/{step}/{key}.json"


def attempt_prefix(step: str, key: str, generation: int, epoch: int) -> str:
    """The namespace that only this attempt writes to."""
    return f"attempts/{step}/{key}/g{generation}e{epoch}"


def submission_id(step: str, key: str, generation: int, epoch: int) -> str:
    """The id under which the attempt is submitted: whoever submits it, it is one job."""
    suffix = f"e{epoch}" if generation == 1 else f"g{generation}e{epoch}"
    return f"{step}-{key[:12]}-{suffix}"


def read(store: ObjectStore, step: str, key: str) -> Seen | None:
    """The record as it is. Raises BadInput when newer code wrote it."""
    where = record_key(step, key)
    if (stored := store.get(where)) is None:
        return None
    return Seen(record=StepRecord.from_json(stored.body, where), etag=stored.etag, last_modified=stored.last_modified,
                now=stored.now)


def swap(store: ObjectStore, seen: Seen, new: StepRecord) -> Seen | None:
    """Replace exactly what was seen; None when it is no longer there."""
    etag = store.replace(record_key(new.step, new.key), new.to_json(), seen.etag)
    return replace(seen, record=new, etag=etag, last_modified=seen.now) if etag else None


def reserve(store: ObjectStore, step: str, key: str, *, cluster: str, over: Seen | None = None,
            ground: Ground | None = None, reason: str = "") -> Seen | None:
    """Take the next epoch: the first (over=None), or the one after the record that was seen, on that ground.

    None: another was first, read again. Raises ValueError when the ground does not fit what was seen.
    """
    if over is None:
        generation, epoch = 1, 1
    elif ground is None or over.record.state not in FITS[ground]:
        raise ValueError(f"{step} {key[:12]} is {over.record.state.value}: no epoch can be taken on the ground "
                         f"{ground.value if ground else 'of nothing'}")
    else:
        generation, epoch = over.record.generation + (ground is Ground.DAMAGED), over.record.epoch + 1
    crash_point("reserve.before")
    new = StepRecord(step=step, key=key, generation=generation, epoch=epoch, state=State.RESERVED, cluster=cluster,
                     submission_id=submission_id(step, key, generation, epoch),
                     reason=reason or (ground.value if ground else "first attempt"))
    if over is not None:
        taken = swap(store, over, new)
    else:
        etag = store.create(record_key(step, key), new.to_json())
        now = store.now() if etag else None
        taken = Seen(record=new, etag=etag, last_modified=now, now=now) if etag and now else None
    crash_point("reserve.after")
    return taken


def request(store: ObjectStore, step: str, key: str, epoch: int, wanted: Request) -> bool:
    """Leave a request for the holder of that epoch. False when the epoch is over."""
    while (seen := read(store, step, key)) and seen.record.live and seen.record.epoch == epoch:
        if seen.record.request is wanted or swap(store, seen, replace(seen.record, request=wanted)):
            return True
    return False


def damage(store: ObjectStore, seen: Seen, reason: str) -> Seen | None:
    """Mark a committed record whose artifact is missing or altered. None: it changed meanwhile, read again."""
    if seen.record.state is not State.COMMITTED:
        raise ValueError(f"{seen.record.step} is {seen.record.state.value}: only a committed artifact can be damaged")
    crash_point("damage.before")
    return swap(store, seen, replace(seen.record, state=State.DAMAGED, reason=reason))


def forget(store: ObjectStore, seen: Seen, reason: str) -> Seen | None:
    """Let the key be made again from its beginning; a live attempt of it loses its place. None: read again."""
    crash_point("damage.before")
    return swap(store, seen, replace(seen.record, state=State.DAMAGED, reason=f"forgotten: {reason}", request=None))
