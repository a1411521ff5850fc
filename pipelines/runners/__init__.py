"""Where attempts run. A job is known by a submission id that is used once: submitting it again is attaching to it.

The engine needs only this protocol. Ray is one place (``ray_jobs``); processes of this machine are another
(``processes``), with the same rules, for tests of the engine and for faults that need no cluster.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


class RunnerUnreachable(Exception):
    """The place does not answer now; it may later."""


class JobStatus(enum.Enum):
    """What the place where it runs says of a job. ABSENT: it never heard of the id."""

    ABSENT = "absent"
    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"

    @property
    def live(self) -> bool:
        return self in (JobStatus.PENDING, JobStatus.RUNNING)


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """status and, for one that failed, what the place says about the end."""

    status: JobStatus
    message: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """What a step's parallel part will claim, as Ray resource names and amounts."""

    amounts: Mapping[str, float]

    def beyond(self, offered: Mapping[str, float]) -> str | None:
        """The first resource of which less is offered than demanded, as words; None when all fits."""
        for name, wanted in self.amounts.items():
            if wanted > offered.get(name, 0.0) + 1e-9:
                return f"{wanted:g} {name} ({offered.get(name, 0.0):g} of it)"
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What is submitted: ``python -m pipelines.attempt --store <store_uri> --spec <spec_key>``.

    environment: variables of the process beside those that its node has; no secret. metadata: for the dashboard.
    """

    store_uri: str
    spec_key: str
    environment: Mapping[str, str]
    demand: Demand
    metadata: Mapping[str, str]

    @property
    def arguments(self) -> list[str]:
        return ["-m", "pipelines.attempt", "--store", self.store_uri, "--spec", self.spec_key]


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """total and used, by Ray resource name; holders: submission id of each live step job -> its demand."""

    total: Mapping[str, float]
    used: Mapping[str, float] = field(default_factory=dict)
    holders: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def free(self) -> dict[str, float]:
        """What a new job can count on: a job that has not claimed its demand yet still holds it."""
        claimed = {n: sum(h.get(n, 0.0) for h in self.holders.values()) for n in self.total}
        return {n: t - max(self.used.get(n, 0.0), claimed[n]) for n, t in self.total.items()}


class JobRunner(Protocol):
    """A place that runs attempts."""

    def cluster(self) -> str:
        """Names this very cluster: another id means that its jobs cannot be asked about here."""
        ...

    def name(self, submission_id: str) -> str:
        """What the place calls that job, for a person who looks for it there."""
        ...

    def gone(self, cluster: str) -> bool:
        """Whether that other cluster, and all that ran there, is certainly gone. False where nobody can know."""
        ...

    def submit(self, submission_id: str, order: Order) -> None:
        """Start the attempt; nothing happens if the id was used before."""
        ...

    def job(self, submission_id: str) -> Job:
        ...

    def stop(self, submission_id: str) -> None:
        ...

    def resources(self) -> Resources | None:
        """None while the place cannot tell yet."""
        ...
