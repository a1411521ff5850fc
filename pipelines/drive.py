"""A driver from start to end: check that the services are there, plan, write the run down, reconcile, say how it ended.

A driver is disposable. SIGINT or SIGTERM makes it leave; what it submitted goes on, and the next driver attaches to it.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

from pipelines import runs
from pipelines.attempt import perform
from pipelines.dag import Pipeline
from pipelines.display import duration, open_display, print_steps, print_values
from pipelines.engine import Engine
from pipelines.journal import Journal
from pipelines.outcome import Cause
from pipelines.plan import Plan, make_plan
from pipelines.runners import JobRunner, Order, RunnerUnreachable
from pipelines.runners.threads import DriverThreads
from pipelines.settings import Settings
from pipelines.spec import read_spec
from pipelines.stage import Placement
from pipelines.store import ObjectStore, StoreUnavailable, open_store
from pipelines.tracking import Tracker
from pipelines.work import ExitCode, Phase, Work

Jobs = Literal["ray", "processes"]
BRIEF_S = 15.0  # how long one call of the driver waits for the store; the driver itself waits longer, and says so


def drive(pipeline: Pipeline, settings: Settings, *, only: Sequence[str] = (), no_wait: bool = False,
          jobs: Jobs = "ray", poll_s: float = 1.0) -> ExitCode:
    """Run the pipeline. Raises BadInput (and the store's own errors) when it cannot begin."""
    store = open_store(settings.store_uri, wait_s=BRIEF_S)
    runners = open_runners(jobs, settings)
    plan = make_plan(pipeline, store, only=only)
    run = _write_down(pipeline, store, plan)
    tracker = Tracker.open(settings, run.run_id, pipeline.recipe, pipeline.resolved)
    display = open_display(s.name for s in pipeline.steps)
    engine = Engine(pipeline=pipeline, store=store, settings=settings, plan=plan, run_id=run.run_id, runners=runners,
                    display=display, journal=Journal(store, run.run_id), no_wait=no_wait, poll_s=poll_s)
    _announce(engine)
    code = ExitCode.FAILED
    try:
        with _leaving_on_signal(engine.stop):
            code = engine.run()
    except (StoreUnavailable, RunnerUnreachable) as error:
        display.event("", "FAILED", f"{error}; what was submitted goes on: run again when it is back")
    finally:
        display.close()
    _conclude(engine, code)
    tracker.end("FINISHED" if code in (ExitCode.DONE, ExitCode.REJECTED) else
                "KILLED" if code is ExitCode.CANCELLED else "FAILED")
    if warning := tracker.close():
        print(f"warning: {warning}", file=sys.stderr)
    return code


def open_runners(jobs: Jobs, settings: Settings) -> Mapping[Placement, JobRunner]:
    """Where steps run. Raises BadInput when there is no cluster, or it refuses the token."""
    def execute(order: Order) -> bool:
        store = open_store(order.store_uri)
        return perform(store, read_spec(store, order.spec_key), settings).cause is Cause.DONE

    working: JobRunner
    if jobs == "processes":
        from pipelines.runners.processes import ProcessJobs

        working = ProcessJobs(settings.state / "jobs")
    else:
        from pipelines.runners.ray_jobs import RayJobs

        working = RayJobs(settings.ray_address, settings.store_uri)
    return {Placement.JOB: working, Placement.DRIVER: DriverThreads(execute)}


def _write_down(pipeline: Pipeline, store: ObjectStore, plan: Plan) -> runs.Run:
    now = store.now()
    run = runs.Run(
        run_id=runs.new_run_id(pipeline.recipe, now), recipe=pipeline.recipe, started=now.isoformat(timespec="seconds"),
        who=runs.who(), driver=runs.here(), champions=dict(plan.champions.models), roots=plan.roots,
        steps={s.name: {"stage": s.stage.name, "depends_on": list(s.depends_on)} for s in pipeline.steps},
        resolved=dict(pipeline.resolved))
    runs.write_run(store, run)
    return run


def _announce(engine: Engine) -> None:
    engine.display.event("", "PLAN", f"{engine.run_id} in {engine.store.uri}")
    engine.journal.append("run_started", driver=runs.here())
    for decision in engine.plan.decisions:
        engine.journal.append("planned", decision.step, action=decision.action.value, key=decision.key,
                              reasons=list(decision.reasons))
        engine.display.event(decision.step, decision.action.value, "; ".join(decision.reasons))


@contextmanager
def _leaving_on_signal(stop: threading.Event) -> Iterator[None]:
    """Within, SIGINT and SIGTERM set the event. A second one ends the process as usual."""
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def leave(_signal: int, _frame: object) -> None:
        stop.set()
        for which, handler in before.items():
            signal.signal(which, handler)

    for which in before:
        signal.signal(which, leave)
    try:
        yield
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)


def _conclude(engine: Engine, code: ExitCode) -> None:
    """The table of what happened, the scores, and what goes on without this driver."""
    works = list(engine.works.values())
    print()
    print_steps(f"{engine.run_id}: {code.name.lower()}",
                [(w.step.name, _word(w), duration(w.took_s), w.reason.splitlines()[0] if w.reason else "")
                 for w in works])
    for work in works:
        if work.step.stage.name == "evaluate" and work.manifest is not None:
            print_values(work.step.name, work.manifest.values)
    if going_on := [w.step.name for w in works if w.phase is Phase.LIVE]:
        print(f"\nthis driver has left; {', '.join(going_on)} goes on running. Run again to attach to it.")
    engine.journal.append("run_ended", exit=int(code))


def _word(work: Work) -> str:
    if work.phase is Phase.DONE:
        return ("IMPORTED" if work.step.imported else "DONE") if work.worked else "REUSE"
    return {Phase.LIVE: "RUN", Phase.WAITING: "WAIT"}.get(work.phase, work.phase.name)
