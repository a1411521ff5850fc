"""Stage: tune projector and language model on instruction data (stage 2 of the paper, the chat assistant).

Files: assistant/ (what evaluation and serving load), hf/ (the same for stock transformers, vLLM and SGLang),
losses.jsonl, dropped.jsonl (samples left out, and why).
One's own data: ``--set tune_chat.data=chat.json --set tune_chat.images=DIR``.
"""

from __future__ import annotations

from pydantic import Field

from pipelines.stage import Result, Source, Stage, StageContext
from pipelines.training_step import TuningConfig, train_step


class Config(TuningConfig):
    """Section 5, "Training details": batch 32 as 4 a device on 8 devices, 3 epochs."""

    learning_rate: float = 2e-5
    global_batch: int = 32
    virtual_batch: int = 4
    epochs: int = 3
    data: Source | None = Field(None, description="chat.json in the published schema, instead of generated data")


def run(ctx: StageContext) -> Result:
    samples = ctx.source("data") if ctx.has_source("data") else ctx.input("instructions").file("chat.json")
    return train_step(ctx, samples=samples, images=ctx.source("images"), alignment=False, check_pictures=True)


STAGE = Stage(name="tune_chat", config=Config, run=run, inputs=("models", "projector", "instructions?"),
              needs=("images",), libraries=("torch", "transformers", "tokenizers", "pillow", "deepspeed"))
