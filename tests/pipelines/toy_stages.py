"""Small stages that show what the engine does: every execution leaves a line, and a test can make one wait or fail.

``TOY`` names a folder (``toy`` in the state folder by default). ``effects`` in it collects ``<step> <epoch> <pid>`` for
each execution. A file ``hold-<step>`` makes the step wait until it is gone; ``fail-<step>`` holds what the step does
instead of working, a word an execution: user, memory, network, bad, kill.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from pipelines.stage import BadInput, Placement, Result, Source, Stage, StageContext, StepConfig


def note(ctx: StageContext) -> None:
    """Say that this step executes, then do what the test wants of it."""
    folder = Path(os.environ.get("TOY") or ctx.settings.state / "toy")
    with open(folder / "effects", "a") as effects:
        effects.write(f"{ctx.step} {ctx.epoch} {os.getpid()}\n")
    print(f"working on {ctx.step}")
    while (folder / f"hold-{ctx.step}").exists():
        ctx.progress(1, 2, "waits")
        time.sleep(0.05)
    plan = folder / f"fail-{ctx.step}"
    if plan.exists() and (words := plan.read_text().split()):
        plan.write_text("\n".join(words[1:]))
        misbehave(words[0], ctx)


def misbehave(word: str, ctx: StageContext) -> None:
    match word:
        case "user":
            raise ValueError("the stage has a mistake")
        case "memory":
            raise MemoryError("no room")
        case "network":
            raise ConnectionError("the network is away")
        case "bad":
            raise BadInput("row 7 of the table is malformed: mend it")
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)


class NumberConfig(StepConfig):
    value: int = 1
    table: Source | None = None


def make_number(ctx: StageContext) -> Result:
    note(ctx)
    value = ctx.config.value + (int(ctx.source("table").read_text()) if ctx.has_source("table") else 0)
    (ctx.out / "number.txt").write_text(f"{value}\n")
    ctx.log_metrics({"value": value})
    return Result(values={"number": value}, metrics={"speed": 1.0})


def import_number(path: Path, out: Path, config: NumberConfig) -> Result:
    text = path.read_text()
    if not text.strip().isdigit():
        raise BadInput(f"{path} holds {text!r}, not a number")
    (out / "number.txt").write_text(text)
    return Result(values={"number": int(text)})


class SumConfig(StepConfig):
    pass


def add(ctx: StageContext) -> Result:
    note(ctx)
    total = sum(int(artifact.file("number.txt").read_text()) for artifact in ctx.inputs.values())
    (ctx.out / "number.txt").write_text(f"{total}\n")
    return Result(values={"number": total})


class DecideConfig(StepConfig):
    model: str = "toy"
    minimum: int = 0
    champion: dict | None = None


def decide(ctx: StageContext) -> Result:
    note(ctx)
    accepted = ctx.input("evaluation").values["number"] >= ctx.config.minimum
    return Result(values={"accepted": accepted, "reasons": ["the number counts"]})


class AnnounceConfig(StepConfig):
    model: str = "toy"


def announce(ctx: StageContext) -> Result:
    note(ctx)
    return Result(metrics={"announced": 1.0})


NUMBER = Stage(name="number", config=NumberConfig, run=make_number, import_output=import_number)
ADD = Stage(name="add", config=SumConfig, run=add, inputs=("left", "right?"))
DECIDE = Stage(name="decide", config=DecideConfig, run=decide, inputs=("evaluation", "model?"),
               placement=Placement.DRIVER)
ANNOUNCE = Stage(name="announce", config=AnnounceConfig, run=announce, inputs=("decision",),
                 placement=Placement.DRIVER, effect=True)
