"""``llavactl benchmark``: score what you have, without a cluster or a store."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from llava.benchmarks.records import MalformedRecords
from llava.benchmarks.scienceqa import problems_of, read_problems, read_splits
from llava.benchmarks.scienceqa_scores import Label, Rule, label_of, read_labels, score_file
from llava.benchmarks.tables import as_rich, scienceqa_table
from pipelines.cli.errors import one_message
from pipelines.cli.options import DebugOption
from pipelines.stage import BadInput

app = typer.Typer(no_args_is_help=True, help="Score prediction files.")
scienceqa = typer.Typer(no_args_is_help=True, help="ScienceQA.")
app.add_typer(scienceqa, name="scienceqa")


@scienceqa.callback()
def _group() -> None:
    """ScienceQA."""


@scienceqa.command("score")
@one_message
def score(
    file: Annotated[Path, typer.Argument(help="JSON with outputs or results by question id, or answer JSONL")],
    labels: Annotated[Path | None, typer.Option(
        help="CSV with the answer, grade and subject of each question, or the official problems.json")] = None,
    splits: Annotated[Path | None, typer.Option(help="the official pid_splits.json, with problems.json")] = None,
    split: Annotated[str, typer.Option(help="which split to score, with problems.json")] = "test",
    rule: Annotated[Rule, typer.Option(
        help="strict: unusable is wrong; historical: unusable is guessed; stored: the file's own results")
    ] = Rule.STRICT,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object instead of the table")] = False,
    debug: DebugOption = False,
) -> None:
    """Score a file of ScienceQA predictions: the columns of the paper's table 7, with counts.

    Example: `llavactl benchmark scienceqa score answers.jsonl --labels problems.json --splits pid_splits.json`
    """
    try:
        scores = score_file(file, _labels(labels, splits, split), rule)
    except MalformedRecords as error:
        raise BadInput(str(error)) from None
    if not as_json:
        from rich.console import Console

        Console().print(as_rich(scienceqa_table(scores)))
        return
    if scores.unknown:
        print(f"{scores.unknown} predictions are of questions without a label and were not counted", file=sys.stderr)
    print(json.dumps(scores.as_json()))


def _labels(labels: Path | None, splits: Path | None, split: str) -> Mapping[str, Label]:
    if labels is None:
        raise BadInput("the right answers are not known: give --labels with a CSV of labels, or with the official "
                       "problems.json and --splits pid_splits.json")
    if labels.suffix != ".json":
        return read_labels(labels)
    if splits is None:
        raise BadInput(f"--labels {labels} holds all splits: give --splits pid_splits.json (and --split, if not test)")
    return {p.qid: label_of(p) for p in problems_of(read_problems(labels), read_splits(splits), split)}
