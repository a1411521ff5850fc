"""``llavactl up | down | status | env | doctor``: the verbs of the local services.

``up`` is the only one that starts anything, ``down`` the only one that stops anything; both may be called at any time.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from infra.local import services
from infra.local.installation import open_installation, shell_lines
from infra.local.services import ServiceFailed
from infra.local.terminal import Progress, console, print_status
from pipelines.cli.errors import one_message
from pipelines.settings import state_folder
from pipelines.stage import BadInput

app = typer.Typer(no_args_is_help=True, add_completion=False, help="The services of this machine.")

StateOption = Annotated[Path | None, typer.Option("--state", help="the installation's folder [LLAVA_STATE or .state]")]


@app.command("up")
@one_message
def up(
    state: StateOption = None,
    port_offset: Annotated[int | None, typer.Option(help="move every port by this much, beside another stack")] = None,
    free_ports: Annotated[bool, typer.Option("--free-ports", help="at the first start, pick any free ports")] = False,
) -> int:
    """Start S3, MLflow, Ray and the demo's picture server, all on this machine only.

    Starts what is not running, repairs what crashed, leaves the rest alone: call it as often as you like.
    Then let your shell find the services:  eval "$(llavactl env)"
    """
    folder = state or state_folder()
    try:
        with Progress() as progress:
            services.start(folder, free=free_ports, offset=port_offset, report=progress.report)
    except ServiceFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print_status(folder)
    print(f"\nstate, logs and credentials: {folder}\nnext: eval \"$(llavactl env)\" and then, for instance,\n"
          f"      ray job submit -- python jobs/full_pipeline.py --recipe demo")
    return 0


@app.command("down")
@one_message
def down(state: StateOption = None) -> int:
    """Stop the services and every job on them. Data, logs and credentials stay; `up` goes on from there."""
    folder = state or state_folder()
    try:
        with Progress() as progress:
            ended = services.stop(folder, report=progress.report)
    except TimeoutError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{ended} processes ended" if ended else "nothing was running")
    return 0


@app.command("status")
@one_message
def status(state: StateOption = None) -> int:
    """Show each service: its state, process, address, and since when. Exit code 1 unless all are ready."""
    return 0 if print_status(state or state_folder()) else 1


@app.command("env")
@one_message
def env(state: StateOption = None) -> int:
    """Print shell lines that let programs find the services:  eval "$(llavactl env)" """
    folder = (state or state_folder()).expanduser().resolve()
    installation = open_installation(folder)
    if installation is None:
        raise BadInput(f"no services were ever started in {folder}: run `llavactl up`")
    print(shell_lines(installation.environment()), end="")
    return 0


@app.command("doctor")
@one_message
def doctor(
    store: Annotated[list[str], typer.Option("--store", metavar="URI", help="probe this store (repeatable)")] = [],  # noqa: B006
    state: StateOption = None,
) -> int:
    """Check this machine and the services that a pipeline relies on; say the fix for what is missing.

    Probes the store of the environment, or each --store s3://bucket/prefix or file:///folder. Writes a few small
    objects there and deletes them. Exit code 1 when something needed is missing.
    """
    from infra.local.doctor import Verdict, examine

    findings = list(examine(state or state_folder(), tuple(store)))
    colours = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.MISSING: "red"}
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("", "what", "found", "fix"):
        table.add_column(heading, overflow="fold")
    for f in findings:
        table.add_row(f"[{colours[f.verdict]}]{f.verdict.value}[/]", f.what, f.found, f.fix)
    console().print(table)
    return 1 if any(f.verdict is Verdict.MISSING for f in findings) else 0
