"""The training loop: step k is the same step whoever runs it, on however many ranks.

A step's samples, weights and learning rate follow from the settings and k; ranks and micro-batches only divide the
work. Checkpoints are taken between steps. A loss that is no number stops training before it reaches the weights, and
the error names the samples that made it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from llava.batches import Batch, Sampler, TrainingSet, prefetched, share
from llava.engines import Engine, Optimisation
from llava.objective import token_weights


class LossIsNotFinite(RuntimeError):
    """The loss became infinite or no number. Names the step and the samples of its batch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """The settings of one training. Defaults: what the paper's two trainings share (section 5, training details)."""

    learning_rate: float
    global_batch: int
    epochs: int = 1
    max_steps: int | None = None
    warmup_ratio: float = 0.03
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0  # the default of the authors' trainer
    loss_norm: str = "token"
    virtual_batch: int = 16
    precision: str = "bfloat16"
    sharding: str = "none"
    micro_batch: int = 4
    checkpoint_every: int = 500
    seed: int = 0

    def optimisation(self) -> Optimisation:
        return Optimisation(learning_rate=self.learning_rate, weight_decay=self.weight_decay,
                            max_grad_norm=self.max_grad_norm, micro_batch=self.micro_batch, precision=self.precision)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    """step: 1 for the first. loss: of the whole global batch, in nats. num_tokens: of the batch, without padding."""

    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    num_samples: int
    num_tokens: int
    num_supervised: int


def learning_rate_at(step: int, num_steps: int, config: TrainingConfig) -> float:
    """Linear warm-up from 0, then half a cosine to 0; step counts from 0.

    Equals transformers' ``get_cosine_schedule_with_warmup``, which the authors train with.
    """
    warmup = math.ceil(config.warmup_ratio * num_steps)
    if step < warmup:
        return config.learning_rate * step / warmup
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, num_steps - warmup)))


class Losses:
    """The reports of every step so far, of earlier attempts too; written beside each checkpoint."""

    FILE = "losses.jsonl"

    def __init__(self) -> None:
        self.reports: list[StepReport] = []

    def write(self, folder: Path) -> None:
        lines = [json.dumps(asdict(report), sort_keys=True) for report in self.reports]
        (folder / self.FILE).write_text("".join(f"{line}\n" for line in lines))

    @classmethod
    def read(cls, folder: Path) -> Losses:
        losses = cls()
        losses.reports = [StepReport(**json.loads(line)) for line in (folder / cls.FILE).read_text().splitlines()]
        return losses


def save_checkpoint(engine: Engine, losses: Losses, folder: Path) -> None:
    """Every rank writes its part; the step is the number of reports."""
    folder.mkdir(parents=True, exist_ok=True)
    engine.save(folder)
    if engine.rank == 0:
        losses.write(folder)


def load_checkpoint(engine: Engine, folder: Path) -> Losses:
    """Continue from a folder that ``save_checkpoint`` of all ranks filled."""
    engine.load(folder)
    return Losses.read(folder)


def train(engine: Engine, data: TrainingSet, config: TrainingConfig, *, losses: Losses | None = None,
          on_step: Callable[[StepReport], bool] = lambda _report: False,
          on_checkpoint: Callable[[Losses], None] = lambda _losses: None) -> Losses:
    """Train from after the given losses to the end.

    on_step: called on every rank after a step; True on rank 0 asks to stop, and all ranks stop after the next step,
    with a checkpoint. on_checkpoint: called on every rank every ``checkpoint_every`` steps and after the last.
    Raises LossIsNotFinite, on every rank alike.
    """
    losses = losses or Losses()
    sampler = Sampler(num_samples=len(data), global_batch=config.global_batch, epochs=config.epochs, seed=config.seed,
                      max_steps=config.max_steps)
    first, stop = len(losses.reports), False

    def micro_batches(step: int) -> list[Batch]:
        indices = sampler.batch(step)
        weights = token_weights([data.num_supervised[i] for i in indices], config.loss_norm, config.virtual_batch)
        by_index = dict(zip(indices, weights, strict=True))
        mine = share(indices, data.lengths, engine.rank, engine.world, config.micro_batch)
        return [data.collate(chosen, by_index) for chosen in mine]

    for step, batches in enumerate(prefetched(first, sampler.num_steps, micro_batches), start=first):
        parts = [engine.accumulate(batch, last=i == len(batches) - 1) for i, batch in enumerate(batches)]
        loss, stop = _agree(torch.stack(parts).double().sum(), stop, engine)
        indices = sampler.batch(step)
        if not math.isfinite(loss):
            names = ", ".join(data.samples[i].id for i in indices[:20])
            raise LossIsNotFinite(f"the loss of step {step + 1} is {loss}; its samples: {names}"
                                  f"{' ...' if len(indices) > 20 else ''}. Look at their pictures and words, or lower "
                                  "the learning rate")
        rate = learning_rate_at(step, sampler.num_steps, config)
        norm = engine.step(rate)
        report = StepReport(step=step + 1, loss=loss, learning_rate=rate, grad_norm=norm, num_samples=len(indices),
                            num_tokens=sum(data.lengths[i] for i in indices),
                            num_supervised=sum(data.num_supervised[i] for i in indices))
        losses.reports.append(report)
        asked = on_step(report)
        if stop or step + 1 == sampler.num_steps or (step + 1) % config.checkpoint_every == 0:
            on_checkpoint(losses)
        if stop:
            break
        stop = asked
    return losses


def _agree(loss: torch.Tensor, stop: bool, engine: Engine) -> tuple[float, bool]:
    """The loss over all ranks, and whether any rank was asked to stop."""
    both = torch.stack([loss.cpu(), torch.tensor(float(stop), dtype=torch.float64)])
    if engine.world > 1:
        both = both.to(engine.device)
        dist.all_reduce(both)
    return float(both[0]), bool(both[1] > 0)
