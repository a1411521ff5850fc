"""How weights and gradients are spread over ranks: plain data parallel, or DeepSpeed ZeRO 1 to 3.

An engine sums gradients over ranks and micro-batches, never averages: the weights in the loss already sum to 1 over the
global batch, so every engine takes the same step. Weights of lower precision are stepped in float32. Plain data
parallel needs no DeepSpeed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
import torch.distributed as dist

from llava.batches import Batch
from llava.objective import Objective

SHARDINGS = ("none", "zero1", "zero2", "zero3")
BETAS, EPSILON = (0.9, 0.999), 1e-8  # of the authors' trainer


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimisation:
    """What an engine needs to take a step."""

    learning_rate: float
    weight_decay: float
    max_grad_norm: float
    micro_batch: int
    precision: str


class Engine(Protocol):
    """One rank's side of a sharding."""

    objective: Objective
    rank: int
    world: int
    device: torch.device

    def accumulate(self, batch: Batch, *, last: bool) -> torch.Tensor:
        """Forward and backward of a micro-batch; last: the step's last one. Returns this part of the loss."""
        ...

    def step(self, learning_rate: float) -> float:
        """Take the step and clear the gradients; returns the gradient norm before clipping."""
        ...

    def save(self, folder: Path) -> None:
        """Every rank writes what it holds, under names that no other rank uses."""
        ...

    def load(self, folder: Path) -> None:
        """Continue from what ``save`` wrote; the folder holds the files of all ranks."""
        ...

    def whole_state(self) -> dict[str, torch.Tensor] | None:
        """The model's state dict on rank 0, None elsewhere. Every rank must call it."""
        ...


def world_of() -> tuple[int, int]:
    """(rank, world size)."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def make_engine(sharding: str, objective: Objective, how: Optimisation, device: torch.device) -> Engine:
    """sharding: ``none``, ``zero1``, ``zero2`` or ``zero3``."""
    if sharding not in SHARDINGS:
        raise ValueError(f"sharding {sharding!r} is none of {', '.join(SHARDINGS)}")
    objective.to(device).train()
    if sharding == "none":
        return DataParallel(objective, how, device)
    return ZeRO(objective, how, device, stage=int(sharding[-1]))


def _groups(named: list[tuple[str, torch.nn.Parameter]], how: Optimisation) -> list[dict[str, Any]]:
    """No decay for biases and norms, as the authors' trainer."""
    plain = [p for n, p in named if p.ndim < 2 or n.endswith("bias")]
    decayed = [p for n, p in named if not (p.ndim < 2 or n.endswith("bias"))]
    return [{"params": ps, "weight_decay": decay, "lr": how.learning_rate}
            for ps, decay in ((decayed, how.weight_decay), (plain, 0.0)) if ps]


