"""What runs inside a step's job: one attempt, from its spec to its outcome.

    python -m pipelines.attempt --store s3://bucket/prefix --spec attempts/<step>/<key>/g1e1/spec.json

It publishes only while it holds the step's record, and only what the code that the key names has made: the code's
digest is taken here before the stage is called and again before its files are published. Whatever happens, the outcome
says why; only a process that was killed leaves none.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from pipelines.artifact import Manifest, publish_files, write_document, write_manifest
from pipelines.attempt_guard import Guard, Told
from pipelines.attempt_inputs import make_context
from pipelines.attempt_log import AttemptLog, tee_output
from pipelines.identity import IMPORT, fresh_stage_code, load_reference
from pipelines.keys import diff_documents
from pipelines.outcome import AttemptLost, Cause, CodeChanged, Outcome, classify, write_outcome
from pipelines.record import Holder
from pipelines.settings import Settings, load_settings
from pipelines.spec import Spec, read_spec
from pipelines.stage import BadInput, Result, Stage, StageContext
from pipelines.store import ObjectStore, open_store
from pipelines.tracking import StepRun, Tracker


def perform(store: ObjectStore, spec: Spec, settings: Settings, guard: Guard | None = None) -> Outcome:
    """Claim the record, do the work, publish it, leave the outcome.

    guard: ends this process when it has to; None in a driver, which must outlive its control steps.
    """
    holder = Holder(store, spec.step, spec.key, generation=spec.generation, epoch=spec.epoch,
                    ttl_s=settings.lease_ttl_s, place={"host": socket.gethostname(), "pid": os.getpid()})
    try:
        holder.start()
    except AttemptLost as error:
        return Outcome(cause=Cause.LOST, message=str(error))  # the namespace is another's: nothing is written there
    try:
        with guard.watching(holder) if guard else nullcontext():
            outcome = _work(store, spec, settings, holder)
        write_outcome(store, spec.prefix, outcome)
    finally:
        holder.close()
    return outcome


def _work(store: ObjectStore, spec: Spec, settings: Settings, holder: Holder) -> Outcome:
    tracker = Tracker.open(settings, spec.run_id, spec.recipe)
    shown = tracker.step(spec.step, spec.key)
    try:
        manifest = _make(store, spec, settings, holder, shown)
        shown.set_tags({"content_digest": manifest.digest, "epoch": spec.epoch})
        outcome = Outcome(cause=Cause.DONE)
    except (Exception, Told) as error:
        outcome = outcome_of(error, spec)
    shown.end("FINISHED" if outcome.cause is Cause.DONE else "FAILED")
    if warning := tracker.close():
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    return outcome


def _make(store: ObjectStore, spec: Spec, settings: Settings, holder: Holder, shown: StepRun) -> Manifest:
    """Call the stage and publish what it made."""
    began = time.monotonic()
    stage = load_reference(spec.stage)
    check_code(spec, stage)
    shown.log_params(dict(_flat(spec.config)))
    shown.log_datasets({**{n: s.digest for n, s in spec.sources.items()},
                        **{n: spec.digests[s] for n, s in spec.inputs.items()}})
    work = settings.state / "work"
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{spec.step}-", dir=work, ignore_cleanup_errors=True) as folder:
        context = make_context(store, spec, settings, stage, Path(folder), holder)
        context.on_metrics = shown.log_metrics
        result = _call(stage, spec, context)
        holder.check()
        check_code(spec, stage)
        shown.log_metrics(result.metrics)
        context.observations.flush()
        files = publish_files(store, context.out, spec.prefix, context.progress)
    manifest = Manifest(
        step=spec.step, key=spec.key, generation=spec.generation, epoch=spec.epoch, files=files,
        values=dict(result.values), prefix=spec.prefix,
        producer={"run_id": spec.run_id, "seconds": round(time.monotonic() - began, 3), "metrics": dict(result.metrics),
                  "run": spec.config["run"], "host": socket.gethostname(), "python": sys.version.split()[0]})
    write_document(store, spec.prefix, spec.document)
    holder.publish(write_manifest(store, manifest), manifest.digest)
    return manifest


def _call(stage: Stage, spec: Spec, context: StageContext) -> Result:
    if IMPORT not in spec.sources:
        return stage.run(context)
    if stage.import_output is None:
        raise BadInput(f"{spec.step}.from is set, but the output of {stage.name} cannot be given; remove it")
    return stage.import_output(context.source(IMPORT), context.out, context.config)


def check_code(spec: Spec, stage: Stage) -> None:
    """Raises CodeChanged naming the file, when the code here is not what the key stands for."""
    here = dict(fresh_stage_code(spec.stage, stage.package_data).nodes)
    if here != spec.document["code"]:
        changed = diff_documents({"code": spec.document["code"]}, {"code": here})
        raise CodeChanged(f"the code changed while running: {'; '.join(changed[:4])} (compared with the driver's); "
                          f"run again, so that the work goes under the key of the new code")


def outcome_of(error: BaseException, spec: Spec) -> Outcome:
    """What the end by this exception means, for the driver and for a person."""
    cause, link = classify(error)
    message = str(link) or type(link).__name__
    if cause is Cause.USER_CODE:
        return Outcome(cause=cause, message=f"{type(link).__name__}: {message}",
                       traceback="".join(traceback.format_exception(error)))
    if cause is Cause.OUT_OF_MEMORY:
        message = (f"out of memory ({message.splitlines()[0][:200]}): lower {spec.step}.micro_batch_size or "
                   f"{spec.step}.run.num_workers where the step has them, or use a larger node")
    if cause is Cause.INFRASTRUCTURE:
        message = f"{type(link).__name__}: {message.splitlines()[0][:300]}"
    return Outcome(cause=cause, message=message, about=getattr(link, "step", ""))


def _flat(config: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names of a nested config, as MLflow shows them."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def main(arguments: list[str] | None = None) -> int:
    """0 when the result is published, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.attempt")
    parser.add_argument("--store", required=True, help="URI of the object store")
    parser.add_argument("--spec", required=True, help="key of the attempt's spec in it")
    given = parser.parse_args(arguments)
    os.environ["LLAVA_STORE"] = given.store
    settings, store = load_settings(), open_store(given.store)
    spec = read_spec(store, given.spec)
    log = AttemptLog(store, spec.prefix)
    with tee_output(log):
        outcome = perform(store, spec, settings, Guard(store, spec, log))
        print(outcome.traceback or f"{spec.step} {outcome.cause.value} {outcome.message}".strip(), flush=True)
    return 0 if outcome.cause is Cause.DONE else 1


if __name__ == "__main__":
    sys.exit(main())
