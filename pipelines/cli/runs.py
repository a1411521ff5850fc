"""``llavactl runs``: the runs of a store."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.cli.errors import one_message
from pipelines.cli.options import DebugOption, StoreOption, open_settings, open_store


@one_message
def command(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="how many, from the newest")] = 20,
    store: StoreOption = None,
    debug: DebugOption = False,
) -> None:
    """List runs, the newest last: when, who, how they ended.

    `llavactl runs -n 5`
    """
    from rich.table import Table

    from pipelines.display import console
    from pipelines.journal import Journal, fold
    from pipelines.runs import read_run, run_ids

    opened = open_store(open_settings(store).store_uri)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("run", "started", "who", "state", "steps"):
        table.add_column(heading)
    ids = run_ids(opened)
    for run_id in ids[-limit:]:
        run, state = read_run(opened, run_id), fold(Journal(opened, run_id).read())
        counts: dict[str, int] = {}
        for step in state.steps.values():
            counts[step.state] = counts.get(step.state, 0) + 1
        ended = state.state if state.exit is None else f"exit {state.exit}"
        table.add_row(run_id, run.started, run.who, ended, ", ".join(f"{n} {s}" for s, n in sorted(counts.items())))
    console().print(table)
    if not ids:
        print(f"no run yet in {opened.uri}")
