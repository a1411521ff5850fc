"""``llavactl plan``: what a run would do, and why, without doing anything."""

from __future__ import annotations

from pipelines.cli.errors import one_message
from pipelines.cli.options import (
    DebugOption,
    OnlyOption,
    RecipeOption,
    SetOption,
    StoreOption,
    UntilOption,
    open_pipeline,
    open_settings,
    open_store,
)


@one_message
def command(
    recipe: RecipeOption = "demo",
    set_: SetOption = [],  # noqa: B006
    until: UntilOption = [],  # noqa: B006
    only: OnlyOption = [],  # noqa: B006
    store: StoreOption = None,
    debug: DebugOption = False,
) -> None:
    """Say for each step what a run would do with it, and why. Nothing is run and nothing is written.

    `llavactl plan --recipe demo`

    `llavactl plan --recipe demo --set pretrain_projector.learning_rate=1e-3` answers what that change would run again.
    """
    from pipelines.display import print_steps
    from pipelines.plan import make_plan

    settings = open_settings(store)
    pipeline = open_pipeline(recipe, set_, until)
    plan = make_plan(pipeline, open_store(settings.store_uri), only=only)
    print_steps(f"plan of {pipeline.recipe} in {settings.store_uri}",
                [(d.step, d.action.value, "", "; ".join(d.reasons)) for d in plan.decisions])
    working = sum(d.works for d in plan.decisions)
    print(f"\n{working} of {len(plan.decisions)} steps would run")
