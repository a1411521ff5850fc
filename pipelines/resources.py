"""Whether a step fits: into the cluster at all, and now. The answer names the resource and who holds it."""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.dag import Step
from pipelines.runners import Demand, Resources


def demand_of(step: Step) -> Demand:
    """What the step's workers claim. The entry point itself claims nothing; neither does an imported output."""
    run = step.config.run
    if step.imported:
        return Demand(amounts={})
    amounts = {"CPU": run.num_workers * run.cpus_per_worker, "GPU": run.num_workers * run.gpus_per_worker}
    return Demand(amounts={name: amount for name, amount in amounts.items() if amount > 0})


def never_fits(step: Step, demand: Demand, resources: Resources) -> str | None:
    """Why the step cannot run on this cluster, with the fix; None if it can."""
    if (short := demand.beyond(resources.total)) is None:
        return None
    return (f"needs {short} in the whole cluster: add nodes (and name what the cluster can grow to in "
            f"LLAVA_CLUSTER_RESOURCES), or ask for less with --set {step.name}.run.num_workers=...")


def waits_for(demand: Demand, resources: Resources) -> tuple[str, bool] | None:
    """(what it waits for and who holds it, whether a step job is among the holders); None if it fits now."""
    if (short := demand.beyond(resources.free())) is None:
        return None
    wanted = {name for name, amount in demand.amounts.items() if amount > resources.free().get(name, 0.0)}
    holders = {job: held for job, held in resources.holders.items() if any(held.get(n) for n in wanted)}
    named = [f"{job} ({_words(held)})" for job, held in sorted(holders.items())]
    others = {n: resources.used.get(n, 0.0) - sum(h.get(n, 0.0) for h in holders.values()) for n in wanted}
    if other := {n: amount for n, amount in others.items() if amount > 1e-9}:
        named.append(f"other work such as the served model ({_words(other)})")
    return f"waits for {short}, held by {', '.join(named) or 'nobody known'}", bool(holders)


def _words(amounts: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in amounts.items() if amount > 0)
