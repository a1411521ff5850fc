"""One rank of a training: binds llava's loop to Ray Train's process group, to the store and to the driver.

The rank starts from the newest complete checkpoint in the run's own namespace, if there is one, and stores its part of
each new one. Rank 0 tells the driver of every step and stores the result. An error that another try cannot mend goes to
the driver itself, so that Ray Train's retries are spent on machines and networks only.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pipelines.checkpoints import Checkpoint, bring, complete, newest, upload_files
from pipelines.stage import BadInput
from pipelines.training_job import TrainingJob

if TYPE_CHECKING:
    from llava.engines import Engine
    from llava.model import LlavaModel
    from llava.training import Losses, StepReport


def train_worker(told: dict[str, Any]) -> None:
    """Ray Train's training function."""
    import ray

    logging.getLogger("botocore").setLevel(logging.WARNING)  # else it tells where it found credentials
    mailbox = told["mailbox"]
    if ray.get(mailbox.has_failed.remote()):
        raise RuntimeError("not started again: the error of the first start cannot be mended by another")
    try:
        _train(told["job"], mailbox)
    except Exception as error:
        final = _as_final(error)
        if final is not None:
            final.add_note(traceback.format_exc())
            ray.get(mailbox.fail.remote(final))
        raise


def _as_final(error: Exception) -> Exception | None:
    """The error as the driver should raise it, or None when another try may help."""
    import torch

    from llava.conversations import BadConversations
    from llava.images import BadImage
    from llava.model import BadModel
    from llava.projector import BadProjector
    from llava.training import LossIsNotFinite

    if isinstance(error, BadConversations | BadImage | BadModel | BadProjector | BadInput):
        return BadInput(str(error))
    if isinstance(error, torch.OutOfMemoryError):
        return MemoryError(str(error))
    if isinstance(error, LossIsNotFinite) or not isinstance(error, OSError | RuntimeError):
        return RuntimeError(f"{type(error).__name__}: {error}")
    return None


def _train(job: TrainingJob, mailbox: Any) -> None:
    import ray
    import torch

    from llava.engines import make_engine
    from llava.objective import Objective
    from llava.training import Losses, TrainingConfig, load_checkpoint, train

    torch.set_num_threads(job.threads)
    os.environ.setdefault("LOCAL_SIZE", os.environ.get("LOCAL_WORLD_SIZE", "1"))  # ranks on this machine, to DeepSpeed
    config = TrainingConfig(**job.training)
    device = _device()
    model = _model(job, config.precision)
    data, dropped = _data(job, model)
    if job.alignment:
        model.train_alignment()
    else:
        model.train_tuning()
    checkpointing = job.activation_checkpointing
    if checkpointing == "on" or (checkpointing == "auto" and not job.alignment and device.type == "cuda"):
        model.language_model.activation_checkpointing_enable({"use_reentrant": False})
    engine = make_engine(config.sharding, Objective(model), config.optimisation(), device)
    losses = Losses()
    found = newest(job.store, job.run_prefix, key=job.key, layout=job.layout)
    if found:
        with tempfile.TemporaryDirectory() as folder:
            losses = load_checkpoint(engine, bring(job.store, found, Path(folder)))
    began = time.monotonic()

    def on_step(report: StepReport) -> bool:
        nonlocal began
        if engine.rank != 0:
            return False
        seconds, began = time.monotonic() - began, time.monotonic()
        speed = {"samples_per_second": report.num_samples / seconds, "tokens_per_second": report.num_tokens / seconds}
        return ray.get(mailbox.step.remote({**asdict(report), **speed}, num_steps))

    def on_checkpoint(losses: Losses) -> None:
        _store_checkpoint(job, engine, losses)

    num_steps = _num_steps(config, len(data))
    losses = train(engine, data, config, losses=losses, on_step=on_step, on_checkpoint=on_checkpoint)
    if len(losses.reports) == num_steps:
        _store_result(job, engine, model, losses, dropped, len(data))


def _num_steps(config: Any, num_samples: int) -> int:
    from llava.batches import Sampler

    return Sampler(num_samples=num_samples, global_batch=config.global_batch, epochs=config.epochs, seed=config.seed,
                   max_steps=config.max_steps).num_steps


def _device() -> Any:
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    import ray.train.torch

    return ray.train.torch.get_device()


