"""fetch_images: the pictures of the selected captions, every one stored or quarantined with a reason, asked for once.

Rows are fetched in units cut by row number. A finished unit's pictures lie in the attempt's own namespace before its
outcomes are recorded as one observation, which is final. So a rerun, after a kill at any instant, asks only for units
without a record, and gives the same files. A unit of which nothing could be reached is an outage: it is not recorded,
and stops the step as a failure of infrastructure.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import Field

from pipelines.stage import BadInput, Result, RunSettings, Stage, StageContext, StepConfig

if TYPE_CHECKING:
    import pyarrow as pa

    from llava.captions.download import Limits
    from llava.captions.fetch import Outcome
    from llava.captions.pairs import Wanted
    from llava.captions.pictures import PictureRules


class FetchRun(RunSettings):
    """How hard to try. Never in the key: an outcome, once recorded, is final."""

    num_workers: int = Field(default=2, ge=1)
    cpus_per_worker: float = Field(default=0.5, ge=0)
    request_timeout_s: float = Field(default=20.0, gt=0, description="for one URL, redirects included")
    request_retries: int = Field(default=2, ge=0, description="further tries of a URL that may heal")
    connections: int = Field(default=64, ge=1, description="at once, in each worker")
    connections_per_host: int = Field(default=8, ge=1, description="at once to one host, in each worker")


class Config(StepConfig):
    """Which pictures are good enough, and how they are kept."""

    run: FetchRun = FetchRun()  # pyright: ignore[reportIncompatibleVariableOverride]
    size: int | None = Field(default=None, ge=16, description="shortest side to scale down to, kept as PNG; "
                                                              "null keeps the bytes as fetched")
    min_side: int = Field(default=16, ge=1, description="pixels of the shortest side under which a picture is refused")
    max_bytes: int = Field(default=20_000_000, ge=1)
    max_pixels: int = Field(default=64_000_000, ge=1, description="width times height, by the header")
    max_failed_fraction: float = Field(default=0.5, ge=0, le=1, description="above it the step fails")
    allow_private_hosts: tuple[str, ...] = Field(default=(), description="hosts that may be on loopback or private")
    rows_per_shard: int = Field(default=1000, ge=1, description="lines of the corpus that one shard covers")


def read_selected(folder: Path) -> list[Wanted]:
    """All selected captions, ascending by row. Raises BadInput when there are none."""
    import pyarrow.parquet as pq

    from llava.captions.pairs import Wanted

    wanted = [Wanted(**row) for part in sorted((folder / "selected").glob("part-*.parquet"))
              for row in pq.read_table(part, columns=["row", "id", "caption", "url"]).to_pylist()]
    if not wanted:
        raise BadInput("no caption was selected, so there is no picture to fetch: lower select_captions.min_frequency, "
                       "or give select_captions.source more captions")
    return sorted(wanted, key=lambda w: w.row)


def fetch_units(units: pa.Table, limits: Limits, rules: PictureRules) -> pa.Table:
    """The work of one Ray Data task. unit, rows, urls in; unit, outcomes and the shard's bytes (or null) out."""
    import json

    import pyarrow as pa

    from llava.captions.fetch import fetch_pictures

    outcomes, shards = [], []
    for unit in units.to_pylist():
        found, pictures = fetch_pictures(unit["rows"], unit["urls"], limits, rules)
        outcomes.append(json.dumps([o.to_json() for o in found]))
        shards.append(shard_bytes(pictures))
    return pa.table({"unit": units["unit"], "outcomes": pa.array(outcomes, pa.large_string()),
                     "shard": pa.array(shards, pa.large_binary())})


def shard_bytes(pictures: Mapping[int, bytes]) -> bytes | None:
    """One image shard of the pictures by row; None when there are none."""
    import tempfile

    from llava.captions.chat import image_name
    from llava.images import write_image_shards

    if not pictures:
        return None
    with tempfile.TemporaryDirectory() as folder:
        write_image_shards([(image_name(row), pictures[row]) for row in sorted(pictures)], Path(folder),
                           rows_per_shard=len(pictures) + 1)
        return (Path(folder) / "part-00000.parquet").read_bytes()


