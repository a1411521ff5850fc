"""Pictures by name: what is read back is byte for byte what was stored, or an error that names the picture.

Pictures lie in shards (parquet files with the columns name, bytes, sha256, sorted by name) or as plain files in a
folder. Small files are slow to list and fetch from object storage, shards are not; readers see no difference. A shard
is cut by the order of names alone, so the same pictures always give the same files.
"""

from __future__ import annotations

import hashlib
import io
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

SCHEMA = pa.schema([("name", pa.string()), ("bytes", pa.binary()), ("sha256", pa.string())])
ROWS_PER_GROUP = 32  # what one random read costs: about 1 MB of Conceptual Captions pictures
MAX_PIXELS = 64_000_000  # a picture above this is refused instead of filling the memory
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp"})


class BadImage(ValueError):
    """Bytes that are no usable picture. The message says why, without the picture's name."""


class MissingImage(KeyError):
    """No picture of that name. The message names the picture and where it was looked for."""

    def __str__(self) -> str:
        return str(self.args[0])


def decode_image(body: bytes) -> Image.Image:
    """The picture as RGB, fully decoded. Raises BadImage for anything cut off, damaged, huge or not a picture."""
    try:
        picture = Image.open(io.BytesIO(body))
        if picture.width * picture.height > MAX_PIXELS:
            raise BadImage(f"{picture.width}x{picture.height} is more than {MAX_PIXELS} pixels")
        return picture.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, BadImage):
            raise
        raise BadImage(f"not a readable picture: {error}") from error


def write_image_shards(rows: Iterable[tuple[str, bytes]], folder: Path, rows_per_shard: int = 512) -> int:
    """Write ``part-00000.parquet`` and so on; returns how many pictures were written.

    rows: (name, bytes) in ascending order of name, each name once, so that a corpus larger than memory can be
    streamed; anything else raises ValueError naming the row.
    """
    folder.mkdir(parents=True, exist_ok=True)
    num_written, last, shard, rows_in_shard = 0, None, [], 0
    for name, body in rows:
        if last is not None and name <= last:
            raise ValueError(f"picture {name!r} after {last!r}: give each picture once, sorted by name")
        last = name
        shard.append({"name": name, "bytes": body, "sha256": hashlib.sha256(body).hexdigest()})
        rows_in_shard += 1
        if rows_in_shard == rows_per_shard:
            _write_shard(shard, folder / f"part-{num_written // rows_per_shard:05d}.parquet")
            num_written, shard, rows_in_shard = num_written + rows_in_shard, [], 0
    if shard or num_written == 0:  # an empty set of pictures is a shard without rows, not a missing folder
        _write_shard(shard, folder / f"part-{num_written // rows_per_shard:05d}.parquet")
    return num_written + rows_in_shard


def _write_shard(rows: list[dict], path: Path) -> None:
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    pq.write_table(table, path, compression="none", use_dictionary=False, write_statistics=False,
                   row_group_size=ROWS_PER_GROUP)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a picture lies: a plain file, or a row of a row group of a shard."""

    file: Path
    group: int = -1
    row: int = -1


class ImageStore(Mapping[str, bytes]):
    """Read-only pictures by name. Names of plain files are their paths relative to the folder."""

    def __init__(self, folder: Path, places: dict[str, _Place]) -> None:
        self.folder = folder
        self._places = places
        self._groups: OrderedDict[tuple[Path, int], pa.Table] = OrderedDict()

    @classmethod
    def open(cls, folder: Path | str) -> ImageStore:
        """Raises FileNotFoundError for a missing folder and ValueError for shards that hold a name twice."""
        folder = Path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder of pictures at {folder}")
        shards = sorted(folder.glob("part-*.parquet"))
        places: dict[str, _Place] = {}
        for shard in shards:
            file = pq.ParquetFile(shard)
            for group in range(file.num_row_groups):
                for row, name in enumerate(file.read_row_group(group, columns=["name"])["name"].to_pylist()):
                    if name in places:
                        raise ValueError(f"{shard}: picture {name!r} is also in {places[name].file.name}")
                    places[name] = _Place(shard, group, row)
        if not shards:
            for file in sorted(folder.rglob("*")):
                if file.suffix.lower() in SUFFIXES and file.is_file():
                    places[file.relative_to(folder).as_posix()] = _Place(file)
        return cls(folder, places)

    def __getitem__(self, name: str) -> bytes:
        place = self._places.get(name)
        if place is None:
            raise MissingImage(f"no picture {name!r} in {self.folder} ({len(self._places)} pictures)")
        if place.group < 0:
            return place.file.read_bytes()
        table = self._group(place.file, place.group)
        body = table["bytes"][place.row].as_py()
        if hashlib.sha256(body).hexdigest() != table["sha256"][place.row].as_py():
            raise BadImage(f"picture {name!r} in {place.file} does not match its checksum: the shard is damaged")
        return body

    def _group(self, file: Path, group: int) -> pa.Table:
        """The row group, kept with the few last used, so that reading in order costs one read a group."""
        key = (file, group)
        if key not in self._groups:
            self._groups[key] = pq.ParquetFile(file).read_row_group(group)
            while len(self._groups) > 8:
                self._groups.popitem(last=False)
        self._groups.move_to_end(key)
        return self._groups[key]

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
