"""The registry: which versions of a model exist, and which one each alias names.

All of a model's versions and aliases are one object, ``aliases/<model>.json``, replaced only by compare-and-swap: a
reader sees one consistent state, and of two writers the second decides again on what the first has left. This object
decides; what MLflow shows is a copy that is repaired from it. A hold stops every automatic change of the champion until
a person promotes. Every change leaves a line of history: who, what, why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pipelines.runs import who as current_user
from pipelines.schema import read_json
from pipelines.stage import BadInput
from pipelines.store import with_nonce

if TYPE_CHECKING:
    from pipelines.store import ObjectStore

SCHEMA = 1
ALIASES = ("champion", "candidate", "serving", "previous")
KEPT_HISTORY = 500
ATTEMPTS = 20  # more than the writers that one model ever has at once


class Held(BadInput):
    """The model is on hold: a person must promote before anything automatic changes it again."""


class Superseded(BadInput):
    """The champion is no longer the one that the candidate was compared with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """One content, known by its digest. number: from 1, never reused. step and key name the record of the step that
    first made it. scores: the evaluation's values.
    """

    number: int
    step: str
    key: str
    digest: str
    scores: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A line of history. at: the store's clock, ISO 8601."""

    at: str
    who: str
    what: str
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Registered:
    """A model as the registry knows it; one that it does not know has no version."""

    model: str
    versions: tuple[Version, ...] = ()
    aliases: Mapping[str, int] = field(default_factory=dict)
    hold: str | None = None
    history: tuple[Change, ...] = ()

    def alias(self, name: str) -> Version | None:
        """The version that the alias names, if any."""
        number = self.aliases.get(name)
        return None if number is None else self.version(number)

    def version(self, number: int) -> Version:
        for version in self.versions:
            if version.number == number:
                return version
        raise BadInput(f"model {self.model} has no version {number}; it has "
                       f"{', '.join(str(v.number) for v in self.versions) or 'none'}")

    def find(self, digest: str) -> Version | None:
        return next((v for v in self.versions if v.digest == digest), None)

    def pointing(self, **aliases: int | None) -> Registered:
        """With these aliases moved; None removes one."""
        moved = {**self.aliases, **aliases}
        return replace(self, aliases={n: moved[n] for n in ALIASES if moved.get(n) is not None})


def alias_key(model: str) -> str:
    return f"aliases/{model}.json"


def read(store: ObjectStore, model: str) -> Registered:
    """Raises BadInput when newer code wrote the object."""
    stored = store.get(alias_key(model))
    return _parse(model, stored.body) if stored else Registered(model=model)


def models(store: ObjectStore) -> list[str]:
    """Names of all registered models."""
    return sorted(info.key.removeprefix("aliases/").removesuffix(".json") for info in store.list("aliases/"))


def change(store: ObjectStore, model: str, update: Callable[[Registered], Registered], *, what: str, why: str,
           who: str | None = None) -> Registered:
    """Replace the model's state by ``update(state)``; nothing is written when that changes nothing.

    ``update`` is called again on the newer state when somebody else was quicker. ``what`` may use ``{version}`` names
    of aliases after the change, as in ``champion -> {champion}``.
    """
    for _attempt in range(ATTEMPTS):
        stored = store.get(alias_key(model))
        before = _parse(model, stored.body) if stored else Registered(model=model)
        after = update(before)
        if after == before:
            return before
        numbers = {name: after.aliases.get(name, "none") for name in ALIASES}
        line = Change(at=store.now().isoformat(timespec="seconds"), who=who or current_user(),
                      what=what.format(**numbers), why=why)
        after = replace(after, history=(*after.history, line)[-KEPT_HISTORY:])
        body = _serialise(after)
        written = store.replace(alias_key(model), body, stored.etag) if stored else store.create(alias_key(model), body)
        if written is not None:
            return after
    raise BadInput(f"{store.uri}/{alias_key(model)} changed {ATTEMPTS} times while it was being changed; try again")


def register(store: ObjectStore, model: str, *, step: str, key: str, digest: str, scores: Mapping[str, Any],
             why: str) -> Version:
    """The version with that content, made the candidate; created if it is new. The champion is not touched."""
    def update(state: Registered) -> Registered:
        found = state.find(digest)
        if found is None:
            found = Version(number=max((v.number for v in state.versions), default=0) + 1, step=step, key=key,
                            digest=digest, scores=dict(scores))
            state = replace(state, versions=(*state.versions, found))
        return state if state.alias("champion") == found else state.pointing(candidate=found.number)

    after = change(store, model, update, what="candidate -> {candidate}", why=why)
    version = after.find(digest)
    assert version is not None
    return version


def accept(store: ObjectStore, model: str, number: int, *, against: Mapping[str, Any] | None, why: str) -> Registered:
    """Make an accepted candidate the champion; nothing changes when it is.

    against: the champion of the gate's decision (None when there was none). Raises Superseded when another version is
    champion by now, since the candidate was never compared with it; Held while the model is on hold.
    """
    def update(state: Registered) -> Registered:
        champion = state.aliases.get("champion")
        if champion == number:
            return state
        if state.hold:
            raise Held(f"model {model} is on hold ({state.hold}), so version {number} does not become its champion; "
                       f"`llavactl promote {model} {number}` clears the hold")
        if champion != (against["version"] if against else None):
            raise Superseded(f"model {model} has a new champion, version {champion}, with which version {number} was "
                             f"not compared; run the pipeline again and the gate compares them")
        return _crowned(state, number)

    return change(store, model, update, what="champion -> {champion}", why=why)


def promote(store: ObjectStore, model: str, number: int, *, why: str, who: str | None = None) -> Registered:
    """A person makes a version the champion, and clears the hold."""
    return change(store, model, lambda state: replace(_crowned(state, number), hold=None),
                  what="promoted: champion -> {champion}", why=why, who=who)


def rollback(store: ObjectStore, model: str, *, why: str, who: str | None = None) -> Registered:
    """A person makes the previous champion the champion again, and puts the model on hold.

    Raises BadInput when there is none to go back to.
    """
    def update(state: Registered) -> Registered:
        previous, champion = state.alias("previous"), state.alias("champion")
        if previous is None:
            raise BadInput(f"model {model} has no previous champion to go back to")
        held = f"rolled back from version {champion.number if champion else 'none'} by {who or current_user()}: {why}"
        return replace(_crowned(state, previous.number), hold=held)

    return change(store, model, update, what="rolled back: champion -> {champion}", why=why, who=who)


def set_serving(store: ObjectStore, model: str, number: int, *, why: str) -> Registered:
    """Say which version the running application answers with; called once it does."""
    def update(state: Registered) -> Registered:
        return state.pointing(serving=state.version(number).number)

    return change(store, model, update, what="serving -> {serving}", why=why)


def _crowned(state: Registered, number: int) -> Registered:
    """``number`` is champion, the champion before it is previous, and it is a candidate no more."""
    version, champion = state.version(number), state.aliases.get("champion")
    candidate = state.aliases.get("candidate")
    return state.pointing(champion=version.number, candidate=None if candidate == number else candidate,
                          previous=state.aliases.get("previous") if champion in (None, number) else champion)


def _parse(model: str, body: bytes) -> Registered:
    raw = read_json(body, SCHEMA, f"the registry's {alias_key(model)}")
    return Registered(model=model, versions=tuple(Version(**v) for v in raw["versions"]), aliases=raw["aliases"],
                      hold=raw["hold"], history=tuple(Change(**c) for c in raw["history"]))


def _serialise(state: Registered) -> bytes:
    return with_nonce({"schema": SCHEMA, **asdict(state)})
