"""The step record: one object per key that is reservation, lease and commit, changed only by compare-and-swap.

At most one attempt can publish a key, because the commit replaces exactly the version of the record that names this
attempt as its holder: whoever took the place has made another version. Epochs only grow and are never used twice; a
repaired or forgotten key goes on in a new generation. The record is never deleted.

    (none) --reserve--> RESERVED --claim--> RUNNING --publish--> COMMITTED --damage, forget--> DAMAGED
             epoch 1        \\__ expired, or its job has ended: epoch + 1 __/      generation + 1, epoch + 1

No process's wall clock is trusted: ``lease`` has the holder's side, and how others judge that it is gone.
"""

from pipelines.outcome import AttemptLost
from pipelines.record.lease import TTL_S, Holder, Observer, is_expired
from pipelines.record.step_record import (
    Ground,
    Request,
    Seen,
    State,
    StepRecord,
    attempt_prefix,
    damage,
    forget,
    read,
    record_key,
    request,
    reserve,
    submission_id,
    swap,
)

__all__ = ["TTL_S", "AttemptLost", "Ground", "Holder", "Observer", "Request", "Seen", "State", "StepRecord",
           "attempt_prefix", "damage", "forget", "is_expired", "read", "record_key", "request", "reserve",
           "submission_id", "swap"]
