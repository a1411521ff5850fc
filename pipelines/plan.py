"""What a run will do, and why, before it does it: a pure look at the store.

A step's key can be computed only when the content of all its inputs is known. What depends on work that was never done
is planned as RUN "because X will run". What depends on work that is done again, because its artifact is damaged, is
planned on the content that it had: it comes out the same. Effects are never reused: each run compares what should be
with what is.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from pipelines import record
from pipelines.artifact import Manifest, check_present, load_manifest
from pipelines.champions import Champions
from pipelines.dag import Pipeline, Step, step_of
from pipelines.history import why_new
from pipelines.identity import Identity, identify
from pipelines.record import Seen, State
from pipelines.sources import digest_source
from pipelines.stage import BadInput
from pipelines.store import Damaged, ObjectStore


class Action(enum.Enum):
    """What a run does with a step."""

    REUSE = "REUSE"  # committed and present
    RESUME = "RESUME"  # an attempt has begun: attach to it, or go on after it
    RUN = "RUN"
    IMPORTED = "IMPORTED"  # the recipe gives the output; it is taken in unless it already was
    BLOCKED = "BLOCKED"


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What lies under a key. seen: its record. manifest: of an artifact that is whole. trouble: what is wrong with one
    that is not; former: its manifest, if that can still be read.
    """

    seen: Seen | None = None
    manifest: Manifest | None = None
    trouble: str = ""
    former: Manifest | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """reasons: in the order in which a person would read them. works: whether an attempt will run.
    key: None while an input is unknown. manifest: of the artifact that is there already. expected: of the artifact that
    is there or will be, if that is known.
    """

    step: str
    action: Action
    reasons: tuple[str, ...]
    works: bool = False
    key: str | None = None
    manifest: Manifest | None = None
    expected: Manifest | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """source_digests: URI -> digest of every source outside the DAG, as the plan saw it. outside: steps that may not
    work in this run (``--only``).
    """

    decisions: tuple[Decision, ...]
    champions: Champions = field(default_factory=Champions)
    source_digests: Mapping[str, str] = field(default_factory=dict)
    outside: frozenset[str] = frozenset()

    def decision(self, step: str) -> Decision:
        return next(d for d in self.decisions if d.step == step)

    @property
    def roots(self) -> dict[str, str]:
        return {d.step: d.key for d in self.decisions if d.key}


def make_plan(pipeline: Pipeline, store: ObjectStore, *, only: Iterable[str] = ()) -> Plan:
    """Decide for every step. Raises BadInput for a source that is not given or not there, or an unknown step in
    ``only``: a run of many hours does not begin when what its last step needs was forgotten.
    """
    if lacks := [lack for s in pipeline.steps for lack in _lacking(s)]:
        raise BadInput(f"recipe {pipeline.recipe} needs inputs that are not given: {', '.join(lacks)}; give each with "
                       "--set NAME=PATH (a path, an s3:// or a step:// URI; docs/data.md says what they are)")
    allowed = {s.name for name in only for s in pipeline.named(name)}
    outside = frozenset(s.name for s in pipeline.steps if s.name not in allowed) if allowed else frozenset()
    champions = Champions.fix(pipeline, store)
    digests = {uri: digest_source(uri) for uri in _outside_sources(pipeline)}
    decisions: dict[str, Decision] = {}
    for step in pipeline.steps:
        decisions[step.name] = _decide(step, pipeline.seed, store, decisions, champions, digests, outside)
    return Plan(decisions=tuple(decisions.values()), champions=champions, source_digests=digests, outside=outside)


def look(store: ObjectStore, step: str, key: str) -> Look:
    """What lies under the key. Existence, size and stored checksum of every file are asked for; no byte is read."""
    seen = record.read(store, step, key)
    if seen is None:
        return Look()
    if seen.record.live:
        return Look(seen=seen)
    damaged = seen.record.reason if seen.record.state is State.DAMAGED else ""
    if seen.record.manifest is None:  # forgotten before it was ever committed
        return Look(seen=seen, trouble=damaged)
    try:
        manifest = load_manifest(store, seen.record)
    except Damaged as error:
        return Look(seen=seen, trouble=damaged or str(error))
    if trouble := damaged or "; ".join(check_present(store, manifest)[:3]):
        return Look(seen=seen, trouble=trouble, former=manifest)
    return Look(seen=seen, manifest=manifest)


