"""A checkpoint exists when it is complete, and only whole ones of the own key are taken."""

from pathlib import Path

import pytest

from pipelines.checkpoints import Checkpoint, adopt, bring, complete, layout_of, newest, upload_files
from pipelines.store import open_store


@pytest.fixture
def store(tmp_path):
    return open_store(f"file://{tmp_path}/store")


def make(store, tmp_path: Path, step: int, *, key="k", layout="none", run="attempts/s/k/g1e1", done=True) -> str:
    folder = tmp_path / f"{run}-{step}".replace("/", "_")
    folder.mkdir(parents=True)
    (folder / "state.bin").write_bytes(bytes([step]) * 100)
    prefix = f"{run}/train/step-{step:08d}"
    files = upload_files(store, folder, prefix)
    if done:
        complete(store, Checkpoint(step=step, key=key, layout=layout, prefix=prefix, files=tuple(files)))
    return prefix


def test_the_newest_complete_one_is_taken(store, tmp_path):
    """Files without their mark are no checkpoint, however new."""
    make(store, tmp_path, 2)
    make(store, tmp_path, 4)
    make(store, tmp_path, 6, done=False)
    found = newest(store, "attempts/s/k/", key="k", layout="none")
    assert found.step == 4
    assert (bring(store, found, tmp_path / "b") / "state.bin").read_bytes() == bytes([4]) * 100


def test_strangers_are_passed_over(store, tmp_path):
    """Another key's or another layout's checkpoint is never taken."""
    make(store, tmp_path, 9, key="other")
    make(store, tmp_path, 8, layout=layout_of("zero2", 4))
    make(store, tmp_path, 3, layout=layout_of("zero2", 2))
    assert newest(store, "attempts/", key="k", layout="zero2x2").step == 3
    assert newest(store, "attempts/", key="k", layout="none") is None


def test_one_with_a_missing_file_is_passed_over(store, tmp_path):
    """A half-deleted checkpoint does not verify; the next older does."""
    make(store, tmp_path, 2)
    prefix = make(store, tmp_path, 4)
    store.delete(f"{prefix}/state.bin")
    assert newest(store, "attempts/", key="k", layout="none").step == 2


def test_adopting_copies_the_newest_whole_one(store, tmp_path):
    """The copy is complete under the new prefix; damaged bytes send the reader to the next older."""
    make(store, tmp_path, 2)
    prefix = make(store, tmp_path, 4, run="attempts/s/k/g1e2")
    (tmp_path / "store" / prefix / "state.bin").write_bytes(b"x" * 100)
    into = "attempts/s/k/g1e3/train"
    taken = adopt(store, ["attempts/s/k/g1e2/", "attempts/s/k/g1e1/"], into, key="k", layout="none",
                  scratch=tmp_path / "scratch")
    assert taken.step == 2 and taken.prefix == f"{into}/step-00000002"
    assert newest(store, into, key="k", layout="none") == taken
    assert adopt(store, ["attempts/none/"], into, key="k", layout="none", scratch=tmp_path / "scratch") is None