class DataParallel:
    """Every rank holds everything; gradients are summed in one buffer."""

    def __init__(self, objective: Objective, how: Optimisation, device: torch.device) -> None:
        self.objective = objective
        self.device = device
        self.rank, self.world = world_of()
        self._how = how
        self._named = [(n, p) for n, p in objective.named_parameters() if p.requires_grad]
        self._masters = [(n, torch.nn.Parameter(p.detach().float().clone()) if p.dtype != torch.float32 else p)
                         for n, p in self._named]
        self._sums = [torch.zeros_like(master, dtype=torch.float32) for _, master in self._masters]
        self._optimizer = torch.optim.AdamW(_groups(self._masters, how), betas=BETAS, eps=EPSILON)

    def accumulate(self, batch: Batch, *, last: bool) -> torch.Tensor:
        loss = self.objective(batch.to(self.device))
        loss.backward()
        for (_, weight), total in zip(self._named, self._sums, strict=True):
            if weight.grad is not None:
                total += weight.grad
                weight.grad = None
        return loss.detach()

    def step(self, learning_rate: float) -> float:
        if self.world > 1:
            flat = torch.cat([total.flatten() for total in self._sums])
            dist.all_reduce(flat)
            for total, part in zip(self._sums, flat.split([t.numel() for t in self._sums]), strict=True):
                total.copy_(part.view_as(total))
        for (_, master), total in zip(self._masters, self._sums, strict=True):
            master.grad = total
        norm = torch.nn.utils.clip_grad_norm_([master for _, master in self._masters], self._how.max_grad_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        for (_, weight), (_, master), total in zip(self._named, self._masters, self._sums, strict=True):
            if master is not weight:
                weight.data.copy_(master.data)
            master.grad = None
            total.zero_()
        return float(norm)

    def save(self, folder: Path) -> None:
        if self.rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            torch.save({"weights": {n: p.detach() for n, p in self._masters},
                        "optimizer": self._optimizer.state_dict()}, folder / "trainable.pt")

    def load(self, folder: Path) -> None:
        stored = torch.load(folder / "trainable.pt", map_location=self.device, weights_only=True)
        with torch.no_grad():
            for (name, weight), (_, master) in zip(self._named, self._masters, strict=True):
                master.copy_(stored["weights"][name])
                weight.copy_(master)
        self._optimizer.load_state_dict(stored["optimizer"])

    def whole_state(self) -> dict[str, torch.Tensor] | None:
        return {n: t.detach().cpu() for n, t in self.objective.model.state_dict().items()} if self.rank == 0 else None


class ZeRO:
    """DeepSpeed, which shards optimizer state (1), gradients (2) and weights (3).

    DeepSpeed averages over ranks, so the loss goes in multiplied by the world size. Imported here only: importing
    DeepSpeed in the process that drives Ray breaks Ray.
    """

    TAG = "state"  # one fixed name: which step it is, the folder's owner knows

    def __init__(self, objective: Objective, how: Optimisation, device: torch.device, stage: int) -> None:
        import deepspeed

        if device.type == "cpu":
            # Its shared-memory collective is compiled at first use, for minutes and behind a lock file that a killed
            # process leaves for ever, and its waiting spins. Gloo carries these few megabytes as well.
            cast(Any, deepspeed).ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed(dist_backend="nccl" if device.type == "cuda" else "gloo")
        self.objective = objective
        self.device = device
        self.stage = stage
        self.rank, self.world = world_of()
        named = [(n, p) for n, p in objective.named_parameters() if p.requires_grad]
        config = {
            "train_micro_batch_size_per_gpu": how.micro_batch,
            "gradient_accumulation_steps": 1,  # where a step ends is said for each micro-batch, see accumulate
            "gradient_clipping": how.max_grad_norm,
            "bf16": {"enabled": how.precision == "bfloat16"},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "zero_optimization": {"stage": stage, "overlap_comm": device.type == "cuda",
                                  "contiguous_gradients": True, "stage3_param_persistence_threshold": 0},
            "steps_per_print": 1 << 30,
        }
        optimizer = torch.optim.AdamW(_groups(named, how), betas=BETAS, eps=EPSILON)
        engine, self._optimizer, _, _ = deepspeed.initialize(
            model=objective, optimizer=cast(Any, optimizer), config=config)
        self._engine = cast(Any, engine)

    def accumulate(self, batch: Batch, *, last: bool) -> torch.Tensor:
        self._engine.set_gradient_accumulation_boundary(last)
        loss = self._engine(batch.to(self.device))
        self._engine.backward(loss * self.world)
        if not last:
            self._engine.step()
        return loss.detach()

    def step(self, learning_rate: float) -> float:
        for group in cast(Any, self._optimizer).param_groups:
            group["lr"] = learning_rate
        self._engine.step()
        return float(self._engine.get_global_grad_norm())

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._engine.save_checkpoint(str(folder), tag=self.TAG, exclude_frozen_parameters=True)

    def load(self, folder: Path) -> None:
        found, _ = self._engine.load_checkpoint(str(folder), tag=self.TAG, load_module_strict=False)
        if found is None:
            raise FileNotFoundError(f"{folder} holds no DeepSpeed checkpoint")

    def whole_state(self) -> dict[str, torch.Tensor] | None:
        state = {}
        for name, tensor in self._whole_tensors():
            if self.rank == 0:
                state[name] = tensor.detach().cpu().clone()
        return state if self.rank == 0 else None

    def _whole_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        model = self.objective.model
        if self.stage < 3:
            yield from model.state_dict(keep_vars=True).items()
            return
        import deepspeed

        stored = model.state_dict().keys()  # buffers that are not stored are left out
        for name, weight in model.named_parameters(remove_duplicate=False):
            with cast(Any, deepspeed).zero.GatheredParameters([weight]):
                yield name, weight
        yield from ((name, buffer) for name, buffer in model.named_buffers() if name in stored)
