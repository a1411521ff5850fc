"""Stage: align the projector (stage 1 of the paper) on pictures and captions; tower and language model are frozen.

Files: projector.safetensors (weight, bias and, with start and end tokens, their rows), the same as mm_projector.bin
with the authors' keys, projector.json (what it was aligned to), losses.jsonl, dropped.jsonl (samples left out).
A projector can be given instead: ``--set pretrain_projector.from=mm_projector.bin``.
"""

from __future__ import annotations

import json
from pathlib import Path

from pipelines.stage import BadInput, Result, Stage, StageContext
from pipelines.training_step import TrainingStepConfig, train_step


class Config(TrainingStepConfig):
    """Section 5, "Training details", and the authors' scripts."""

    learning_rate: float = 2e-3
    global_batch: int = 128
    micro_batch: int = 16


def run(ctx: StageContext) -> Result:
    captions = ctx.input("captions")
    return train_step(ctx, samples=captions.file("chat.json"), images=captions.file("images"), alignment=True,
                      check_pictures=False)


def import_output(path: Path, out: Path, config: Config) -> Result:
    """Take a projector.safetensors or an mm_projector.bin. Raises BadInput when it does not fit the config."""
    from llava.projector import BadProjector, Projector, read_projector, write_projector

    if path.is_dir():
        path = next((p for name in ("projector.safetensors", "mm_projector.bin") if (p := path / name).is_file()), path)
    try:
        given = read_projector(path)
    except BadProjector as error:
        raise BadInput(str(error)) from error
    rows = given.new_token_embeddings
    if config.image_tokens == "start_end" and rows is None:
        raise BadInput(f"{path} has no rows for start and end tokens: set pretrain_projector.image_tokens=none, "
                       "and the same for the tuning")
    kept = rows[-2:] if rows is not None and config.image_tokens == "start_end" else None
    write_projector(Projector(weight=given.weight, bias=given.bias, new_token_embeddings=kept), out)
    told = {name: getattr(config, name) for name in ("select_layer", "feature", "image_tokens", "image_aspect")}
    (out / "projector.json").write_text(json.dumps(told, indent=2, sort_keys=True) + "\n")
    return Result(values={"imported": True, "shape": list(given.weight.shape)})


STAGE = Stage(name="pretrain_projector", config=Config, run=run, inputs=("models", "captions"),
              import_output=import_output, libraries=("torch", "transformers", "tokenizers", "pillow", "deepspeed"))
