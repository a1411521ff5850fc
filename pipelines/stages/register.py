"""register: an accepted model becomes the champion, a rejected one changes nothing.

An effect: every run compares what the registry says with what the gate decided, and acts on the difference. So a run
that was killed anywhere in here is completed by the next, and one that finds everything done does nothing. The gate's
decision names the champion that it compared with; if another is champion by now, the step stops and asks for a new run.
"""

from __future__ import annotations

import json

from pydantic import Field

from pipelines import registry
from pipelines.faults import crash_point
from pipelines.registry_mirror import show_in_mlflow
from pipelines.stage import BadInput, Placement, Result, Stage, StageContext, StepConfig


class Config(StepConfig):
    model: str = Field("", description="name in the registry")


def run(ctx: StageContext) -> Result:
    decision, model, evaluation = ctx.input("decision"), ctx.input("model"), ctx.input("evaluation")
    name = ctx.config.model
    if not name:
        raise BadInput(f"{ctx.step}.model is not set; give the model's name with --set {ctx.step}.model=...")
    if not decision.values["accepted"]:
        print(f"{name}: the gate rejected the candidate, so nothing is registered: "
              f"{'; '.join(decision.values['reasons'])}")
        return Result(values={"accepted": False})
    verdict = json.loads(decision.file("decision.json").read_text())
    if (judged := verdict["candidate"]["digest"]) != model.digest:
        raise BadInput(f"{ctx.step}: the decision is about a model with digest {judged[:12]}, but {model.step} gave "
                       f"{model.digest[:12]}; run the gate again")
    version = registry.register(ctx.store, name, step=model.step, key=model.key, digest=model.digest,
                                scores=evaluation.values, why=f"made by {ctx.step}")
    crash_point("register.before_champion")
    state = registry.accept(ctx.store, name, version.number, against=verdict["champion"],
                            why=f"accepted: {'; '.join(decision.values['reasons'])}")
    print(f"{name}: version {version.number} ({model.digest[:12]}) is champion")
    repairs = show_in_mlflow(ctx.settings.mlflow_uri, ctx.store.uri, state)
    return Result(values={"accepted": True}, metrics={"version": version.number, "mlflow_repairs": repairs})


STAGE = Stage(name="register", config=Config, run=run, inputs=("decision", "model", "evaluation"),
              placement=Placement.DRIVER, effect=True)
