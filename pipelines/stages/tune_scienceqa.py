"""Stage: tune projector and language model on ScienceQA, reasoning before the answer.

Files: assistant/, hf/, losses.jsonl and dropped.jsonl, as tune_chat.
"""

from __future__ import annotations

from pipelines.stage import Result, Stage, StageContext
from pipelines.training_step import TuningConfig, train_step


class Config(TuningConfig):
    """Section 5.2 and table 8: 12 epochs."""

    learning_rate: float = 2e-5
    global_batch: int = 32
    virtual_batch: int = 4
    epochs: int = 12


def run(ctx: StageContext) -> Result:
    return train_step(ctx, samples=ctx.input("data").file("train.json"), images=ctx.source("images"), alignment=False,
                      check_pictures=True)


STAGE = Stage(name="tune_scienceqa", config=Config, run=run, inputs=("models", "projector", "data"),
              libraries=("torch", "transformers", "tokenizers", "pillow", "deepspeed"))
