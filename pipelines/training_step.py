"""What the three training steps have in common: their settings, and how settings become a training job.

Every setting is in the key, also those that change a result by rounding only (micro_batch): the key says what was asked
for. The number of workers is not: losses then differ in the last digits, and a manifest records how many there were.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from pipelines.stage import BadInput, Source, StepConfig

if TYPE_CHECKING:
    from llava.images import ImageStore
    from pipelines.stage import Result, StageContext


class TrainingStepConfig(StepConfig):
    """Defaults: the paper's values where all three trainings share them (section 5 and its "Training details")."""

    learning_rate: float = Field(gt=0)
    global_batch: int = Field(ge=1, description="samples a step, over all workers")
    micro_batch: int = Field(4, ge=1, description="samples a worker takes through the model at once")
    epochs: int = Field(1, ge=1)
    max_steps: int | None = Field(None, ge=1, description="end early after so many steps")
    warmup_ratio: float = Field(0.03, ge=0, le=1)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    template: Literal["plain", "v0", "llava_v0", "v1", "llava_v1", "llava_llama_2"] = "v0"
    image_tokens: Literal["none", "start_end"] = "none"
    image_position: Literal["kept", "front"] = "kept"
    select_layer: Literal[-1, -2] = -2
    feature: Literal["patch", "cls_patch"] = "patch"
    image_aspect: Literal["square", "pad"] = "square"
    loss_norm: Literal["token", "paper"] = "token"
    virtual_batch: int = Field(16, ge=1, description="samples of a device batch in loss_norm paper")
    sharding: Literal["none", "zero1", "zero2", "zero3"] = "none"
    precision: Literal["float32", "bfloat16"] = "float32"
    max_length: int = Field(2048, ge=8, description="longest sequence in tokens, pictures included")
    checkpoint_every: int = Field(500, ge=1, description="steps between checkpoints")
    activation_checkpointing: Literal["auto", "on", "off"] = "auto"


ASSISTANT_FIELDS = ("template", "select_layer", "feature", "image_tokens", "image_position", "image_aspect",
                    "max_length")
TRAINING_FIELDS = ("learning_rate", "global_batch", "micro_batch", "epochs", "max_steps", "warmup_ratio",
                   "weight_decay", "max_grad_norm", "loss_norm", "virtual_batch", "sharding", "precision",
                   "checkpoint_every")


class TuningConfig(TrainingStepConfig):
    """A tuning reads pictures that lie outside the DAG or in another step's output."""

    images: Source | None = Field(None, description="folder of pictures or of picture shards")


def train_step(ctx: StageContext, *, samples: Path, images: Path, alignment: bool, check_pictures: bool) -> Result:
    """Run the training that the step's config describes.

    check_pictures: decode every picture first, so that a damaged one is a dropped sample now and not an error later.
    """
    from pipelines.checkpoints import layout_of
    from pipelines.ray_train import run_prefix, run_training
    from pipelines.stage import Result
    from pipelines.training_job import TrainingJob

    config = ctx.config
    models = ctx.input("models").folder()
    projector = None if alignment else _projector(ctx)
    job = TrainingJob(
        alignment=alignment, vision_tower=models / "vision_tower", language_model=models / "language_model",
        projector=projector, samples=samples, images=images,
        unreadable=_unreadable(ctx, images) if check_pictures else {},
        assistant={name: getattr(config, name) for name in ASSISTANT_FIELDS},
        training={**{name: getattr(config, name) for name in TRAINING_FIELDS}, "seed": ctx.seed},
        activation_checkpointing=config.activation_checkpointing, threads=ctx.run.threads_per_worker,
        store=ctx.store, run_prefix=run_prefix(ctx), key=ctx.key,
        layout=layout_of(config.sharding, ctx.run.num_workers))
    values = run_training(ctx, job)
    last = json.loads((ctx.out / "losses.jsonl").read_text().splitlines()[-1])
    return Result(values=values, metrics={"final_loss": last["loss"]})


def _projector(ctx: StageContext) -> Path:
    """The aligned projector, which must have been aligned to the same features. Raises BadInput."""
    artifact = ctx.input("projector")
    told: dict[str, Any] = json.loads(artifact.file("projector.json").read_text())
    for name, value in told.items():
        if name in ASSISTANT_FIELDS and value != getattr(ctx.config, name):
            raise BadInput(f"{ctx.step}.{name} is {getattr(ctx.config, name)!r}, but its projector was aligned with "
                           f"{value!r}: give both steps the same {name}")
    return artifact.file("projector.safetensors")


def _unreadable(ctx: StageContext, folder: Path) -> dict[str, str]:
    """Pictures of the folder that do not decode, with the reason."""
    from concurrent.futures import ThreadPoolExecutor

    from llava.images import BadImage, decode_image

    store = _open_pictures(folder)

    def problem(body: bytes) -> str | None:
        try:
            decode_image(body)
        except BadImage as error:
            return str(error)
        return None

    found: dict[str, str] = {}
    names = list(store)
    with ThreadPoolExecutor(max_workers=4, thread_name_prefix="pictures") as pool:
        for first in range(0, len(names), 64):
            some = names[first:first + 64]
            for name, reason in zip(some, pool.map(problem, [store[n] for n in some]), strict=True):
                if reason:
                    found[name] = reason
            ctx.progress(min(first + 64, len(names)), len(names), "pictures checked")
    return found


def _open_pictures(folder: Path) -> ImageStore:
    from llava.images import ImageStore

    try:
        return ImageStore.open(folder)
    except (OSError, ValueError) as error:
        raise BadInput(f"{folder} is no folder of pictures or picture shards: {error}") from error
