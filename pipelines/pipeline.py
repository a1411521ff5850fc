"""The DAG of the mission, wired from a recipe.

    prepare_models ───────────────────────────────┐
    captions ─ select_captions ─ fetch_images ─ pretrain_projector ─┐
    coco captions, boxes ─ generate_instructions ───────────────────┴─ tune_chat ── evaluate ─ gate ─ register ─ rollout
    scienceqa ─ convert_scienceqa ─ (its projector) ─ tune_scienceqa ── evaluate ─ gate ─ register

Only steps that something downstream needs are kept: a recipe that gives ``tune_chat.data`` generates no instructions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.dag import Pipeline, Step
from pipelines.recipe import Recipe
from pipelines.stage import BadInput, load_stage, source_fields


def build(recipe: Recipe) -> Pipeline:
    """Every step of the recipe. Raises BadInput when a step's input is neither wired nor given."""
    header = recipe.header
    per_task = header.projectors == "per_task"
    steps: list[Step] = []

    def add(name: str, inputs: Mapping[str, str] | None = None, after: tuple[str, ...] = (), **extra: Any) -> None:
        stage = load_stage(name.partition("@")[0])
        config = recipe.config(stage.name, name, extra)
        steps.append(Step(
            name=name, stage=stage, config=config, inputs=inputs or {}, after=after, imported=config.from_,
            sources={f: uri for f in source_fields(stage.config) if (uri := getattr(config, f)) is not None}))

    if "demo_world" in recipe.sections:
        add("demo_world")
    add("prepare_models")
    add("select_captions")
    add("fetch_images", {"captions": "select_captions"})
    for name in ("pretrain_projector@chat", "pretrain_projector@scienceqa") if per_task else ("pretrain_projector",):
        add(name, {"models": "prepare_models", "captions": "fetch_images"})

    def projector(task: str) -> str:
        return f"pretrain_projector@{task}" if per_task else "pretrain_projector"

    own_data = recipe.sections.get("tune_chat", {}).get("data") is not None
    if not own_data:
        add("generate_instructions")
    add("tune_chat", {"models": "prepare_models", "projector": projector("chat"),
                      **({} if own_data else {"instructions": "generate_instructions"})})
    add("convert_scienceqa")
    add("tune_scienceqa", {"models": "prepare_models", "projector": projector("scienceqa"),
                           "data": "convert_scienceqa"})
    for task, model in (("chat", header.model), ("scienceqa", f"{header.model}-scienceqa")):
        tuned, evaluation, decision = f"tune_{task}", f"evaluate@{task}", f"gate@{task}"
        add(evaluation, {"model": tuned})
        add(decision, {"evaluation": evaluation, "model": tuned}, model=model)
        add(f"register@{task}", {"decision": decision, "model": tuned, "evaluation": evaluation}, model=model)
        if task in header.serve:
            add(f"rollout@{task}", {"decision": decision, "model": tuned}, after=(f"register@{task}",), model=model)
    pipeline = Pipeline(recipe=header.name, model=header.model, seed=header.seed, steps=tuple(steps),
                        resolved=recipe.as_json())
    ends = [s.name for s in pipeline.steps if s.stage.name in ("register", "rollout")]
    pipeline = pipeline.until(ends)
    _check_rollout_order(pipeline)
    return pipeline


def _check_rollout_order(pipeline: Pipeline) -> None:
    prefixes: dict[str, str] = {}
    for step in pipeline.steps:
        if step.stage.name == "rollout":
            prefix = getattr(step.config, "route_prefix", "/")
            if prefix in prefixes:
                raise BadInput(f"{step.name} and {prefixes[prefix]} both serve at {prefix!r}; set another route_prefix")
            prefixes[prefix] = step.name
