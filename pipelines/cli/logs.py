"""``llavactl logs``: what a step printed, from the bucket, also when the cluster is gone."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.errors import one_message
from pipelines.cli.options import DebugOption, StoreOption, open_run_id, open_settings, open_store
from pipelines.stage import BadInput

if TYPE_CHECKING:
    from pipelines.journal import Event

POLL_S = 2.0


@one_message
def command(
    run: Annotated[str, typer.Argument(help="a run's id, its beginning, or `last`", show_default=False)],
    step: Annotated[str, typer.Argument(help="a step's name", show_default=False)],
    follow: Annotated[bool, typer.Option("-f", "--follow", help="go on until the attempt has ended")] = False,
    epoch: Annotated[int | None, typer.Option(help="an earlier attempt of the run; by default its last")] = None,
    store: StoreOption = None,
    debug: DebugOption = False,
) -> None:
    """Print what an attempt printed, and why it ended.

    `llavactl logs last tune_chat -f`
    """
    from pipelines import record
    from pipelines.attempt_log import read_log
    from pipelines.journal import Journal
    from pipelines.outcome import Cause, read_outcome

    opened = open_store(open_settings(store).store_uri)
    run_id = open_run_id(opened, None if run == "last" else run)
    prefixes = attempts_of(Journal(opened, run_id).read(), step)
    if not prefixes:
        raise BadInput(f"{run_id} made no attempt at {step!r} (it was reused, blocked, or is no step of it); "
                       f"`llavactl show {run_id}` shows all")
    if epoch is not None and epoch not in prefixes:
        raise BadInput(f"{run_id} saw the attempts {', '.join(map(str, prefixes))} at {step}, not {epoch}")
    chosen = epoch if epoch is not None else max(prefixes)
    key, prefix = prefixes[chosen]
    last = ""
    while True:
        seen, outcome = record.read(opened, step, key), read_outcome(opened, prefix)
        live = outcome is None and seen is not None and seen.record.live and seen.record.epoch == chosen
        for segment, text in list(read_log(opened, prefix, last)):
            print(text, end="", flush=True)
            last = segment
        if not (follow and live):
            break
        time.sleep(POLL_S)
    if outcome is not None and outcome.cause is not Cause.DONE:
        print(f"--- attempt {chosen} ended: {outcome.cause.value}: {outcome.message}")
    elif outcome is None and not live:
        print(f"--- attempt {chosen} left no outcome: it was killed, or its step runs in the driver")


def attempts_of(events: Iterable[Event], step: str) -> dict[int, tuple[str, str]]:
    """epoch -> (key, namespace) of every attempt that the run saw of the step."""
    from pipelines.record import attempt_prefix

    found: dict[int, tuple[str, str]] = {}
    for event in events:
        if event.step == step and "generation" in event.data:
            key, epoch = event.data["key"], event.data["epoch"]
            found[epoch] = (key, attempt_prefix(step, key, event.data["generation"], epoch))
    return found
