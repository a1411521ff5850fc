"""What a person sees of the services: what happens while they start and stop, and what they are now."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table

from infra.local import services
from infra.local.services import Health
from pipelines.stage import BadInput

COLOURS = {Health.READY: "green", Health.UNREADY: "yellow", Health.CRASHED: "red", Health.STOPPED: "dim"}
SETTLED = ("ready", "already", "stopped")


class Progress:
    """What happens to each service: a live table on a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        self._events: dict[str, str] = {}
        self._spinner = Spinner("dots")
        terminal = sys.stdout.isatty()
        self._live = Live(console=Console(), refresh_per_second=8, transient=True) if terminal else None

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def report(self, service: str, event: str) -> None:
        if self._events.get(service) == event:
            return
        self._events[service] = event
        if self._live is None:
            print(f"{service:<9} {event}", flush=True)
            return
        table = Table.grid(padding=(0, 2))
        for name, what in self._events.items():
            table.add_row("" if what.startswith(SETTLED) else self._spinner, name, what)
        self._live.update(table)


def console() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=150, no_color=True, highlight=False)


def print_status(folder: Path) -> bool:
    """Print the table of services; whether all are ready."""
    rows = services.status(folder)
    if not rows:
        raise BadInput(f"no services were ever started in {folder}: run `llavactl up`")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("service", "state", "pid", "address", "since", "log"):
        table.add_column(heading, overflow="fold")
    for s in rows:
        table.add_row(s.title, f"[{COLOURS[s.health]}]{s.health.value}[/]", str(s.pid or ""), s.address,
                      s.since.strftime("%Y-%m-%d %H:%M:%S") if s.since else "", str(s.log))
    address, served = services.assistant_address(folder)
    table.add_row("The assistant", "[green]served[/]" if served else "[dim]not served[/]", "", address, "", "")
    console().print(table)
    return all(s.health is Health.READY for s in rows)
