"""``llavactl recipe``: what a recipe is, complete, with the origin of every value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from pipelines.cli.errors import one_message
from pipelines.cli.options import DebugOption, SetOption

app = typer.Typer(no_args_is_help=True, help="Show recipes.", rich_markup_mode="markdown")


@app.command("list")
@one_message
def list_(debug: DebugOption = False) -> None:
    """Name the recipes that are shipped."""
    from pipelines.recipe import names, resolve

    for name in names():
        print(f"{name:<16} {resolve(name).header.description}")


@app.command()
@one_message
def show(name: Annotated[str, typer.Argument(help="a shipped recipe's name, or a YAML file")],
         set_: SetOption = [], debug: DebugOption = False) -> None:  # noqa: B006
    """Print the complete resolved recipe; behind each value the file and line, the flag or the default it comes from.

    Example: `llavactl recipe show llava-v1-7b`
    """
    from pipelines.pipeline import build
    from pipelines.recipe import Header, resolve

    recipe = resolve(name, set_)
    header = recipe.header.model_dump(mode="json")
    for key in Header.model_fields:
        _line(0, key, header[key], recipe.origins.get(key, "default"))
    for step in build(recipe).steps:
        print(f"\n{step.name}:")
        config = step.config.model_dump(mode="json", by_alias=True)
        for depth, path, value in _walk(config, ()):
            places = (f"{section}.{'.'.join(path)}" for section in (step.name, step.stage.name))
            origin = next((recipe.origins[p] for p in places if p in recipe.origins), "default")
            _line(depth, path[-1], value, origin)


def _walk(config: Mapping[str, Any], above: tuple[str, ...]) -> Iterator[tuple[int, tuple[str, ...], Any]]:
    for key, value in config.items():
        path = (*above, key)
        if isinstance(value, Mapping) and value:
            yield len(path), path, None
            yield from _walk(value, path)
        else:
            yield len(path), path, value if value is not None else "null"


def _line(depth: int, key: str, value: Any, origin: str) -> None:
    text = f"{'  ' * depth}{key}:" + (f" {value}" if value is not None else "")
    print(f"{text:<72} # {origin}" if value is not None else text)
