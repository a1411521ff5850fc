"""Tables of scores: every table says under which rule, or by which judge, its numbers were made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llava.benchmarks.llava_bench import Relative, Summary
from llava.benchmarks.probe import Accuracy, ProbeScores
from llava.benchmarks.records import named
from llava.benchmarks.scienceqa_scores import Scores

if TYPE_CHECKING:
    import rich.table


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """header and rows have equal lengths; the first column names, the others hold numbers. notes: lines below."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def scienceqa_table(scores: Scores) -> Table:
    """The columns of the paper's table 7, in per cent, with what was unusable."""
    rows = tuple((name, _percent(c.accuracy), str(c.correct), str(c.total)) for name, c in scores.columns.items())
    verb = {"strict": "counted as wrong", "historical": "guessed, or left out if missing", "stored": "counted as wrong"}
    notes = [f"{len(ids)} unusable ({reason.value}), {verb[scores.rule.value]}: {named(ids)}"
             for reason, ids in scores.unusable.items()]
    if scores.unknown:
        notes.append(f"{scores.unknown} predictions are of questions without a label and were not counted")
    return Table(title=f"ScienceQA, rule {scores.rule.value}", rows=rows, notes=tuple(notes),
                 header=("questions", "accuracy", "correct", "of"))


def probe_table(scores: ProbeScores) -> Table:
    """Accuracy, chance and swapped accuracy per kind, in per cent."""
    def row(name: str, a: Accuracy) -> tuple[str, ...]:
        return name, str(a.total), *(f"{100 * share:.1f}" for share in (a.accuracy, a.chance, a.swapped))

    return Table(title="Probe, exact match after normalisation",
                 header=("kind", "questions", "accuracy", "chance", "swapped pictures"),
                 rows=(*(row(kind, a) for kind, a in scores.kinds.items()), row("all", scores.overall)),
                 notes=("chance: what guessing from the text gets right; swapped pictures: the same questions "
                        "asked with another scene's picture",))


def llava_bench_table(summary: Summary, judge: str) -> Table:
    """Relative score per category and overall, as published: per cent of the reference's."""
    def row(name: str, r: Relative) -> tuple[str, ...]:
        return (name, str(r.reviews), "-" if r.relative is None else f"{r.relative:.1f}", f"{10 * r.reference:.1f}",
                f"{10 * r.candidate:.1f}")

    missing = (f"{len(summary.unparsable)} reviews could not be read and are not in the means: "
               f"{named(summary.unparsable)}",) if summary.unparsable else ()
    return Table(title=f"LLaVA-Bench, judged by {judge}",
                 header=("category", "reviews", "relative", "reference", "candidate"),
                 rows=(*(row(name, r) for name, r in summary.by_category.items()), row("all", summary.overall)),
                 notes=("relative: mean of the candidate as per cent of the mean of the reference; the wording of the "
                        "judge's rules is this project's own, so these do not compare with published scores", *missing))


def as_markdown(table: Table) -> str:
    """A section: heading, table, notes."""
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    rule = line(["---", *("---:" for _ in table.header[1:])])
    notes = "".join(f"\n{note}\n" for note in table.notes)
    return "\n".join([f"## {table.title}\n", line(table.header), rule, *map(line, table.rows), ""]) + notes


def as_rich(table: Table) -> rich.table.Table:
    """For a terminal or a log."""
    from rich.table import Table as RichTable

    drawn = RichTable(title=table.title, caption="\n".join(table.notes) or None, caption_justify="left")
    for i, name in enumerate(table.header):
        drawn.add_column(name, justify="right" if i else "left")
    for row in table.rows:
        drawn.add_row(*row)
    return drawn


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
