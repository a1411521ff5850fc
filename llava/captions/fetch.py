"""From rows with URLs to pictures: each row ends in exactly one outcome, and a picture in each that has no problem."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llava.captions.download import Download, Limits, download_all
from llava.captions.pictures import Picture, PictureRules, Problem, examine


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of a row. problem: None when its picture was stored. status: the last HTTP status, if any.

    sha256, num_bytes: of the bytes as fetched. width, height: in pixels, as fetched. None where there is no picture.
    """

    row: int
    problem: Problem | None
    status: int | None
    sha256: str | None = None
    num_bytes: int | None = None
    width: int | None = None
    height: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {"row": self.row, "problem": self.problem.value if self.problem else None, "status": self.status,
                "sha256": self.sha256, "num_bytes": self.num_bytes, "width": self.width, "height": self.height}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Outcome:
        return cls(**{**raw, "problem": Problem(raw["problem"]) if raw["problem"] else None})


def fetch_pictures(rows: Sequence[int], urls: Sequence[str], limits: Limits,
                   rules: PictureRules) -> tuple[list[Outcome], dict[int, bytes]]:
    """Outcomes in the order of the rows, and the bytes to store by row. Rows that share a URL cost one download."""
    async def use(_url: str, download: Download) -> tuple[Download, Picture | Problem, str | None]:
        if download.body is None:
            return download, download.problem or Problem.UNREACHABLE, None
        found = await asyncio.to_thread(examine, download.body, rules)
        return Download(status=download.status), found, hashlib.sha256(download.body).hexdigest()

    by_url = asyncio.run(download_all(urls, limits, use))
    outcomes, pictures = [], {}
    for row, url in zip(rows, urls, strict=True):
        download, found, sha256 = by_url[url]
        if isinstance(found, Problem):
            outcomes.append(Outcome(row=row, problem=found, status=download.status))
        else:
            outcomes.append(Outcome(row=row, problem=None, status=download.status, sha256=sha256,
                                    num_bytes=found.num_bytes, width=found.width, height=found.height))
            pictures[row] = found.body
    return outcomes, pictures


def is_outage(outcomes: Sequence[Outcome], least: int = 10) -> bool:
    """Whether nothing could be reached at all: the network or the one server that holds all pictures is down.

    least: outcomes under which nothing is concluded; a few rows may well be dead links only.
    """
    return len(outcomes) >= least and all(o.problem is not None and o.problem.connection for o in outcomes)


def confirm(recorded: Sequence[Outcome], again: Sequence[Outcome],
            pictures: Mapping[int, bytes]) -> tuple[list[Outcome], dict[int, bytes]]:
    """Rows fetched anew because their stored bytes are gone: the record stands, and only equal bytes are taken.

    A row whose picture is not the recorded one any more ends in ``changed``; one that was recorded as a failure
    stays that, though it may answer now.
    """
    outcomes, kept = [], {}
    for old, new in zip(recorded, again, strict=True):
        if old.problem is not None:
            outcomes.append(old)
        elif new.sha256 == old.sha256:
            outcomes.append(old)
            kept[old.row] = pictures[old.row]
        else:
            outcomes.append(Outcome(row=old.row, problem=Problem.CHANGED, status=new.status))
    return outcomes, kept
