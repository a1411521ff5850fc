"""register: an accepted model becomes the champion, a rejected one changes nothing.

An effect: every run compares what the registry says with what the gate decided, and acts on the difference. So a run
that was killed anywhere in here is completed by the next, and one that finds everything done does nothing. The gate's
decision names the champion that it compared with; if another is champion by now, the step stops and asks for a new run.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pydantic import Field

from pipelines import registry
from pipelines.faults import crash_point
from pipelines.stage import BadInput, Placement, Result, Stage, StageContext, StepConfig

if TYPE_CHECKING:
    from pipelines.registry import Registered


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
    return Result(values={"accepted": True},
                  metrics={"version": version.number, "mlflow_repairs": _show_in_mlflow(ctx, state)})


def _show_in_mlflow(ctx: StageContext, state: Registered) -> int:
    """How many differences were repaired there; -1, and a warning, when MLflow does not take part."""
    from pipelines.mlflow_api import MlflowApi, MlflowDown, MlflowRefused
    from pipelines.registry_mirror import mirror

    if ctx.settings.mlflow_uri is None:
        return 0
    try:
        api = MlflowApi(ctx.settings.mlflow_uri)
        return mirror(api, ctx.store.uri, state)
    except (MlflowDown, MlflowRefused) as error:
        print(f"warning: MLflow does not show the registry's state yet, the next run repairs it: {error}")
        return -1


STAGE = Stage(name="register", config=Config, run=run, inputs=("decision", "model", "evaluation"),
              placement=Placement.DRIVER, effect=True)
