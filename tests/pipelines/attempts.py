"""One attempt at a toy artifact in a process of its own, so that it can be killed, stopped and raced.

    python -m tests.pipelines.attempts STORE KEY GENERATION EPOCH FOLDER [TTL_S]

It claims the epoch, publishes ``number.txt`` and a larger file, and prints ``committed`` or ``lost``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pipelines import artifact, record
from pipelines.artifact import Manifest
from pipelines.store import ObjectStore, open_store

STEP = "toy"
ROOT = Path(__file__).resolve().parents[2]


def attempt(store: ObjectStore, key: str, generation: int, epoch: int, folder: Path, ttl_s: float) -> None:
    with record.Holder(store, STEP, key, generation=generation, epoch=epoch, ttl_s=ttl_s,
                       place={"pid": os.getpid()}) as holder:
        (folder / "number.txt").write_text("42\n")
        (folder / "large.bin").write_bytes(b"x" * 100_000)
        prefix = record.attempt_prefix(STEP, key, generation, epoch)
        files = artifact.publish_files(store, folder, prefix, progress=lambda *_: holder.check())
        manifest = Manifest(step=STEP, key=key, generation=generation, epoch=epoch, files=files,
                            values={"number": 42}, prefix=prefix, producer={"pid": os.getpid()})
        holder.publish(artifact.write_manifest(store, manifest), manifest.digest)


def start(uri: str, key: str, generation: int, epoch: int, folder: Path, *, ttl_s: float = 30.0,
          environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.pipelines.attempts", uri, key, str(generation), str(epoch), str(folder),
               str(ttl_s)]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, **(environment or {})}, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def visible(store: ObjectStore, key: str) -> str | None:
    """What a reader gets: the digest of a whole, verified artifact, or None."""
    seen = record.read(store, STEP, key)
    if seen is None or seen.record.state is not record.State.COMMITTED:
        return None
    manifest = artifact.load_manifest(store, seen.record)
    with tempfile.TemporaryDirectory() as cache:
        folder = artifact.materialise(store, manifest, Path(cache))
        assert (folder / "number.txt").read_text() == "42\n"
        assert (folder / "large.bin").stat().st_size == 100_000
    return manifest.digest


if __name__ == "__main__":
    uri, key, generation, epoch, folder, ttl = sys.argv[1:]
    try:
        attempt(open_store(uri, wait_s=20), key, int(generation), int(epoch), Path(folder), float(ttl))
        print("committed")
    except record.AttemptLost as lost:
        print("lost", lost)
