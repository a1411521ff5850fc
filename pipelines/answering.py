"""Answering: every prompt is answered once, and neither the number of workers nor their pace shows in the answers.

Batches are cut in the order of the prompts before a worker is asked, because padding beside other prompts can change
the last bits of a logit. Each worker is a Ray actor that holds one model; an actor that dies is started again and its
batch is asked again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.stage import BadInput, RunSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """name: for errors. text: the human turn, with ``<image>`` where the picture stands."""

    name: str
    text: str
    picture: bytes | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """finish_reason: ``stop``, or ``length`` for an answer that was cut."""

    text: str
    finish_reason: str


class Answerer:
    """One model, loaded as serving loads it."""

    def __init__(self, folder: str, threads: int) -> None:
        import torch

        from llava.chat import Chat

        torch.set_num_threads(threads)
        self.chat = Chat.load(Path(folder))

    def answer(self, batch: Sequence[Ask], decoding: Mapping[str, Any]) -> list[Told]:
        """Raises BadInput for a prompt that is too long or a picture that cannot be read, by the prompt's name."""
        from llava.chat import PromptTooLong
        from llava.images import BadImage

        try:
            replies = self.chat.generate([_request(ask) for ask in batch], batch_size=len(batch), **decoding)
        except (PromptTooLong, BadImage):
            for ask in batch:
                try:
                    self.chat.generate([_request(ask)], max_new_tokens=1)
                except (PromptTooLong, BadImage) as error:
                    raise BadInput(f"{ask.name}: {error}") from None
            raise
        return [Told(text=reply.text, finish_reason=reply.finish_reason) for reply in replies]


def _request(ask: Ask) -> Any:
    from llava.chat import ChatRequest
    from llava.templates import HUMAN, Turn

    return ChatRequest(turns=(Turn(HUMAN, ask.text),), images=() if ask.picture is None else (ask.picture,))


def _result(reference: Any) -> list[Told]:
    """A batch's answers; bad input as it was raised, without Ray's account of where."""
    import ray
    from ray.exceptions import RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, BadInput):
            raise error.cause from None
        raise


def answer_all(model: Path, batches: Sequence[Sequence[Ask]], decoding: Mapping[str, Any], run: RunSettings,
               on_progress: Callable[[int], None]) -> list[Told]:
    """The answers to all prompts, in order. model: the folder of an assistant, on this node.

    decoding: what ``Chat.generate`` takes. on_progress gets the number of prompts answered so far. Raises BadInput, and
    what Ray raises when the workers cannot be kept.
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
    workers, todo = list(idle), list(enumerate(batches))
    told: dict[int, list[Told]] = {}
    running: dict[Any, tuple[int, Any]] = {}
    try:
        while todo or running:
            while idle and todo:
                number, batch = todo.pop(0)
                worker = idle.pop()
                running[worker.answer.remote(batch, dict(decoding))] = (number, worker)
            ready, _ = ray.wait(list(running), num_returns=1)
            number, worker = running.pop(ready[0])
            told[number] = _result(ready[0])
            idle.append(worker)
            on_progress(sum(map(len, told.values())))
    finally:
        for worker in workers:
            ray.kill(worker)
    return [answer for number in range(len(batches)) for answer in told[number]]
