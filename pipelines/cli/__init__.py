"""``llavactl``: one file a verb. A verb module has a function ``command``; its docstring is the verb's help.

Verb modules are light: what a verb needs is imported when it is called.
"""

from __future__ import annotations

import typer

from pipelines.cli import ask, benchmark, logs, models, plan, recipe, run, runs, show

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="markdown",
                  pretty_exceptions_enable=False,
                  help="Turn captions into a served vision-language assistant; kill it anywhere and run it again.")
for _name, _module in (("plan", plan), ("run", run), ("show", show), ("logs", logs), ("runs", runs), ("ask", ask)):
    app.command(_name)(_module.command)
for _verb in (models.models, models.promote, models.rollback):
    app.command(_verb.__name__)(_verb)
app.add_typer(recipe.app, name="recipe")
app.add_typer(benchmark.app, name="benchmark")