def rejection(step: Step, manifests: Mapping[str, Manifest]) -> str | None:
    """Why an effect may not take place, if a decision that it depends on says no."""
    if step.stage.effect:
        for name in step.depends_on:
            values = manifests[name].values if name in manifests else {}
            if values.get("accepted") is False:
                return f"gate rejected: {'; '.join(map(str, values.get('reasons', ())))}"
    return None


def hold(step: Step, champions: Champions) -> str | None:
    """Why an effect must leave its model alone, if a person put it on hold."""
    why = champions.hold_on(step)
    return f"{why}; `llavactl promote` clears the hold" if why else None


def _lacking(step: Step) -> list[str]:
    """The sources that the step needs and the recipe does not give."""
    if step.imported:
        return []
    return [" or ".join(f"{step.name}.{field}" for field in need.split("|"))
            for need in step.stage.needs if not set(need.split("|")) & set(step.sources)]


def _outside_sources(pipeline: Pipeline) -> list[str]:
    uris = [u for s in pipeline.steps for u in ([s.imported] if s.imported else s.sources.values())]
    return [u for u in dict.fromkeys(uris) if step_of(u) is None]


def _decide(step: Step, seed: int, store: ObjectStore, before: Mapping[str, Decision], champions: Champions,
            digests: Mapping[str, str], outside: frozenset[str]) -> Decision:
    upstream = [before[name] for name in step.depends_on]
    manifests = {d.step: d.expected for d in upstream if d.expected is not None}
    if no := hold(step, champions) or rejection(step, manifests):
        return Decision(step=step.name, action=Action.BLOCKED, reasons=(no,))
    if blocked := [d.step for d in upstream if d.action is Action.BLOCKED]:
        return Decision(step=step.name, action=Action.BLOCKED, reasons=(f"needs {blocked[0]}, which is blocked",))
    unknown = [d.step for d in upstream if d.expected is None]
    if unknown:
        decision = Decision(step=step.name, action=Action.IMPORTED if step.imported else Action.RUN, works=True,
                            reasons=tuple(f"{name} will run" for name in unknown))
    else:
        ready = champions.into(step, manifests, store)
        decision = _decide_known(ready, identify(ready, seed, manifests, digests), store)
        again = tuple(f"{d.step} comes out as it was" for d in upstream if d.works)
        decision = replace(decision, reasons=(*again, *decision.reasons))
    if decision.works and step.name in outside:
        return Decision(step=step.name, action=Action.BLOCKED, key=decision.key,
                        reasons=("not among --only, and not there yet", *decision.reasons))
    return decision


def _decide_known(step: Step, identity: Identity, store: ObjectStore) -> Decision:
    """The decision for a step whose inputs are all there."""
    found = look(store, step.name, identity.key)
    action, works, manifest, expected = Action.RUN, True, None, found.former
    if step.stage.effect:
        expected = None
        reasons: tuple[str, ...] = ("compares what should be with what is",)
    elif found.manifest is not None:
        made = found.manifest
        action, works, manifest, expected = Action.REUSE, False, made, made
        reasons = (f"made by {made.producer.get('run_id', 'an earlier run')}", *_made_otherwise(step, made))
    elif found.trouble:
        reasons = (f"damaged: {found.trouble}",)
    elif found.seen is not None:
        held = found.seen.record
        action = Action.RESUME
        reasons = (f"attempt {held.epoch} is {held.state.value.lower()} as {held.submission_id}",)
    else:
        reasons = why_new(store, step.name, identity.document)
    if step.imported:
        action, reasons = Action.IMPORTED, (f"given: {step.imported}", *reasons)
    return Decision(step=step.name, action=action, reasons=reasons, works=works, key=identity.key, manifest=manifest,
                    expected=expected)


def _made_otherwise(step: Step, manifest: Manifest) -> tuple[str, ...]:
    """What the last bits of the result may owe to how it was run, when that is not how it would be run now."""
    then = manifest.producer.get("run") or {}
    now = step.config.run.model_dump(mode="json")
    return tuple(f"made with {name} = {then[name]}, not {now[name]}"
                 for name in ("num_workers", "threads_per_worker") if name in then and then[name] != now[name])