def _model(job: TrainingJob, precision: str) -> LlavaModel:
    from llava.model import DTYPES, AssistantConfig, LlavaModel
    from llava.projector import read_projector

    for path in (job.vision_tower, job.language_model, job.samples, job.images):
        if not path.exists():
            raise BadInput(f"{path} is not on this node: LLAVA_STATE must be a folder that all nodes share")
    return LlavaModel.from_parts(
        job.vision_tower, job.language_model, AssistantConfig(**job.assistant), dtype=DTYPES[precision],
        projector=read_projector(job.projector) if job.projector else None, seed=job.training["seed"])


def _data(job: TrainingJob, model: LlavaModel) -> tuple[Any, list[dict[str, str]]]:
    """The training set, and every row that is not in it with the reason. Raises BadInput when nothing is left."""
    from llava.batches import TrainingSet, encode_samples
    from llava.conversations import read_samples
    from llava.images import ImageStore

    images = ImageStore.open(job.images)
    samples, violations = read_samples(job.samples)
    unreadable = {s.id: name for s in samples for name in s.images if name in job.unreadable}
    usable = [s for s in samples if not any(name in job.unreadable for name in s.images)]
    kept, encoded, unfit = encode_samples(usable, model, images)
    dropped = [{"id": f"row {v.row}", "reason": f"{v.field}: {v.message}"} for v in violations]
    dropped += [{"id": i, "reason": f"picture {name!r}: {job.unreadable[name]}"} for i, name in unreadable.items()]
    dropped += [{"id": d.id, "reason": d.reason} for d in unfit]
    if not kept:
        first = f"; the first: {dropped[0]['id']}: {dropped[0]['reason']}" if dropped else ""
        raise BadInput(f"{job.samples.name}: no sample can be trained on ({len(dropped)} dropped{first})")
    return TrainingSet(kept, encoded, model, images), dropped


def _gathered(mine: list[Any]) -> list[Any]:
    """The items of all ranks, on every rank."""
    import torch.distributed as dist

    if not dist.is_initialized():
        return mine
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, mine)
    return [item for part in parts for item in part]


def _store_checkpoint(job: TrainingJob, engine: Engine, losses: Losses) -> None:
    """Every rank stores its files, then rank 0 completes the checkpoint, then Ray Train hears of it."""
    import ray.train

    from llava.training import save_checkpoint

    step = len(losses.reports)
    prefix = f"{job.run_prefix}/step-{step:08d}"
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(engine, losses, Path(folder))
        files = _gathered(upload_files(job.store, Path(folder), prefix))
    if engine.rank == 0:
        complete(job.store, Checkpoint(step=step, key=job.key, layout=job.layout, prefix=prefix, files=tuple(files)))
    storage = cast(Any, ray.train.get_context()).get_storage()
    ray.train.report(
        {"step": step, "loss": losses.reports[-1].loss}, checkpoint_dir_name=f"step-{step:08d}",
        checkpoint=ray.train.Checkpoint(f"{storage.experiment_fs_path}/step-{step:08d}", storage.storage_filesystem),
        checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD)


def _store_result(job: TrainingJob, engine: Engine, model: LlavaModel, losses: Losses, dropped: list[dict[str, str]],
                  num_samples: int) -> None:
    """Rank 0 writes what the step makes; the mark that it is whole comes last."""
    from llava.export import export_hf
    from llava.projector import Projector, write_projector

    state = engine.whole_state()
    if state is None:
        return
    values: dict[str, Any] = {"num_samples": num_samples, "num_dropped": len(dropped),
                              "num_steps": len(losses.reports)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if job.alignment:
            write_projector(Projector(weight=state["projector.weight"], bias=state["projector.bias"],
                                      new_token_embeddings=state.get("new_token_embeddings")), folder)
            (folder / "projector.json").write_text(json.dumps(
                {name: job.assistant[name] for name in ("select_layer", "feature", "image_tokens", "image_aspect")},
                indent=2, sort_keys=True) + "\n")
        else:
            model.save(folder / "assistant", state)
            whole = type(model).load(folder / "assistant")
            values["projector_form"] = export_hf(whole, folder / "hf")
        losses.write(folder)
        (folder / "dropped.jsonl").write_text("".join(json.dumps(d, sort_keys=True) + "\n" for d in dropped))
        files = upload_files(job.store, folder, job.result_prefix)
    job.store.put(f"{job.result_prefix}/values.json", json.dumps(values, sort_keys=True).encode())
    complete(job.store, Checkpoint(step=len(losses.reports), key=job.key, layout="result", prefix=job.result_prefix,
                                   files=tuple(files)))
