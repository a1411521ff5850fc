"""``llavactl``, the console: the verbs of the pipeline and those of the local services in one program."""

from __future__ import annotations

import typer

from infra.local.cli import app as local_app
from pipelines.cli import app


def build() -> typer.Typer:
    """The whole program. Building it again gives the same."""
    app.registered_commands += [c for c in local_app.registered_commands if c not in app.registered_commands]
    return app


def main() -> None:
    build()()
