"""``llavactl show``: a run as a picture of its DAG, with states, durations and reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli.errors import one_message
from pipelines.cli.options import DebugOption, StoreOption, open_run_id, open_settings, open_store

if TYPE_CHECKING:
    from pipelines.journal import StepState

MARKS = {"done": "✔", "reused": "✔", "failed": "✘", "blocked": "◼", "rejected": "◼", "cancelled": "◼", "running": "▶",
         "submitted": "▷", "reserved": "▷", "planned": "·"}
STYLES = {"done": "green", "reused": "green", "failed": "red", "blocked": "yellow", "rejected": "yellow",
          "cancelled": "yellow", "running": "cyan", "submitted": "cyan", "reserved": "cyan"}


@one_message
def command(
    run: Annotated[str | None, typer.Argument(help="a run's id, or its beginning; by default the newest")] = None,
    store: StoreOption = None,
    debug: DebugOption = False,
) -> None:
    """Draw a run: each step below what it needs, with its state, how long it took, and why it ran.

    `llavactl show`
    """
    from rich.text import Text

    from pipelines.display import console, print_values
    from pipelines.journal import Journal, fold
    from pipelines.record import read
    from pipelines.runs import read_run

    opened = open_store(open_settings(store).store_uri)
    found = read_run(opened, open_run_id(opened, run))
    state = fold(Journal(opened, found.run_id).read())
    ended = f"exit {state.exit}" if state.exit is not None else state.state
    out = console()
    out.print(f"{found.run_id}   {found.recipe} by {found.who}, started {found.started}, {ended}\n")
    for gutter, name in draw({n: s["depends_on"] for n, s in found.steps.items()}):
        if name is None:
            out.print(gutter)
            continue
        step = state.steps.get(name)
        if step is None:
            out.print(f"{gutter} {name}")
            continue
        seen = read(opened, name, step.key) if step.key and step.state in ("running", "submitted") else None
        progress = _progress(seen.record.progress) if seen else ""
        out.print(Text.assemble(gutter, (f" {MARKS.get(step.state, '·')} {name}", STYLES.get(step.state, "")),
                                f"  {step.state}", f"  {took(step)}" if took(step) else "",
                                f"  {progress}" if progress else "", (f"  {_why(step)}", "dim")))
    for name, step in state.steps.items():
        if step.metrics and found.steps.get(name, {}).get("stage") == "evaluate":
            out.print()
            print_values(name, step.metrics)


def draw(needs: Mapping[str, Sequence[str]]) -> list[tuple[str, str | None]]:
    """(gutter, step) a line, top down; a line without a step carries edges only.

    Each open edge has a column: it begins below a step that somebody still needs, and ends beside the last that does.
    ``┼`` is a junction; a line passes behind ``│`` without touching it.
    """
    last_use = {n: max((i for i, deps in enumerate(needs.values()) if n in deps), default=-1) for n in needs}
    columns: list[str | None] = []
    lines: list[tuple[str, str | None]] = []
    for index, (name, deps) in enumerate(needs.items()):
        used = [c for c, held in enumerate(columns) if held in deps]
        ending = [c for c in used if last_use[str(columns[c])] == index]
        own = min(ending, default=next((c for c, held in enumerate(columns) if held is None), len(columns)))
        if own == len(columns):
            columns.append(None)
        ends = {*used, own}
        cells = []
        for column, held in enumerate(columns):
            between = min(ends) < column < max(ends)
            if column == own:
                cells.append("●")
            elif column in used:
                stays = column not in ending
                right, left = column < max(ends), column > min(ends)
                cells.append(_corner(stays, left=left, right=right))
            elif held is not None:
                cells.append("│")
            else:
                cells.append("─" if between else " ")
        joined = "".join(cell + ("─" if min(ends) <= c < max(ends) else " ") for c, cell in enumerate(cells))
        lines.append((joined.rstrip(), name))
        for column in ending:
            columns[column] = None
        columns[own] = name if last_use[name] >= 0 else None
        while columns and columns[-1] is None:
            columns.pop()
    width = max((len(gutter) for gutter, _ in lines), default=0)
    return [(gutter.ljust(width), name) for gutter, name in lines]


def _corner(stays: bool, *, left: bool, right: bool) -> str:
    """An edge from above that turns towards the step, and goes on down if others need it."""
    if left and right:
        return "┼" if stays else "┴"
    if left:
        return "┤" if stays else "┘"
    return "├" if stays else "└"


def took(step: StepState) -> str:
    """How long the step was live in this run; until now if it is."""
    from pipelines.display import duration

    if step.started is None:
        return ""
    ended = datetime.fromisoformat(step.ended) if step.ended else datetime.now(UTC)
    return duration(max(0.0, (ended - datetime.fromisoformat(step.started)).total_seconds()))


def _progress(progress: Mapping[str, Any]) -> str:
    return f"{progress['done']}/{progress['total']} {progress['what']}" if progress else ""


def _why(step: StepState) -> str:
    if step.error:
        return step.error.strip().splitlines()[-1]
    attempts = f"attempt {step.attempts[-1]}" if len(step.attempts) > 1 else ""
    return "; ".join(filter(None, [attempts, *step.reasons]))
