"""The fetched set: its files in the published schema, and a report whose counts add up to the selection."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from llava.captions.chat import chat_record, metadata_record
from llava.captions.fetch import Outcome

MOST = 10  # hosts that are named in the report


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """A selected caption. row: its line in the corpus. id: hex of its identity."""

    row: int
    id: str
    caption: str
    url: str


def summarise(wanted: Sequence[Wanted], outcomes: Mapping[int, Outcome], size: int | None) -> dict[str, Any]:
    """The report as JSON. size: as in PictureRules. Raises ValueError if a selected row has not one outcome."""
    if len(outcomes) != len(wanted) or any(w.row not in outcomes for w in wanted):
        raise ValueError(f"rows are unaccounted for: {len(wanted)} selected, {len(outcomes)} outcomes")
    stored = [o for o in outcomes.values() if o.problem is None]
    problems = Counter(o.problem.value for o in outcomes.values() if o.problem)
    hosts = Counter(urlsplit(w.url).hostname or "" for w in wanted if outcomes[w.row].problem)
    statuses = Counter(str(o.status) for o in outcomes.values() if o.problem)
    copies = Counter(o.sha256 for o in stored)
    return {
        "counts": {"selected": len(wanted), "stored": len(stored), "failed": problems.total()},
        "kept": "as fetched" if size is None else f"scaled down to a shortest side of {size} pixels, as PNG",
        "failed": dict(sorted(problems.items())),
        "failed_by_status": dict(sorted(statuses.items())),
        "hosts_that_failed_most": [{"host": h, "failed": n} for h, n in
                                   sorted(hosts.items(), key=lambda i: (-i[1], i[0]))[:MOST]],
        "pictures": {"distinct": len(copies), "exact_copies": len(stored) - len(copies),
                     "bytes": sum(o.num_bytes or 0 for o in stored),
                     "smallest_side": min((min(o.width or 0, o.height or 0) for o in stored), default=0),
                     "largest_side": max((max(o.width or 0, o.height or 0) for o in stored), default=0)},
    }


def as_markdown(report: Mapping[str, Any]) -> str:
    """The same report for a person."""
    counts, pictures = report["counts"], report["pictures"]
    share = counts["stored"] / counts["selected"]
    lines = [
        "# Pictures", "",
        f"{share:.1%} of the selected captions have their picture. Pictures are kept {report['kept']}.", "",
        "| rows | |", "| --- | ---: |",
        f"| selected | {counts['selected']:,} |", f"| **stored** | **{counts['stored']:,}** |",
        f"| failed | {counts['failed']:,} |",
        *[f"| · {reason} | {number:,} |" for reason, number in report["failed"].items()], "",
        f"{pictures['distinct']:,} distinct pictures, {pictures['exact_copies']:,} exact copies, "
        f"{pictures['bytes'] / 1e6:,.1f} MB as fetched; sides from {pictures['smallest_side']:,} to "
        f"{pictures['largest_side']:,} pixels.", "",
        "## Hosts that failed most", "", "| host | rows |", "| --- | ---: |",
        *[f"| {h['host']} | {h['failed']:,} |" for h in report["hosts_that_failed_most"]],
    ]
    return "\n".join(lines) + "\n"


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """``report.json`` and ``report.md``."""
    (folder / "report.json").write_text(json.dumps(report, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    (folder / "report.md").write_text(as_markdown(report))


def write_records(folder: Path, wanted: Sequence[Wanted], outcomes: Mapping[int, Outcome], seed: int) -> None:
    """``chat.json`` and ``metadata.json`` of the stored rows, ``quarantine.parquet`` of the others; wanted by row."""
    stored = [w for w in wanted if outcomes[w.row].problem is None]
    _write_list(folder / "chat.json", (chat_record(w.row, w.caption, w.id, seed) for w in stored))
    _write_list(folder / "metadata.json", (metadata_record(w.row, w.caption, w.url) for w in stored))
    _write_quarantine(folder / "quarantine.parquet", wanted, outcomes)


def _write_list(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """A JSON list with a record a line, written as it comes."""
    with open(path, "w", encoding="utf-8") as file:
        file.write("[")
        for i, record in enumerate(records):
            file.write(("" if i == 0 else ",") + "\n" + json.dumps(record, ensure_ascii=False))
        file.write("\n]\n")


def _write_quarantine(path: Path, wanted: Sequence[Wanted], outcomes: Mapping[int, Outcome]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("row", pa.int64()), ("url", pa.string()), ("reason", pa.string()), ("status", pa.int32())])
    rows = [{"row": w.row, "url": w.url, "reason": problem.value, "status": outcomes[w.row].status}
            for w in wanted if (problem := outcomes[w.row].problem)]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, compression="zstd")
