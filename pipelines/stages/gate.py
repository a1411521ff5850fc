"""gate: no model that is worse than the champion, or below the recipe's minima, is ever accepted.

The gate compares declared numbers and nothing else: each rule names a score of the evaluation and its minimum, and the
same scores are compared with those of the champion, which the plan fixed and which are part of the step's key. A score
that is not a finite number passes nothing. A rejection is a result (``accepted: false`` with reasons), not an error;
a rule that names a score which the evaluation lacks is an error of the recipe.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pipelines.stage import BadInput, Placement, Result, Stage, StageContext, StepConfig


class Champion(BaseModel):
    """The model that is served or would be; scores are the values of its own evaluation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    version: int | str
    digest: str | None = None
    scores: dict[str, Any]


class Config(StepConfig):
    model: str = Field("", description="name in the registry")
    rules: dict[str, float] = Field(min_length=1, description="dotted score of the evaluation -> its minimum")
    tolerance: float = Field(0.0, ge=0, lt=1, description="how far below the champion's a score may be, as its share")
    champion: Champion | None = Field(None, description="set when a run is planned; None while there is none")


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One comparison. ok decides; sentence says it to a person."""

    score: str
    value: float
    against: str
    bound: float
    ok: bool

    @property
    def sentence(self) -> str:
        relation = "is at least" if self.ok else "is below"
        if not math.isfinite(self.value):
            relation = "is no number that can be compared with"
        return f"{self.score} = {self.value:g} {relation} {self.bound:g} ({self.against})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Accepted when there is no rejection. notes: what could not be compared, though it rejects nothing."""

    checks: tuple[Check, ...]
    rejections: tuple[str, ...]
    notes: tuple[str, ...]


def run(ctx: StageContext) -> Result:
    config: Config = ctx.config
    evaluation, model = ctx.input("evaluation"), ctx.input("model")
    verdict = decide(evaluation.values, config)
    rejections = list(verdict.rejections)
    if (judged := evaluation.values.get("model_digest")) != model.digest:
        rejections.append(f"the evaluation is of another model ({str(judged)[:12]}) than the candidate "
                          f"({model.digest[:12]})")
    accepted = not rejections
    reasons = rejections or [*(check.sentence for check in verdict.checks), *verdict.notes]
    champion = config.champion.model_dump(mode="json") if config.champion else None
    decision = {
        "accepted": accepted, "reasons": reasons, "champion": champion,
        "candidate": {"model": config.model, "digest": model.digest,
                      "scores": {c.score: c.value if math.isfinite(c.value) else None for c in verdict.checks}},
        "checks": [{"score": c.score, "against": c.against, "bound": c.bound, "ok": c.ok} for c in verdict.checks]}
    (ctx.out / "decision.json").write_text(json.dumps(decision, indent=1, sort_keys=True) + "\n")
    return Result(values={"accepted": accepted, "reasons": reasons})


def decide(scores: Mapping[str, Any], config: Config) -> Verdict:
    """Check every rule, against its minimum and against the champion.

    Raises BadInput when a rule names a score that the evaluation lacks.
    """
    champion = config.champion
    theirs = f"champion {champion.model} version {champion.version}" if champion else ""
    checks: list[Check] = []
    not_compared: list[str] = []
    for name, minimum in config.rules.items():
        value = score_named(scores, name)
        if value is None:
            raise BadInput(f"gate.rules.{name}: the evaluation has no score of that name; "
                           f"it has {', '.join(score_names(scores)) or 'none'}")
        checks.append(_check(name, value, "the recipe's minimum", minimum))
        if champion:
            best = score_named(champion.scores, name)
            if best is None or not math.isfinite(best):
                not_compared.append(name)
            else:
                checks.append(_check(name, value, theirs, best - abs(best) * config.tolerance))
    rejections = [check.sentence for check in checks if not check.ok]
    if not_compared and len(not_compared) == len(config.rules):
        rejections.append(f"{theirs} has none of the scores {', '.join(config.rules)}, so the candidate cannot be "
                          f"shown to be no worse; evaluate the champion on them, or promote the candidate by hand")
    notes = [f"{theirs} has no score {name}: not compared" for name in not_compared]
    return Verdict(checks=tuple(checks), rejections=tuple(rejections), notes=tuple(notes))


def _check(name: str, value: float, against: str, bound: float) -> Check:
    return Check(score=name, value=value, against=against, bound=bound, ok=math.isfinite(value) and value >= bound)


def score_named(scores: Mapping[str, Any], name: str) -> float | None:
    """The number at a dotted name, in nested or flat scores; None when there is none. Missing (null) is NaN."""
    if name in scores:
        found: Any = scores[name]
    else:
        head, dot, rest = name.partition(".")
        if not dot or not isinstance(scores.get(head), Mapping):
            return None
        return score_named(scores[head], rest)
    if found is None:
        return math.nan
    return float(found) if isinstance(found, (int, float)) and not isinstance(found, bool) else None


def score_names(scores: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Every dotted name that a rule could use."""
    names = []
    for key, value in scores.items():
        if isinstance(value, Mapping):
            names += score_names(value, f"{prefix}{key}.")
        elif score_named(scores, key) is not None:
            names.append(f"{prefix}{key}")
    return names


STAGE = Stage(name="gate", config=Config, run=run, inputs=("evaluation", "model"), placement=Placement.DRIVER)
