"""Steps and pipelines: data, no behaviour.

A pipeline is valid by construction: names are unique, every input is wired to a step, and there is no cycle.
A stage may occur several times with different parameters (``pretrain_projector@chat``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from typing import Any

from pipelines.stage import BadInput, Stage, StepConfig

STEP_SCHEME = "step://"


def step_of(source: str) -> tuple[str, str] | None:
    """``step://name/path`` as (name, path); None for any other source."""
    if not source.startswith(STEP_SCHEME):
        return None
    name, _, path = source.removeprefix(STEP_SCHEME).partition("/")
    return name, path


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One node: a stage with its config.

    inputs: the stage's input name -> the step that provides it. sources: config field -> URI.
    after: steps that must have been done before, though nothing of theirs is read (never in the key).
    imported: the URI that stands in for the step's own work, if the recipe gives one.
    """

    name: str
    stage: Stage
    config: StepConfig
    inputs: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    imported: str | None = None

    @property
    def depends_on(self) -> tuple[str, ...]:
        uris = [self.imported] if self.imported else [*self.sources.values()]
        named = [s[0] for uri in uris if (s := step_of(uri))]
        return tuple(dict.fromkeys([*([] if self.imported else self.inputs.values()), *named, *self.after]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Pipeline:
    """Steps in an order in which they can run."""

    recipe: str
    model: str
    seed: int
    steps: tuple[Step, ...]
    resolved: Mapping[str, Any] = field(default_factory=dict)  # the complete resolved recipe, as JSON

    def __post_init__(self) -> None:
        by_name = {s.name: s for s in self.steps}
        if len(by_name) != len(self.steps):
            raise BadInput(f"recipe {self.recipe}: two steps have one name")
        for step in self.steps:
            for needed in step.depends_on:
                if needed not in by_name:
                    raise BadInput(f"{step.name} needs the step {needed!r}, which recipe {self.recipe} does not have; "
                                   f"it has {', '.join(by_name)}")
        try:
            order = list(TopologicalSorter({s.name: s.depends_on for s in self.steps}).static_order())
        except CycleError as error:
            raise BadInput(f"recipe {self.recipe}: the steps {' -> '.join(error.args[1])} form a cycle") from error
        rank = {name: i for i, name in enumerate(order)}
        object.__setattr__(self, "steps", tuple(sorted(self.steps, key=lambda s: rank[s.name])))

    def step(self, name: str) -> Step:
        for step in self.steps:
            if step.name == name:
                return step
        raise BadInput(f"recipe {self.recipe} has no step {name!r}; it has {', '.join(s.name for s in self.steps)}")

    def named(self, name: str) -> tuple[Step, ...]:
        """The steps that a person means by a step's or a stage's name (``tune_chat``, ``evaluate``)."""
        found = tuple(s for s in self.steps if name in (s.name, s.stage.name))
        return found or (self.step(name),)

    def until(self, names: Iterable[str]) -> Pipeline:
        """Only the named steps and what they need."""
        return self._keep(self._upstream(s.name for n in names for s in self.named(n)))

    def _upstream(self, names: Iterable[str]) -> set[str]:
        wanted, todo = set(), list(names)
        while todo:
            if (name := todo.pop()) not in wanted:
                wanted.add(name)
                todo.extend(self.step(name).depends_on)
        return wanted

    def _keep(self, names: set[str]) -> Pipeline:
        return replace(self, steps=tuple(s for s in self.steps if s.name in names))
