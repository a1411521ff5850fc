"""What people see of a run in MLflow. A mirror: nothing decides by it, and nothing ever waits for it.

Calls only put a record in a queue; one thread sends. While MLflow is away, records go to a spool file of bounded size
and are sent, in order, when it is back, by this process or by the next that opens a tracker on this machine. Records
carry the pipeline's own names and times, so sending one twice shows it once. What had to be dropped is counted, and
``close`` says so. A process that is killed takes the records of its last seconds with it.

    tracker = Tracker.open(settings, run_id, "demo", resolved)
    step = tracker.step("tune_chat", key)
    step.log_params({"learning_rate": 2e-5}); step.log_metrics({"loss": 1.2}, 7); step.end("FINISHED")
    warning = tracker.close()
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.mlflow_api import MlflowApi, MlflowDown, MlflowRefused
from pipelines.mlflow_runs import Runs
from pipelines.spool import Spool

if TYPE_CHECKING:
    from pipelines.settings import Settings

EVERY_S = 3.0  # how long records wait for company
RETRY_S = 15.0  # how long a server that was away is left alone
QUEUED = 20_000
SPOOLED_BYTES = 16 << 20
CLOSE_S = 20.0  # how long the end of a process waits for what is still to be sent

Record = dict[str, Any]


class Tracker:
    """One run of a pipeline as seen from one process. With no MLflow configured it does nothing."""

    def __init__(self, uri: str | None, spool: Spool, run_id: str, recipe: str) -> None:
        self._who = {"run": run_id, "recipe": recipe}
        self._queue: queue.Queue[Record | None] = queue.Queue(QUEUED)
        self._spool = spool
        self._runs = Runs(MlflowApi(uri)) if uri else None
        self._away_until = 0.0
        self.dropped = 0
        self.refused = 0
        self._trouble = ""
        self._thread: threading.Thread | None = None
        if self._runs:
            self._thread = threading.Thread(target=self._loop, name="mlflow", daemon=True)
            self._thread.start()

    @classmethod
    def open(cls, settings: Settings, run_id: str, recipe_name: str,
             resolved: Mapping[str, Any] | None = None) -> Tracker:
        """resolved: the complete recipe, kept as an artifact of the run; only the driver gives it."""
        folder = settings.state / "spool" / "mlflow"
        tracker = cls(settings.mlflow_uri, Spool(folder, run_id, SPOOLED_BYTES), run_id, recipe_name)
        if resolved is not None:
            tracker._put({"kind": "recipe", "body": dict(resolved)})
        return tracker

    def step(self, step: str, key: str) -> StepRun:
        """The nested run of a step. Several attempts at one key write to one run."""
        return StepRun(self, step, key)

    def end(self, status: str) -> None:
        """End the run itself: FINISHED, FAILED or KILLED."""
        self._put({"kind": "end", "status": status})

    def close(self) -> str | None:
        """Send what is left. Returns a sentence when something is not in MLflow (yet)."""
        if self._thread is None:
            return None
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=CLOSE_S)
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():  # still in a call: what it has not got to is lost with the process
            self.dropped += self._queue.qsize()
        else:
            self._spool.close()
        waiting = self._spool.count
        if waiting or self.dropped or self.refused:
            return (f"MLflow lacks {waiting} records that will be sent later, {self.refused} that it refused and "
                    f"{self.dropped} that were dropped: {self._trouble}")
        return None

    def _put(self, record: Record) -> None:
        if self._thread is None:
            return
        try:
            self._queue.put_nowait({**self._who, "at": int(time.time() * 1000), **record})
        except queue.Full:
            self.dropped += 1

    def _loop(self) -> None:
        self._send([])  # what an earlier process left
        last = False
        while not last:
            records, last = self._collect()
            self._send(records)

    def _collect(self) -> tuple[list[Record], bool]:
        """Wait for records, then a little for their company; whether the queue has ended."""
        records: list[Record] = []
        deadline = None
        while len(records) < 1000:
            try:
                record = self._queue.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if record is None:
                return records, True
            records.append(record)
            deadline = deadline or time.monotonic() + EVERY_S
        return records, False

    def _send(self, records: list[Record]) -> None:
        """Older records first; all that cannot be sent now is spooled."""
        assert self._runs is not None
        if time.monotonic() >= self._away_until:
            try:
                self._spool.replay(self._send_now)
                self._send_now(records)
                return
            except MlflowDown as error:
                self._away_until = time.monotonic() + RETRY_S
                self._trouble = str(error)
        self.dropped += self._spool.append(records)

    def _send_now(self, records: list[Record]) -> None:
        assert self._runs is not None
        for batch in _batches(records):
            try:
                self._runs.send(batch)
            except (MlflowRefused, KeyError, TypeError, ValueError) as error:  # also an answer in no known form
                self.refused += len(batch)
                self._trouble = str(error) or type(error).__name__


@dataclass(frozen=True, slots=True)
class StepRun:
    """A step's run. Every method returns at once."""

    tracker: Tracker
    step: str
    key: str

    def log_params(self, params: Mapping[str, Any]) -> None:
        self._put({"kind": "params", "values": {str(k): str(v) for k, v in params.items()}})

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._put({"kind": "metrics", "values": {k: float(v) for k, v in metrics.items()}, "index": step or 0})

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        self._put({"kind": "tags", "values": {str(k): str(v) for k, v in tags.items()}})

    def log_datasets(self, digests: Mapping[str, str]) -> None:
        """Content digests of what the step read, by name."""
        self._put({"kind": "datasets", "values": dict(digests)})

    def end(self, status: str) -> None:
        """FINISHED, FAILED or KILLED."""
        self._put({"kind": "end", "status": status})

    def _put(self, record: Record) -> None:
        self.tracker._put({"step": self.step, "key": self.key, **record})


def _batches(records: list[Record]) -> list[list[Record]]:
    """Neighbours of one step together, so that a loss curve travels as few requests."""
    batches: list[list[Record]] = []
    for record in records:
        if batches and _target(batches[-1][0]) == _target(record):
            batches[-1].append(record)
        else:
            batches.append([record])
    return batches


def _target(record: Record) -> tuple[str, str | None, str | None]:
    return record["run"], record.get("step"), record.get("key")
