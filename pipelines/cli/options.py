"""The options that verbs share, and what they open: a pipeline, its store, the settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from pipelines.dag import Pipeline
from pipelines.settings import Settings, load_environment, load_settings, state_folder
from pipelines.stage import BadInput
from pipelines.store import ObjectStore, open_store

RecipeOption = Annotated[str, typer.Option("--recipe", "-r", help="a shipped recipe's name, or a YAML file")]
SetOption = Annotated[list[str], typer.Option("--set", "-s", metavar="STEP.KEY=VALUE",
                                              help="override one value of the recipe (repeatable)")]
UntilOption = Annotated[list[str], typer.Option("--until", metavar="STEP",
                                                help="only this step and what it needs (repeatable)")]
OnlyOption = Annotated[list[str], typer.Option("--only", metavar="STEP",
                                               help="run nothing but this step; the rest must be there (repeatable)")]
StoreOption = Annotated[str | None, typer.Option("--store", metavar="URI",
                                                 help="s3://bucket/prefix or file:///folder instead of LLAVA_STORE")]
DebugOption = Annotated[bool, typer.Option("--debug", help="show tracebacks")]


def open_settings(store_uri: str | None) -> Settings:
    """Settings, with the store of the command line in place of the environment's."""
    load_environment()
    if store_uri is None:
        return load_settings()
    import os

    os.environ["LLAVA_STORE"] = store_uri
    return replace(load_settings(), store_uri=store_uri, state=state_folder())


def open_pipeline(recipe: str, overrides: list[str], until: list[str]) -> Pipeline:
    from pipelines.pipeline import build
    from pipelines.recipe import resolve

    pipeline = build(resolve(recipe, overrides))
    return pipeline.until(until) if until else pipeline


def open_run_id(store: ObjectStore, run_id: str | None) -> str:
    """The run of that id or of its unambiguous beginning; the newest when none is given."""
    from pipelines.runs import run_ids

    ids = run_ids(store)
    if not ids:
        raise BadInput(f"the store {store.uri} has no run yet; start one with `llavactl run --recipe demo`")
    if run_id is None:
        return ids[-1]
    found = [i for i in ids if i == run_id] or [i for i in ids if i.startswith(run_id)]
    if len(found) != 1:
        raise BadInput(f"{'no run' if not found else 'several runs'} {run_id!r}; `llavactl runs` lists them")
    return found[0]


__all__ = ["DebugOption", "OnlyOption", "RecipeOption", "SetOption", "StoreOption", "UntilOption", "open_pipeline",
           "open_run_id", "open_settings", "open_store"]
