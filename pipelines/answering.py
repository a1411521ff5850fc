"""Answering: every prompt is answered once, and neither the number of workers nor their pace shows in the answers.

Batches are cut in the order of the prompts before a worker is asked, because padding beside other prompts can change
the last bits of a logit. Each worker is a Ray actor that holds one model; an actor that dies is started again and its
batch is asked again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.stage import RunSettings

Work = tuple[str, bytes | None]
"""The human turn, with ``<image>`` where the picture stands, and the picture."""


class Answerer:
    """One model, loaded as serving loads it."""

    def __init__(self, folder: str, threads: int) -> None:
        import torch
        from llava.chat import Chat

        torch.set_num_threads(threads)
        self.chat = Chat.load(Path(folder))

    def answer(self, batch: Sequence[Work], decoding: Mapping[str, Any], seed: int) -> list[str]:
        from llava.chat import ChatRequest

        from llava.templates import HUMAN, Turn

        requests = [ChatRequest(turns=(Turn(HUMAN, text),), images=() if picture is None else (picture,))
                    for text, picture in batch]
        return [reply.text for reply in self.chat.generate(requests, seed=seed, **decoding)]


def answer_all(model: Path, batches: Sequence[Sequence[Work]], decoding: Mapping[str, Any], seed: int, run: RunSettings,
               on_progress: Callable[[int], None]) -> list[list[str]]:
    """The texts of each batch, in order. model: the folder of an assistant, on this node.

    on_progress gets the number of prompts answered so far. Raises what Ray raises when the workers cannot be kept.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if not ray.is_initialized():
        ray.init()
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)  # where the files lie
    actor: Any = ray.remote(Answerer)
    actor = actor.options(num_cpus=run.cpus_per_worker, num_gpus=run.gpus_per_worker, max_restarts=2,
                          max_task_retries=2, scheduling_strategy=here)
    idle = [actor.remote(str(model), run.threads_per_worker) for _ in range(min(run.num_workers, len(batches)))]
    workers, todo, texts, running = list(idle), list(enumerate(batches)), {}, {}
    try:
        while todo or running:
            while idle and todo:
                number, batch = todo.pop(0)
                worker = idle.pop()
                running[worker.answer.remote(batch, dict(decoding), seed + number)] = (number, worker)
            ready, _ = ray.wait(list(running), num_returns=1)
            number, worker = running.pop(ready[0])
            texts[number] = ray.get(ready[0])
            idle.append(worker)
            on_progress(sum(map(len, texts.values())))
    finally:
        for worker in workers:
            ray.kill(worker)
    return [texts[number] for number in range(len(batches))]
