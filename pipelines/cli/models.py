"""``llavactl models | promote | rollback``: the registry, as a person reads and changes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipelines import registry
from pipelines.cli.errors import one_message
from pipelines.cli.options import DebugOption, StoreOption, open_settings, open_store

if TYPE_CHECKING:
    from pipelines.registry import Registered
    from pipelines.settings import Settings
    from pipelines.store import ObjectStore

ModelArgument = Annotated[str, typer.Argument(help="name in the registry; `llavactl models` lists them",
                                              show_default=False)]
WhyOption = Annotated[str, typer.Option("--why", "-m", help="kept in the model's history", show_default=False)]


@one_message
def models(store: StoreOption = None, debug: DebugOption = False) -> None:
    """List models with their versions, what each alias names, holds, and the last changes.

    `llavactl models`
    """
    opened = open_store(open_settings(store).store_uri)
    names = registry.models(opened)
    for name in names:
        _print(registry.read(opened, name))
    if not names:
        print(f"no model is registered in {opened.uri} yet")


@one_message
def promote(
    model: ModelArgument,
    version: Annotated[int, typer.Argument(help="number of the version", show_default=False)],
    why: WhyOption,
    store: StoreOption = None,
    debug: DebugOption = False,
) -> None:
    """Make a version the champion, and clear a hold. The next run serves it.

    `llavactl promote demo 3 --why "checked by hand"`
    """
    settings = open_settings(store)
    opened = open_store(settings.store_uri)
    _changed(settings, opened, registry.promote(opened, model, version, why=why))


@one_message
def rollback(model: ModelArgument, why: WhyOption, store: StoreOption = None, debug: DebugOption = False) -> None:
    """Make the previous champion the champion again, and hold the model there until somebody promotes.

    `llavactl rollback demo --why "speaks in riddles"`
    """
    settings = open_settings(store)
    opened = open_store(settings.store_uri)
    _changed(settings, opened, registry.rollback(opened, model, why=why))


def _changed(settings: Settings, store: ObjectStore, state: Registered) -> None:
    from pipelines.registry_mirror import show_in_mlflow

    _print(state)
    show_in_mlflow(settings.mlflow_uri, store.uri, state)
    print("`llavactl run` with the model's recipe serves the champion")


def _print(state: Registered) -> None:
    from rich.table import Table

    from pipelines.display import console

    title = state.model + (f"  ON HOLD: {state.hold}" if state.hold else "")
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("version", "is", "made by", "content"):
        table.add_column(heading)
    for version in state.versions:
        aliases = ", ".join(name for name, number in state.aliases.items() if number == version.number)
        table.add_row(str(version.number), aliases, f"{version.step} {version.key[:12]}", version.digest[:12])
    console().print(table)
    for change in state.history[-3:]:
        print(f"  {change.at}  {change.who}: {change.what} ({change.why})")
