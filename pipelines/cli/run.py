"""``llavactl run``, and the same thing for ``ray job submit -- python jobs/<name>.py``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Literal

import typer

from pipelines.cli.errors import one_message
from pipelines.cli.options import (
    DebugOption,
    OnlyOption,
    RecipeOption,
    SetOption,
    StoreOption,
    UntilOption,
    open_pipeline,
    open_settings,
)


@one_message
def command(
    recipe: RecipeOption = "demo",
    set_: SetOption = [],  # noqa: B006
    until: UntilOption = [],  # noqa: B006
    only: OnlyOption = [],  # noqa: B006
    no_wait: Annotated[bool, typer.Option("--no-wait", help="end with 20 instead of attaching to another driver's "
                                                            "attempt")] = False,
    jobs: Annotated[Literal["ray", "processes"], typer.Option(help="where attempts run: Ray jobs, or plain processes "
                                                                   "of this machine")] = "ray",
    store: StoreOption = None,
    debug: DebugOption = False,
) -> int:
    """Do what is not done yet, and attach to what is being done. Kill it at any time and run it again.

    `llavactl run --recipe demo`

    `llavactl run --recipe demo --until tune_chat --set tune_chat.learning_rate=1e-5`

    `llavactl run --recipe smoke --set pretrain_projector.from=mm_projector.bin`

    Exit codes: 0 done, 1 failed, 2 bad input or recipe, 10 gate rejected, 20 held by another (--no-wait), 30 cancelled.
    """
    from pipelines.drive import drive

    settings = open_settings(store)
    pipeline = open_pipeline(recipe, set_, until)
    return drive(pipeline, settings, only=only, no_wait=no_wait, jobs=jobs)


def main(until: Sequence[str] = ()) -> None:
    """The entry point of jobs/: the options of ``llavactl run``, up to the given steps."""
    app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)
    app.command()(command)
    app([*(f"--until={step}" for step in until), *sys.argv[1:]])
