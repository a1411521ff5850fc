"""The holder's side of a step record, and how others judge that a holder is gone.

A holder renews the record by compare-and-swap, and stops itself half a TTL after its last good renewal began. So it has
stopped before anybody may take its place, whatever its clock says; and if it is stopped too hard to notice, its commit
is refused by the store. An observer calls a holder gone when the record's ETag has not changed for a TTL of the
observer's own monotonic clock, or when the store's clock is more than TTL + 2 s past the record's last change.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipelines.faults import crash_point
from pipelines.outcome import AttemptLost
from pipelines.record.step_record import Request, Seen, State, StepRecord, read, swap
from pipelines.store import BucketMissing, StoreDenied, StoreUnavailable

if TYPE_CHECKING:
    from pipelines.store import ObjectStore

TTL_S = 30.0
CLOCK_SLACK_S = 2.0  # Last-Modified and Date are in whole seconds


def is_expired(seen: Seen, ttl_s: float = TTL_S) -> bool:
    """Whether the holder is gone by the store's clock."""
    return seen.age_s > ttl_s + CLOCK_SLACK_S


class Observer:
    """Watches records for as long as it lives: an unchanged ETag is judged by this process's monotonic clock."""

    def __init__(self, ttl_s: float = TTL_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._ttl_s = ttl_s
        self._clock = clock
        self._since: dict[tuple[str, str], tuple[str, float]] = {}

    def is_expired(self, seen: Seen) -> bool:
        what, now = (seen.record.step, seen.record.key), self._clock()
        etag, since = self._since.get(what, ("", now))
        if etag != seen.etag:
            self._since[what] = (seen.etag, now)
            return is_expired(seen, self._ttl_s)
        return now - since > self._ttl_s or is_expired(seen, self._ttl_s)


class Holder:
    """One attempt's hold on its record.

        with Holder(store, step, key, generation=1, epoch=2) as holder:   # AttemptLost if another has the place
            ...; holder.check(); ...
            holder.publish(manifest_key, digest)
    """

    def __init__(self, store: ObjectStore, step: str, key: str, *, generation: int, epoch: int, ttl_s: float = TTL_S,
                 place: Mapping[str, Any] | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.ttl_s = ttl_s
        self._store = store
        self._patient = store.within(ttl_s / 2)
        self._brief = store.within(ttl_s / 6)
        self._step, self._key, self._generation, self._epoch = step, key, generation, epoch
        self._place = dict(place or {})
        self._clock = clock
        self._token = secrets.token_hex(8)
        self._seen: Seen | None = None
        self._good = 0.0  # when the last good renewal began
        self._reason = ""
        self._progress: Mapping[str, Any] = {}
        self._lock = threading.RLock()
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> Seen:
        """Claim the reservation and begin to renew it. Raises AttemptLost when the record names another attempt."""
        crash_point("claim.before")
        began = self._clock()
        seen = read(self._store, self._step, self._key)
        if seen is None or not self._is_epoch(seen.record) or seen.record.state is not State.RESERVED:
            raise AttemptLost(f"epoch {self._epoch} of {self._step} is not to be claimed: {_words(seen)}")
        claimed = swap(self._store, seen, replace(seen.record, state=State.RUNNING, holder=self._token,
                                                  place=self._place))
        if claimed is None:
            claimed = self._after_refusal((State.RESERVED, State.RUNNING))
            if claimed is None:
                raise AttemptLost(f"epoch {self._epoch} of {self._step} was taken while it was claimed")
            if claimed.record.state is State.RESERVED:  # a request was left for us in between
                return self.start()
        self._seen, self._good = claimed, began
        crash_point("claim.after")
        self._keep_renewing()
        return claimed

    def __enter__(self) -> Holder:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def lost(self) -> bool:
        """Whether the place is gone. It does not come back; after the commit there is nothing left to lose."""
        if self._seen is not None and self._seen.record.state is State.COMMITTED:
            return False
        if not self._reason and self._clock() - self._good > self.ttl_s / 2:
            self._lose(f"no renewal for {self._clock() - self._good:.1f} s, half the lease of {self.ttl_s:g} s")
        return bool(self._reason)

    @property
    def request(self) -> Request | None:
        """What the record asked of the holder when it was last renewed."""
        return self._held().record.request

    def check(self) -> None:
        """Raises AttemptLost once the place is lost: what is done from here on would be in vain."""
        if self.lost:
            raise AttemptLost(f"{self._step} epoch {self._epoch}: {self._reason}")

    def report(self, progress: Mapping[str, Any]) -> None:
        """Small JSON that goes with the next heartbeat, for people to see."""
        self._progress = dict(progress)

    def adopt(self, checkpoint: str) -> None:
        """Name the checkpoint that this attempt goes on from, at once."""
        self._write(lambda record: replace(record, adopted=checkpoint), self._patient)

    def renew(self) -> None:
        """One heartbeat. Raises AttemptLost, or StoreUnavailable when the store is away."""
        self._write(lambda r: replace(r, heartbeat=r.heartbeat + 1, progress=self._progress), self._brief)

    def publish(self, manifest: str, digest: str) -> StepRecord:
        """Commit: from here on readers see this attempt's artifact. Raises AttemptLost when another has the place.

        StoreUnavailable leaves open whether it happened; the record knows.
        """
        crash_point("publish.before_commit")
        committed = self._write(
            lambda record: replace(record, state=State.COMMITTED, manifest=manifest, digest=digest, request=None,
                                   progress=self._progress), self._patient)
        self._done.set()
        crash_point("publish.after_commit")
        return committed.record

    def close(self) -> None:
        """Stop renewing. The record stays as it is."""
        self._done.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _keep_renewing(self) -> None:
        self._thread = threading.Thread(target=self._loop, name="heartbeat", daemon=True)
        self._thread.start()

    def _loop(self) -> None:
        while not self._done.wait(self.ttl_s / 6):
            try:
                if not self._done.is_set() and not self.lost:
                    self.renew()
            except StoreUnavailable:
                continue  # the time since the last good renewal decides
            except AttemptLost:
                return
            except (StoreDenied, BucketMissing) as error:
                self._lose(str(error))
            if self._reason:
                return

    def _write(self, change: Callable[[StepRecord], StepRecord], store: ObjectStore) -> Seen:
        """Replace the version that we hold. One to which others added a request is ours too, while it names us."""
        with self._lock:
            while True:
                self.check()
                began, held = self._clock(), self._held()
                if held.record.state is not State.RUNNING:
                    return held  # the heartbeat came after the commit
                wanted = change(held.record)
                written = swap(store, held, wanted)
                if written is None:
                    now = self._after_refusal((State.RUNNING, State.COMMITTED), store)
                    if now is None:
                        self._lose("another attempt has the place")
                        self.check()
                        raise AssertionError("unreachable")
                    self._seen = now
                    if now.record.state is State.COMMITTED:  # our own commit, and somebody marked it since
                        return now
                    continue
                self._seen, self._good = written, began
                return written

    def _after_refusal(self, states: tuple[State, ...], store: ObjectStore | None = None) -> Seen | None:
        """The record as it is now, if it still names this attempt in one of the states."""
        seen = read(store or self._store, self._step, self._key)
        if seen is None or not self._is_epoch(seen.record) or seen.record.state not in states:
            return None
        return seen if seen.record.state is State.RESERVED or seen.record.holder == self._token else None

    def _is_epoch(self, record: StepRecord) -> bool:
        return (record.generation, record.epoch) == (self._generation, self._epoch)

    def _held(self) -> Seen:
        if self._seen is None:
            raise RuntimeError("the holder was not started")
        return self._seen

    def _lose(self, reason: str) -> None:
        self._reason = self._reason or reason


def _words(seen: Seen | None) -> str:
    if seen is None:
        return "there is no record"
    r = seen.record
    return f"the record is {r.state.value} in generation {r.generation}, epoch {r.epoch}"