class Units:
    """The units of a step, each with its recorded outcomes and its shard in the folder once ``run`` returns."""

    def __init__(self, ctx: StageContext, wanted: list[Wanted], folder: Path) -> None:
        self.ctx = ctx
        self.folder = folder
        self.rows = {unit: list(rows) for unit, rows in
                     itertools.groupby(wanted, key=lambda w: w.row // ctx.config.rows_per_shard)}
        self.outcomes: dict[int, Outcome] = {}
        self.num_changed = 0

    def run(self) -> None:
        """Take every unit from its record where there is one, and fetch the others."""
        missing = {}
        for unit in self.rows:
            record = self.ctx.observations.get(_name(unit))
            if record is None or not self._restore(unit, record):
                missing[unit] = record
        for unit, outcomes, shard in self._fetched(list(missing)):
            if missing[unit] is None:
                self._record(unit, outcomes, shard)
            else:
                self._confirm(unit, missing[unit], outcomes, shard)

    def _restore(self, unit: int, record: Mapping[str, Any]) -> bool:
        """Take a recorded unit. False when its pictures are no longer in the store as they were."""
        from llava.captions.fetch import Outcome
        from pipelines.store import Damaged

        if (shard := record["shard"]) is not None:
            try:
                self.ctx.store.download(shard["key"], self._path(unit), sha256=shard["sha256"])
            except Damaged:
                return False
        self._take([Outcome.from_json(o) for o in record["outcomes"]])
        return True

    def _record(self, unit: int, outcomes: list[Outcome], shard: bytes | None) -> None:
        """Store the pictures, then record the outcomes. A record that another attempt made meanwhile wins."""
        from llava.captions.fetch import is_outage

        if is_outage(outcomes):
            raise ConnectionError(_outage(self.rows[unit], outcomes))
        place = None
        if shard is not None:
            self._path(unit).write_bytes(shard)
            key = f"{self.ctx.attempt_prefix}/fetched/{_name(unit)}.parquet"
            place = {"key": key, "sha256": self.ctx.store.upload(self._path(unit), key).sha256}
        mine = {"outcomes": [o.to_json() for o in outcomes], "shard": place}
        final = self.ctx.observations.record(_name(unit), mine)
        if final == mine:
            self._take(outcomes)
        else:
            self._path(unit).unlink(missing_ok=True)
            if not self._restore(unit, final):
                raise ConnectionError(f"the pictures of {_name(unit)}, which another attempt recorded, are gone")

    def _confirm(self, unit: int, record: Mapping[str, Any], outcomes: list[Outcome], shard: bytes | None) -> None:
        """A recorded unit whose pictures are gone: what was fetched anew counts where it equals the record."""
        import io

        import pyarrow.parquet as pq

        from llava.captions.chat import image_name
        from llava.captions.fetch import Outcome, confirm

        bodies = {r["name"]: r["bytes"] for r in pq.read_table(io.BytesIO(shard)).to_pylist()} if shard else {}
        old = [Outcome.from_json(o) for o in record["outcomes"]]
        final, kept = confirm(old, outcomes, {o.row: bodies[image_name(o.row)] for o in outcomes if not o.problem})
        self.num_changed += sum(a != b for a, b in zip(old, final, strict=True))
        if (body := shard_bytes(kept)) is not None:
            self._path(unit).write_bytes(body)
        self._take(final)

    def _fetched(self, units: list[int]) -> Iterator[tuple[int, list[Outcome], bytes | None]]:
        """Units as they come in, fetched by Ray Data."""
        if not units:
            return
        import json

        import pyarrow as pa
        import ray.data

        from llava.captions.fetch import Outcome

        config: Config = self.ctx.config
        blocks = [pa.table({"unit": [u], "rows": [[w.row for w in self.rows[u]]],
                            "urls": [[w.url for w in self.rows[u]]]}) for u in units]
        ray.data.DataContext.get_current().enable_progress_bars = False  # the step reports its own
        dataset = ray.data.from_arrow(blocks).map_batches(
            partial(fetch_units, limits=_limits(config), rules=_rules(config)), batch_size=1, batch_format="pyarrow",
            num_cpus=config.run.cpus_per_worker,
            compute=ray.data.TaskPoolStrategy(size=min(config.run.num_workers, len(units))))
        for row in dataset.iter_rows():
            yield row["unit"], [Outcome.from_json(o) for o in json.loads(row["outcomes"])], row["shard"]

    def _take(self, outcomes: list[Outcome]) -> None:
        self.outcomes |= {o.row: o for o in outcomes}
        self.ctx.progress(len(self.outcomes), sum(map(len, self.rows.values())), "pictures")

    def _path(self, unit: int) -> Path:
        return self.folder / f"part-{unit:05d}.parquet"


def _name(unit: int) -> str:
    return f"unit-{unit:05d}"


def _rules(config: Config) -> PictureRules:
    from llava.captions.pictures import PictureRules

    return PictureRules(size=config.size, min_side=config.min_side, max_pixels=config.max_pixels)


def _limits(config: Config) -> Limits:
    from llava.captions.download import Limits

    return Limits(max_bytes=config.max_bytes, timeout_s=config.run.request_timeout_s,
                  retries=config.run.request_retries, connections=config.run.connections,
                  connections_per_host=config.run.connections_per_host,
                  allow_private_hosts=frozenset(config.allow_private_hosts))


def _outage(rows: list[Wanted], outcomes: list[Outcome]) -> str:
    reasons = ", ".join(f"{n} {r}" for r, n in Counter(o.problem.value for o in outcomes if o.problem).most_common())
    hosts = ", ".join(h for h, _ in Counter(urlsplit(w.url).netloc for w in rows).most_common(3))
    return (f"none of {len(rows)} pictures could be reached ({reasons}; {hosts}): the network or the picture server is "
            f"down. Nothing of them was recorded; see that it answers and run again")


def _check_failures(config: Config, report: Mapping[str, Any]) -> None:
    counts = report["counts"]
    reasons = ", ".join(f"{n} {r}" for r, n in sorted(report["failed"].items(), key=lambda i: (-i[1], i[0])))
    if not counts["stored"] or counts["failed"] > config.max_failed_fraction * counts["selected"]:
        raise BadInput(f"{counts['failed']} of {counts['selected']} pictures could not be had ({reasons}); at most the "
                       f"fraction {config.max_failed_fraction} may fail. The outcomes are recorded: mend the source "
                       f"or the limits of fetch_images, or raise fetch_images.max_failed_fraction")


def run(ctx: StageContext) -> Result:
    """Fetch, then write the set. Raises BadInput when more than ``max_failed_fraction`` of the rows gave no picture."""
    from llava.captions.pairs import summarise, write_records, write_report

    wanted = read_selected(ctx.input("captions").folder())
    images = ctx.out / "images"
    images.mkdir(parents=True, exist_ok=True)
    units = Units(ctx, wanted, images)
    units.run()
    report = summarise(wanted, units.outcomes, ctx.config.size)
    _check_failures(ctx.config, report)
    write_records(ctx.out, wanted, units.outcomes, ctx.seed)
    write_report(ctx.out, report)
    return Result(values={"counts": report["counts"], "failed": report["failed"]},
                  metrics={**{f"pictures_{k}": float(v) for k, v in report["counts"].items()},
                           "pictures_changed": float(units.num_changed)})


def import_output(given: Path, out: Path, config: Config) -> Result:
    """Pictures with captions that exist already: ``chat.json`` and ``images/`` (files or shards), as published.

    Raises BadInput naming the first row that breaks the schema, or whose picture is missing.
    """
    import shutil

    from llava.conversations import BadConversations, read_samples
    from llava.images import ImageStore, write_image_shards

    try:
        samples, violations = read_samples(given / "chat.json")
        images = ImageStore.open(given / "images")
    except (BadConversations, FileNotFoundError, ValueError) as error:
        raise BadInput(f"{given} must hold chat.json and images/: {error}") from None
    if violations or not samples:
        raise BadInput(f"{given}/chat.json has {len(samples)} usable rows and {len(violations)} that break the schema"
                       + (f", first {violations[0]}" if violations else ""))
    missing = [name for s in samples for name in s.images if name not in images]
    if missing:
        raise BadInput(f"{len(missing)} pictures that {given}/chat.json names are not in {images.folder}, "
                       f"first {missing[0]}")
    named = sorted({name for s in samples for name in s.images})
    write_image_shards(((name, images[name]) for name in named), out / "images", config.rows_per_shard)
    for name in ("chat.json", "metadata.json"):
        if (given / name).is_file():
            shutil.copyfile(given / name, out / name)
    return Result(values={"counts": {"selected": len(samples), "stored": len(samples), "failed": 0}})


STAGE = Stage(
    name="fetch_images",
    config=Config,
    inputs=("captions",),
    run=run,
    import_output=import_output,
    libraries=("pillow", "pyarrow", "aiohttp"),
)
