"""What a person sees of a run: one line for each transition, and how far each live step is.

On a terminal the live steps are bars; in a pipe (``ray job submit`` prints one) they are plain lines, at most one a
step every few seconds, so that a log stays readable. Nothing here is state: a driver runs the same without.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

STYLES = {"REUSE": "green", "DONE": "green", "IMPORTED": "green", "RUN": "cyan", "RESUME": "cyan", "WAIT": "yellow",
          "RETRY": "yellow", "BLOCKED": "yellow", "FAILED": "red"}
PLAIN_EVERY_S = 10.0


class Display(Protocol):
    def event(self, step: str, word: str, text: str = "") -> None:
        """A transition of a step; an empty step is the run itself."""
        ...

    def progress(self, step: str, done: int, total: int, what: str) -> None: ...

    def ended(self, step: str) -> None:
        """The step is live no more."""
        ...

    def close(self) -> None: ...


class Lines:
    """Plain lines: ``12:03:10 fetch_images       RUN      1200/5000 images``."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._told: dict[str, tuple[float, int]] = {}

    def event(self, step: str, word: str, text: str = "") -> None:
        stamp = datetime.now().strftime("%H:%M:%S")
        print(f"{stamp} {step:<{self._width}} {word:<8} {text}".rstrip(), flush=True)

    def progress(self, step: str, done: int, total: int, what: str) -> None:
        at, last = self._told.get(step, (0.0, -1))
        if done == last or time.monotonic() - at < PLAIN_EVERY_S:
            return
        self._told[step] = (time.monotonic(), done)
        self.event(step, "RUN", f"{done}/{total} {what}")

    def ended(self, step: str) -> None:
        self._told.pop(step, None)

    def close(self) -> None:
        pass


class Bars:
    """A bar for each live step below the lines of what happened."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._bars = Progress(SpinnerColumn(), TextColumn(f"{{task.fields[name]:<{width}}}"), BarColumn(),
                              MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn(),
                              transient=True)
        self._tasks: dict[str, TaskID] = {}
        self._bars.start()

    def event(self, step: str, word: str, text: str = "") -> None:
        stamp = datetime.now().strftime("%H:%M:%S")
        self._bars.console.print(Text.assemble((stamp, "dim"), f" {step:<{self._width}} ",
                                               (f"{word:<8}", STYLES.get(word, "")), f" {text}"))
        if step and word in ("RUN", "RESUME", "IMPORTED") and step not in self._tasks:
            self._tasks[step] = self._bars.add_task("", total=None, name=step)

    def progress(self, step: str, done: int, total: int, what: str) -> None:
        if step in self._tasks:
            self._bars.update(self._tasks[step], completed=done, total=total or None, description=what)

    def ended(self, step: str) -> None:
        if (task := self._tasks.pop(step, None)) is not None:
            self._bars.remove_task(task)

    def close(self) -> None:
        self._bars.stop()


def open_display(steps: Iterable[str]) -> Display:
    width = max((len(s) for s in steps), default=10)
    return Bars(width) if sys.stdout.isatty() else Lines(width)


def console() -> Console:
    """For tables: the terminal's width, or a fixed one in a pipe."""
    return Console() if sys.stdout.isatty() else Console(width=150, no_color=True, highlight=False)


def duration(seconds: float | None) -> str:
    """``3.2 s``, ``4 min 10 s``, ``2 h 05 min``; empty for None."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def print_steps(title: str, rows: Iterable[tuple[str, str, str, str]]) -> None:
    """Rows of (step, what happened, duration, reasons)."""
    rows = list(rows)
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("step", "action", "took" if any(row[2] for row in rows) else "", "why"):
        table.add_column(heading, overflow="fold")
    for step, word, took, why in rows:
        table.add_row(step, Text(word, style=STYLES.get(word, "")), took, why)
    _print(table)


def _print(table: Table) -> None:
    """Without the blanks that a table leaves at the end of its lines."""
    out = console()
    with out.capture() as captured:
        out.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def print_values(step: str, values: Mapping[str, Any], limit: int = 40) -> None:
    """A step's declared values, nested names dotted, one a line."""
    rows = list(_flat(values, ""))
    table = Table(title=step, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for name, value in rows[:limit]:
        table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
    if len(rows) > limit:
        table.add_row(f"and {len(rows) - limit} more", "")
    _print(table)


def _flat(value: Any, prefix: str) -> Iterable[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(inner, f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(value, int | float | str | bool):
        yield prefix, value
