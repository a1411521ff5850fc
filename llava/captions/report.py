"""What a selection did, in numbers that add up: rows read = selected + not selected + duplicates + quarantined.

``summarise`` refuses to describe counts that do not add up, so a row that is lost on the way is an error, not a report.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from llava.captions.selection import Corpus, Rule, Selection

EDGES = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1_000, 10_000, 100_000)  # lower ends of the frequency bins
PAPER_CAP = 100
EXAMPLES = 10


def summarise(corpus: Corpus, selection: Selection, rule: Rule, *, num_rows: int, num_duplicates: int,
              quarantined: Mapping[str, int], model: str, normalisation: str, seed: int) -> dict[str, Any]:
    """The report as JSON. Raises ValueError when the counts do not add up to ``num_rows``."""
    num_selected = int(np.count_nonzero(selection.chosen))
    counts = {"read": num_rows, "selected": num_selected, "not_selected": len(corpus) - num_selected,
              "duplicates": num_duplicates, "quarantined": sum(quarantined.values())}
    if counts["read"] != sum(v for k, v in counts.items() if k != "read"):
        raise ValueError(f"rows are unaccounted for: {counts}")
    kept = selection.frequency >= rule.min_frequency
    return {
        "counts": counts,
        "quarantined": dict(sorted(quarantined.items())),
        "rule": {"min_frequency": rule.min_frequency, "cap": selection.cap, "counting": rule.counting.value,
                 "target": rule.target, "filled_from_next_cap": selection.filled, "seed": seed,
                 "spacy_model": model, "normalisation": normalisation},
        "departures": _departures(selection, rule, num_selected),
        "captions": {"without_a_phrase": int(np.count_nonzero(np.diff(corpus.offsets) == 0)),
                     "with_an_eligible_phrase": selection.eligible,
                     "phrases_per_caption": round(len(corpus.members) / max(1, len(corpus)), 4)},
        "phrases": {"distinct": len(corpus.phrases), "eligible": int(np.count_nonzero(kept)),
                    "over_cap": int(np.count_nonzero(selection.frequency > selection.cap)),
                    "eligible_and_covered": int(np.count_nonzero(kept & (selection.selected > 0)))},
        "histogram": _histogram(selection),
        "most_frequent": _examples(corpus, selection, np.lexsort((np.arange(len(kept)), -selection.frequency))),
        "rarest_eligible": _examples(corpus, selection, _rarest(selection, kept)),
    }


def _departures(selection: Selection, rule: Rule, num_selected: int) -> list[str]:
    found = []
    if selection.cap != PAPER_CAP:
        found.append(f"the cap is {selection.cap}; the paper's is {PAPER_CAP}")
    if rule.min_frequency != 3:
        found.append(f"phrases under frequency {rule.min_frequency} are skipped; the paper skips those under 3")
    if selection.filled:
        found.append(f"{selection.filled} captions were drawn from cap {selection.cap + 1} to reach the target")
    if rule.target is not None and num_selected < rule.target:
        found.append(f"the target {rule.target} is out of reach: {selection.eligible} captions have an eligible phrase")
    return found


def _histogram(selection: Selection) -> list[dict[str, int | None]]:
    """Phrases by frequency, before and after. A phrase whose captions were all left out is in no bin after."""
    upper = [edge - 1 for edge in EDGES[1:]] + [None]
    before = np.bincount(np.searchsorted(EDGES, selection.frequency, side="right") - 1, minlength=len(EDGES))
    present = selection.selected[selection.selected > 0]
    after = np.bincount(np.searchsorted(EDGES, present, side="right") - 1, minlength=len(EDGES))
    return [{"from": low, "to": high, "before": int(b), "after": int(a)}
            for low, high, b, a in zip(EDGES, upper, before, after, strict=True)]


def _rarest(selection: Selection, kept: np.ndarray) -> np.ndarray:
    eligible = np.flatnonzero(kept)
    return eligible[np.argsort(selection.frequency[eligible], kind="stable")]


def _examples(corpus: Corpus, selection: Selection, order: np.ndarray) -> list[dict[str, Any]]:
    return [{"phrase": corpus.phrases[i], "frequency": int(selection.frequency[i]),
             "selected": int(selection.selected[i])} for i in order[:EXAMPLES]]


def as_json(report: Mapping[str, Any]) -> str:
    return json.dumps(report, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def as_markdown(report: Mapping[str, Any]) -> str:
    """The same report for a person."""
    counts, rule, captions, phrases = report["counts"], report["rule"], report["captions"], report["phrases"]
    lines = [
        "# Caption selection", "",
        f"Noun phrases by spaCy {rule['spacy_model']}, normalisation `{rule['normalisation']}`; phrases of frequency "
        f"{rule['min_frequency']} and more; at most {rule['cap']} captions a phrase, counting `{rule['counting']}`; "
        f"seed {rule['seed']}.", "",
        *[f"- Departure: {text}." for text in report["departures"]],
        "", "| rows | |", "| --- | ---: |",
        f"| read | {counts['read']:,} |", f"| **selected** | **{counts['selected']:,}** |",
        f"| not selected | {counts['not_selected']:,} |", f"| exact duplicates | {counts['duplicates']:,} |",
        f"| quarantined | {counts['quarantined']:,} |",
        *[f"| · {reason} | {number:,} |" for reason, number in report["quarantined"].items()],
        "",
        f"{phrases['distinct']:,} distinct phrases, {phrases['eligible']:,} eligible, {phrases['over_cap']:,} over the "
        f"cap; {phrases['eligible_and_covered']:,} eligible phrases have a selected caption. "
        f"{captions['with_an_eligible_phrase']:,} captions have an eligible phrase, {captions['without_a_phrase']:,} "
        f"none at all; {captions['phrases_per_caption']} phrases a caption.", "",
        "## Phrases by frequency, before and after", "", "```",
        *_bars(report["histogram"]),
        "```", "",
        *_table("Most frequent", report["most_frequent"]), *_table("Rarest eligible", report["rarest_eligible"]),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _bars(bins: list[dict[str, Any]], width: int = 40) -> list[str]:
    """Bars on a logarithmic scale: the bins span several powers of ten."""
    most = max(max(b["before"], b["after"]) for b in bins)
    lines = []
    for b in bins:
        if not b["before"] and not b["after"]:
            continue
        label = f"{b['from']:,}+" if b["to"] is None else (
            f"{b['from']:,}" if b["from"] == b["to"] else f"{b['from']:,}-{b['to']:,}")
        for name in ("before", "after"):
            length = round(width * np.log1p(b[name]) / np.log1p(most))
            lines.append(f"{label if name == 'before' else '':>16} {name:>6} {'█' * length} {b[name]:,}")
    return lines


def _table(title: str, rows: list[dict[str, Any]]) -> list[str]:
    body = [f"| {r['phrase'].replace('|', chr(92) + '|')} | {r['frequency']:,} | {r['selected']:,} |" for r in rows]
    return [f"## {title}", "", "| phrase | frequency | selected |", "| --- | ---: | ---: |", *body, ""]
