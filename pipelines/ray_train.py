"""Training as a Ray Train run: the driver's side.

The run's name is key, generation and epoch, and it lies in the attempt's own namespace, so Ray Train can never pick up
another's state. What may be resumed is decided here: the newest complete checkpoint of the same key, from this attempt
or an earlier one, copied into this run. Ray Train retries what machines and networks do to a worker; what no retry can
mend reaches this process through the mailbox and is raised at once.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from pipelines.checkpoints import Checkpoint, adopt, bring, newest
from pipelines.training_job import TrainingJob

if TYPE_CHECKING:
    from pipelines.stage import StageContext

POLL_S = 0.5
STOP_S = 20.0  # how long ranks get to store a checkpoint when the attempt has to end


class _Mailbox:
    """Where rank 0 leaves its reports and the driver its wish to stop. An actor."""

    def __init__(self) -> None:
        self._reports: list[tuple[dict[str, Any], int]] = []
        self._stop = False
        self._failure: Exception | None = None

    def step(self, report: dict[str, Any], num_steps: int) -> bool:
        """Returns whether to stop."""
        self._reports.append((report, num_steps))
        return self._stop

    def stop(self) -> None:
        self._stop = True

    def fail(self, error: Exception) -> None:
        self._failure = self._failure or error

    def has_failed(self) -> bool:
        return self._failure is not None

    def take(self) -> tuple[list[tuple[dict[str, Any], int]], Exception | None]:
        taken, self._reports = self._reports, []
        return taken, self._failure


def run_name(ctx: StageContext) -> str:
    return f"{ctx.key[:16]}-g{ctx.generation}e{ctx.epoch}"


def run_prefix(ctx: StageContext) -> str:
    return f"{ctx.attempt_prefix.rstrip('/')}/train/{run_name(ctx)}"


def earlier_prefixes(ctx: StageContext) -> list[str]:
    """Namespaces of this key's earlier attempts of the same generation: a new generation starts anew."""
    parent = ctx.attempt_prefix.rstrip("/").rpartition("/")[0]
    return [f"{parent}/g{ctx.generation}e{epoch}/" for epoch in range(ctx.epoch - 1, -1, -1)]


def run_training(ctx: StageContext, job: TrainingJob) -> Mapping[str, Any]:
    """Train, and bring the result's files to ``ctx.out``; returns the declared values.

    Raises what a worker found that no retry can mend, or Ray Train's error when the retries are spent.
    """
    import ray

    if not newest(ctx.store, f"{job.run_prefix}/step-", key=job.key, layout=job.layout):
        taken = adopt(ctx.store, earlier_prefixes(ctx), job.run_prefix, key=job.key, layout=job.layout,
                      scratch=ctx.scratch)
        if taken:
            print(f"resuming after step {taken.step} of an earlier attempt", flush=True)
    if not ray.is_initialized():
        ray.init(log_to_driver=True)
    mailbox = cast(Any, ray).remote(num_cpus=0)(_Mailbox).remote()
    ended: list[BaseException | None] = []

    def fit() -> None:
        try:
            _trainer(ctx, job, mailbox).fit()
            ended.append(None)
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    thread.start()
    try:
        while True:
            thread.join(POLL_S)
            alive = thread.is_alive()
            _pass_on(ctx, *ray.get(mailbox.take.remote()))
            if not alive:
                break
            ctx.check()
    except BaseException:
        ray.get(mailbox.stop.remote())
        thread.join(STOP_S)
        raise
    if ended[0] is not None:
        raise ended[0]
    return _bring_result(ctx, job)


def _pass_on(ctx: StageContext, reports: list[tuple[dict[str, Any], int]], failure: Exception | None) -> None:
    for report, num_steps in reports:
        step = report["step"]
        ctx.log_metrics({name: float(report[name]) for name in (
            "loss", "learning_rate", "grad_norm", "samples_per_second", "tokens_per_second")}, step)
        ctx.progress(step, num_steps, "steps")
    if failure is not None:
        raise failure


def _trainer(ctx: StageContext, job: TrainingJob, mailbox: Any) -> Any:
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from pipelines.training_worker import train_worker

    run = ctx.run
    on_gpu = run.gpus_per_worker > 0
    filesystem, root = ctx.store.filesystem()
    environment = {"OMP_NUM_THREADS": str(run.threads_per_worker),
                   **({} if on_gpu else {"DS_ACCELERATOR": "cpu"}),
                   **{name: os.environ[name] for name in ("LLAVA_STATE",) if name in os.environ}}
    resources = {"CPU": run.cpus_per_worker, **({"GPU": run.gpus_per_worker} if on_gpu else {})}
    return TorchTrainer(
        train_worker, train_loop_config={"job": job, "mailbox": mailbox},
        torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=run.num_workers, use_gpu=on_gpu, resources_per_worker=resources),
        run_config=RunConfig(
            name=run_name(ctx), storage_filesystem=filesystem,
            storage_path=f"{root}/{job.run_prefix.rpartition('/')[0]}",
            failure_config=FailureConfig(max_failures=run.retries),
            checkpoint_config=CheckpointConfig(num_to_keep=2),  # the newest may be the one that a crash cut short
            worker_runtime_env={"env_vars": environment}))


def _bring_result(ctx: StageContext, job: TrainingJob) -> Mapping[str, Any]:
    whole: Checkpoint | None = newest(ctx.store, f"{job.result_prefix}/", key=job.key, layout="result")
    stored = ctx.store.get(f"{job.result_prefix}/values.json")
    if whole is None or stored is None:
        raise RuntimeError(f"the training ended without a result in {job.result_prefix}")
    bring(ctx.store, whole, ctx.out)
    return json.loads(stored.body)
