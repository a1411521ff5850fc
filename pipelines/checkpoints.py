"""Training checkpoints: one exists once its ``COMPLETE.json`` has been created, last, and verifies.

``COMPLETE.json`` names every file with its checksum, the step, the key and the layout (sharding, number of ranks) that
the files fit. A reader takes the newest that verifies, else the next older, of its own key and generation only, and
copies it into its own namespace before it trains: nothing that another attempt may still write is trained from.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.schema import read_json
from pipelines.store import Damaged, FileEntry

if TYPE_CHECKING:
    from pipelines.store import ObjectStore

SCHEMA = 1
COMPLETE = "COMPLETE.json"
PARALLEL = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """step: optimizer steps taken. prefix: where the files lie. files: named relative to it. layout: what they fit."""

    step: int
    key: str
    layout: str
    prefix: str
    files: tuple[FileEntry, ...]


def layout_of(sharding: str, num_workers: int) -> str:
    """Plain data parallel fits any number of ranks; sharded state fits the number it was cut for."""
    return sharding if sharding == "none" else f"{sharding}x{num_workers}"


def upload_files(store: ObjectStore, folder: Path, prefix: str) -> list[FileEntry]:
    """Bring one rank's files in; entries are named relative to the prefix."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file())

    def bring(path: Path) -> FileEntry:
        name = path.relative_to(folder).as_posix()
        entry = store.upload(path, f"{prefix}/{name}")
        return FileEntry(name=name, size=entry.size, sha256=entry.sha256)

    with ThreadPoolExecutor(PARALLEL, thread_name_prefix="checkpoint") as pool:
        return list(pool.map(bring, paths))


def complete(store: ObjectStore, checkpoint: Checkpoint) -> None:
    """Make it exist. Called once every rank's files are stored."""
    body = {"schema": SCHEMA, "step": checkpoint.step, "key": checkpoint.key, "layout": checkpoint.layout,
            "files": [asdict(f) for f in sorted(checkpoint.files, key=lambda f: f.name)]}
    store.create(f"{checkpoint.prefix}/{COMPLETE}", json.dumps(body, indent=1, sort_keys=True).encode())


def whole_ones(store: ObjectStore, prefix: str, *, key: str, layout: str) -> Iterator[Checkpoint]:
    """Every checkpoint under the prefix that is whole, of this key and of this layout, newest first."""
    marks = [info.key for info in store.list(prefix) if info.key.endswith(f"/{COMPLETE}")]
    found = [c for mark in marks if (c := _read(store, mark)) and c.key == key and c.layout == layout]
    for checkpoint in sorted(found, key=lambda c: (c.step, c.prefix), reverse=True):
        if _is_whole(store, checkpoint):
            yield checkpoint


def newest(store: ObjectStore, prefix: str, *, key: str, layout: str) -> Checkpoint | None:
    return next(whole_ones(store, prefix, key=key, layout=layout), None)


def _read(store: ObjectStore, mark: str) -> Checkpoint | None:
    stored = store.get(mark)
    if stored is None:
        return None
    raw = read_json(stored.body, SCHEMA, f"the checkpoint {mark}")
    return Checkpoint(step=raw["step"], key=raw["key"], layout=raw["layout"], prefix=mark.removesuffix(f"/{COMPLETE}"),
                      files=tuple(FileEntry(**f) for f in raw["files"]))


def _is_whole(store: ObjectStore, checkpoint: Checkpoint) -> bool:
    """Every file is there with its size and stored checksum; their bytes are checked when they are brought."""
    heads = ((file, store.head(f"{checkpoint.prefix}/{file.name}")) for file in checkpoint.files)
    return all(head is not None and (head.size, head.sha256) == (file.size, file.sha256) for file, head in heads)


def bring(store: ObjectStore, checkpoint: Checkpoint, folder: Path) -> Path:
    """All its files to a folder, each checked. Raises pipelines.store.Damaged."""
    def one(file: FileEntry) -> None:
        target = folder / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        store.download(f"{checkpoint.prefix}/{file.name}", target, file.sha256)

    with ThreadPoolExecutor(PARALLEL, thread_name_prefix="checkpoint") as pool:
        list(pool.map(one, checkpoint.files))
    return folder


def adopt(store: ObjectStore, prefixes: Iterable[str], into: str, *, key: str, layout: str, scratch: Path
          ) -> Checkpoint | None:
    """Copy the newest checkpoint found under the prefixes into a run's own; None when there is none.

    One whose bytes turn out damaged is passed over for the next older.
    """
    candidates = [c for prefix in prefixes for c in whole_ones(store, prefix, key=key, layout=layout)]
    for found in sorted(candidates, key=lambda c: c.step, reverse=True):
        folder = scratch / "adopted"
        try:
            bring(store, found, folder)
            copy = Checkpoint(step=found.step, key=key, layout=layout, prefix=f"{into}/step-{found.step:08d}",
                              files=tuple(upload_files(store, folder, f"{into}/step-{found.step:08d}")))
        except Damaged:
            continue
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        complete(store, copy)
        return copy
    return None
