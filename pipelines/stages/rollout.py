"""rollout: what is served is the champion, or what was served before goes on.

An effect: every run compares the registry's champion with what the running application says of itself, and acts on the
difference; a cluster that was taken down is simply one where nothing runs. The alias ``serving`` moves last, when the
new version answers real questions at the front door, so a run that is killed in between is completed by the next.
"""

from __future__ import annotations

import io
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from pipelines import registry
from pipelines.registry import Held, Version
from pipelines.stage import BadInput, Placement, Result, Source, Stage, StageContext, StepConfig

if TYPE_CHECKING:
    from pipelines.serving.served import Canary, Served

ROUNDS = 3  # times that the champion may change while it is being rolled out


class Config(StepConfig):
    model: str = Field("", description="name in the registry and behind the API")
    enabled: bool = Field(True, description="False leaves what runs as it is")
    route_prefix: str = Field("/", pattern=r"^/([a-z0-9._-]+(/[a-z0-9._-]+)*)?$", description="where it is served")
    num_replicas: int = Field(1, ge=1)
    cpus_per_replica: float = Field(0.25, ge=0)
    batch_size: int = Field(8, ge=1, description="questions that one replica answers together")
    max_queued_requests: int = Field(64, ge=1, description="beyond it a request is refused with 429")
    max_tokens: int = Field(1024, ge=1, description="longest answer that a request may ask for")
    deadline_s: float = Field(120.0, gt=0, description="longest time for one answer")
    description: str = Field("", description="what the model knows, shown on its chat page")
    example_questions: tuple[str, ...] = Field((), description="offered on its chat page")
    canary_questions: tuple[str, ...] = Field(("What is in the picture?",), description="asked before it gets traffic")
    canary_words: tuple[str, ...] = Field((), description="one of them must be in each canary's answer, if given")
    canary_picture: Source | None = Field(None, description="picture file shown to the canaries; else a red disc")
    start_timeout_s: float = Field(600.0, gt=0)


def run(ctx: StageContext) -> Result:
    from pipelines.serving.fetch import fetch_assistant
    from pipelines.serving.rollout import Done, base_url, roll_out

    config: Config = ctx.config
    if not config.model:
        raise BadInput(f"{ctx.step}.model is not set; give the model's name with --set {ctx.step}.model=...")
    if not config.enabled:
        print(f"{config.model}: {ctx.step}.enabled is false, so what is served stays as it is")
        return Result()
    host, port = ctx.settings.serve_host, ctx.settings.serve_port
    canaries = _canaries(ctx)
    for _round in range(ROUNDS):
        state = registry.read(ctx.store, config.model)
        champion = state.alias("champion")
        if champion is None:
            raise BadInput(f"{config.model} has no champion, so there is nothing to serve; "
                           f"`llavactl promote {config.model} VERSION` makes one by hand")
        serving = state.alias("serving")
        before = _served(ctx, serving, canaries) if serving and serving != champion else None
        wanted = _served(ctx, champion, canaries)
        done = roll_out(wanted, before, partial(fetch_assistant, cache=ctx.settings.cache), host=host, port=port,
                        timeout_s=config.start_timeout_s, tell=lambda what: ctx.progress(0, 1, what))
        registry.set_serving(ctx.store, config.model, champion.number, why=f"rolled out by {ctx.step}")
        if registry.read(ctx.store, config.model).alias("champion") == champion:
            break
    else:
        raise BadInput(f"the champion of {config.model} changed {ROUNDS} times while it was rolled out; run again")
    ctx.progress(1, 1, f"{wanted.fingerprint}: {done.value}")
    print(f"{config.model}: version {champion.number} ({champion.digest[:12]}) is served at "
          f"{base_url(wanted, host, port)}/ ({done.value})")
    if champion.digest != ctx.input("model").digest and state.hold:
        raise Held(f"model {config.model} is on hold ({state.hold}), so this run's model is not served; "
                   f"`llavactl promote {config.model} VERSION` clears the hold")
    return Result(values={"model": config.model, "version": champion.number},
                  metrics={"deployed": float(done is Done.DEPLOYED)})


def _served(ctx: StageContext, version: Version, canaries: tuple[Canary, ...]) -> Served:
    from pipelines.serving.fetch import serving_code
    from pipelines.serving.parsing import Limits
    from pipelines.serving.served import Served

    config: Config = ctx.config
    limits = replace(Limits(), max_tokens=config.max_tokens, deadline_s=config.deadline_s,
                     default_max_tokens=min(Limits().default_max_tokens, config.max_tokens))
    return Served(model=config.model, version=version.number, store_uri=ctx.store.uri, step=version.step,
                  key=version.key, digest=version.digest, code=serving_code(), route_prefix=config.route_prefix,
                  num_replicas=config.num_replicas, cpus_per_replica=config.cpus_per_replica,
                  threads=config.run.threads_per_worker, batch_size=config.batch_size,
                  max_queued_requests=config.max_queued_requests, description=config.description,
                  example_questions=config.example_questions, canaries=canaries, limits=limits)


def _canaries(ctx: StageContext) -> tuple[Canary, ...]:
    from pipelines.serving.served import Canary

    config: Config = ctx.config
    picture = _picture(ctx.source("canary_picture") if ctx.has_source("canary_picture") else None)
    return tuple(Canary(question=question, picture=picture, expect=config.canary_words)
                 for question in config.canary_questions)


def _picture(file: Path | None) -> bytes:
    """A picture as a small PNG. Raises BadInput when the file is none."""
    from PIL import Image, ImageDraw

    from llava.images import BadImage, decode_image

    if file is None:
        picture = Image.new("RGB", (96, 96), "white")
        ImageDraw.Draw(picture).ellipse((16, 16, 80, 80), fill="red")
    else:
        try:
            picture = decode_image(file.read_bytes())
        except (BadImage, OSError) as error:
            raise BadInput(f"rollout.canary_picture {file}: {error}; give one picture file") from None
        picture.thumbnail((1024, 1024))
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


STAGE = Stage(name="rollout", config=Config, run=run, inputs=("decision", "model"), placement=Placement.DRIVER,
              effect=True, package_data=("pipelines/serving/chat.html",))
