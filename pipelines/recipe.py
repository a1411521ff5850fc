"""Recipes: what to build, as one complete, typed and explained set of values.

A recipe is a YAML file that lists only what differs from its parent (``extends:``). Every value of the resolved recipe
knows where it came from, every key is known to a typed model, and an unknown key is an error that names the nearest.

    name: demo
    extends: base
    select_captions: {source: "step://demo_world/captions.tsv"}
    tune_chat: {learning_rate: 1.0e-3, run: {num_workers: 2}}
    evaluate@chat: {...}          # only this occurrence of the stage
"""

from __future__ import annotations

import contextlib
import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines.stage import BadInput, StepConfig, load_stage

FOLDER = Path(__file__).parent / "recipes"
STAGES = ("demo_world", "prepare_models", "select_captions", "fetch_images", "pretrain_projector",
          "generate_instructions", "tune_chat", "convert_scienceqa", "tune_scienceqa", "evaluate",
          "gate", "register", "rollout")
INSTANCES = ("pretrain_projector@chat", "pretrain_projector@scienceqa", "evaluate@chat", "evaluate@scienceqa",
             "gate@chat", "gate@scienceqa", "register@chat", "register@scienceqa", "rollout@chat", "rollout@scienceqa")


class Header(BaseModel):
    """What a recipe says beside its steps."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    description: str = ""
    model: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", description="name in the registry and behind the API")
    seed: int = 0
    projectors: Literal["shared", "per_task"] = "shared"
    serve: tuple[Literal["chat", "scienceqa"], ...] = ("chat",)
    abstract: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A resolved recipe. sections: step or stage name -> raw values. origins: dotted key -> ``file:line`` or flag."""

    header: Header
    sections: Mapping[str, Mapping[str, Any]]
    origins: Mapping[str, str] = field(default_factory=dict)

    def config(self, stage: str, instance: str | None = None, extra: Mapping[str, Any] | None = None) -> StepConfig:
        """The typed config of one step: the stage's section, overlaid by the instance's, then by ``extra``."""
        raw = merge(self.sections.get(stage, {}), self.sections.get(instance, {}) if instance else {})
        raw = merge(raw, extra or {})
        return _validate(load_stage(stage).config, raw, instance or stage, self)

    def as_json(self) -> dict[str, Any]:
        return {**self.header.model_dump(mode="json"), **{k: dict(v) for k, v in self.sections.items()}}


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` laid on ``base``, mapping by mapping; lists and scalars are replaced."""
    out = dict(base)
    for key, value in over.items():
        held = out.get(key)
        out[key] = merge(held, value) if isinstance(held, Mapping) and isinstance(value, Mapping) else value
    return out


def names() -> list[str]:
    """The recipes that are shipped and can be run."""
    return sorted(p.stem for p in FOLDER.glob("*.yaml") if not yaml.safe_load(p.read_text()).get("abstract"))


def resolve(name_or_path: str, overrides: Iterable[str] = ()) -> Recipe:
    """The complete recipe of that name or file, with ``key=value`` overrides applied.

    Raises BadInput for an unknown recipe, an unknown key or a value of the wrong type.
    """
    raw, origins = _load(name_or_path, ())
    for override in overrides:
        raw = _override(raw, origins, override)
    top = {k: v for k, v in raw.items() if k in Header.model_fields}
    sections = {k: v for k, v in raw.items() if k not in Header.model_fields}
    known = (*Header.model_fields, *STAGES, *INSTANCES)
    for key, value in sections.items():
        if key not in known:
            raise BadInput(f"{origins.get(key, name_or_path)}: unknown key {key!r}{nearest(key, known)}")
        if not isinstance(value, Mapping):
            raise BadInput(f"{origins.get(key, name_or_path)}: {key} must be a mapping of settings, not {value!r}")
    try:
        header = Header.model_validate(top)
    except ValidationError as error:
        raise BadInput(_explain(error, Header, "", origins)) from None
    if header.abstract:
        raise BadInput(f"recipe {header.name} is only a parent of others; run one of {', '.join(names())}")
    recipe = Recipe(header=header, sections=sections, origins=origins)
    for key in sections:
        recipe.config(key.partition("@")[0], key)
    return recipe


def nearest(key: str, known: Iterable[str]) -> str:
    """`` (did you mean ...?)`` for a key that is close to a known one, else the known keys."""
    known = list(known)
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else f" (known: {', '.join(sorted(known))})"


def _load(name_or_path: str, chain: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, str]]:
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = FOLDER / f"{name_or_path}.yaml"
    if not path.is_file():
        raise BadInput(f"no recipe {name_or_path!r}{nearest(name_or_path, names())}")
    if str(path) in chain:
        raise BadInput(f"recipes extend each other in a circle: {' -> '.join([*chain, str(path)])}")
    try:
        node = yaml.compose(path.read_text(), Loader=yaml.SafeLoader)
        raw = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not valid YAML: {error}") from None
    if not isinstance(raw, dict):
        raise BadInput(f"{path}: a recipe is a mapping of settings")
    origins = dict(_origins(node, path.name, ()))
    parent = raw.pop("extends", None)
    origins.pop("extends", None)
    if parent is None:
        return raw, origins
    sibling = path.parent / f"{parent}.yaml"
    base, base_origins = _load(str(sibling if sibling.is_file() else parent), (*chain, str(path)))
    base.pop("abstract", None)
    return merge(base, raw), base_origins | origins


def _origins(node: yaml.Node | None, file: str, prefix: tuple[str, ...]) -> Iterable[tuple[str, str]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            dotted = (*prefix, str(key.value))
            yield ".".join(dotted), f"{file}:{key.start_mark.line + 1}"
            yield from _origins(value, file, dotted)


def _override(raw: dict[str, Any], origins: dict[str, str], override: str) -> dict[str, Any]:
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise BadInput(f"--set {override}: write it as key.name=value")
    try:
        value = yaml.safe_load(text) if text else None
    except yaml.YAMLError:
        value = text
    if isinstance(value, str):  # YAML 1.1 reads 1e-5 as text
        with contextlib.suppress(ValueError):
            value = json.loads(value)
    origins[dotted] = "--set"
    nested: Any = value
    for part in reversed(dotted.split(".")):
        nested = {part: nested}
    return merge(raw, nested)


def _validate(model: type[StepConfig], raw: Mapping[str, Any], section: str, recipe: Recipe) -> StepConfig:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise BadInput(_explain(error, model, section, recipe.origins)) from None


def _explain(error: ValidationError, model: type[BaseModel], section: str, origins: Mapping[str, str]) -> str:
    """The first problem as one sentence: where, what, and the nearest known key."""
    first = error.errors()[0]
    path = [str(p) for p in first["loc"]]
    dotted = ".".join([section, *path] if section else path)
    stage = section.partition("@")[0]
    where = origins.get(dotted) or origins.get(".".join([stage, *path])) or origins.get(section) or "recipe"
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown key {dotted!r}{nearest(path[-1], _keys_at(model, path[:-1]))}"
    if first["type"] == "missing":
        return f"{where}: {dotted} is required; add it to the recipe or give --set {dotted}=..."
    return f"{where}: {dotted}: {first['msg'].lower()}, got {first['input']!r}"


def _keys_at(model: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        candidates = (annotation, *getattr(annotation, "__args__", ()))
        found = next((a for a in candidates if isinstance(a, type) and issubclass(a, BaseModel)), None)
        if found is None:
            return []
        model = found
    return [f.alias or n for n, f in model.model_fields.items()]
