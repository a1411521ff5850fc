"""Artifacts: published whole, known by content, never handed out altered."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from pipelines import artifact, record
from pipelines.artifact import Damaged, FileEntry, Manifest
from pipelines.stage import BadInput
from pipelines.store import open_store

FILES = {"a.txt": b"alpha", "deep/er/b.bin": b"\0" * 1000, "empty": b""}


@pytest.fixture(params=["s3", "directory"])
def store(request, tmp_path):
    if request.param == "s3":
        return open_store(request.getfixturevalue("store_uri"), wait_s=20)
    return open_store(f"file://{tmp_path}/store")


def publish(store, tmp_path, files=FILES, **options):
    """A committed artifact; returns its record."""
    folder = tmp_path / "out"
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    seen = record.reserve(store, "s", "k", cluster="c")
    with record.Holder(store, "s", "k", generation=1, epoch=1) as holder:
        entries = artifact.publish_files(store, folder, seen.record.prefix, **options)
        manifest = Manifest(step="s", key="k", generation=1, epoch=1, files=entries, values={"n": 3, "x": 0.1},
                            prefix=seen.record.prefix, producer={"took_s": 1.5})
        return holder.publish(artifact.write_manifest(store, manifest), manifest.digest)


def test_what_was_published_is_read_back(store, tmp_path):
    manifest = artifact.load_manifest(store, publish(store, tmp_path))
    assert [f.name for f in manifest.files] == sorted(FILES)
    assert (manifest.values, manifest.producer, manifest.size) == ({"n": 3, "x": 0.1}, {"took_s": 1.5}, 1005)
    folder = artifact.materialise(store, manifest, tmp_path / "cache")
    assert {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == FILES
    assert artifact.check_present(store, manifest) == artifact.verify(store, manifest) == []


def test_stored_names_are_relative(store, tmp_path):
    published = publish(store, tmp_path)
    body = store.get(published.manifest).body.decode()
    assert "://" not in body and "attempts/" not in body and str(tmp_path) not in body


def test_the_digest_is_of_content_alone(tmp_path):
    entries = [FileEntry(name="a", size=1, sha256="1"), FileEntry(name="b", size=2, sha256="2")]
    digest = artifact.content_digest(entries, {"v": [1, {"x": 2.0}]})
    assert artifact.content_digest(reversed(entries), {"v": [1, {"x": 2.0}]}) == digest
    made = {"files": tuple(entries), "values": {"v": [1, {"x": 2.0}]}, "step": "s", "key": "k", "generation": 1,
            "epoch": 1, "prefix": "p"}
    assert Manifest(**made).digest == Manifest(**made | {"epoch": 7, "key": "q", "producer": {"t": 1}}).digest == digest
    for other in ([replace(entries[0], name="c"), entries[1]], [replace(entries[0], size=9), entries[1]],
                  [replace(entries[0], sha256="9"), entries[1]], entries[:1]):
        assert artifact.content_digest(other, {"v": [1, {"x": 2.0}]}) != digest
    assert artifact.content_digest(entries, {"v": [1, {"x": 2.5}]}) != digest
    with pytest.raises(ValueError, match=r"values\.v is nan"):
        artifact.content_digest(entries, {"v": float("nan")})


@pytest.mark.parametrize(("harm", "found", "bytes_found"), [
    (lambda s, key: s.delete(key), "is missing", "is missing"),
    (lambda s, key: s.put(key, b"x"), "has 1 bytes, not 5", "holds other bytes"),
    (lambda s, key: s.put(key, b"ALPHA"), "was altered", "holds other bytes"),
])
def test_harm_to_a_file_is_seen_and_named(store, tmp_path, harm, found, bytes_found):
    manifest = artifact.load_manifest(store, publish(store, tmp_path))
    harm(store, manifest.at(manifest.files[0]))
    [problem] = artifact.check_present(store, manifest)
    assert problem.startswith("a.txt ") and found in problem
    [problem] = artifact.verify(store, manifest)
    assert problem.startswith("a.txt ") and bytes_found in problem
    with pytest.raises(Damaged, match=r"files/a\.txt"):
        artifact.materialise(store, manifest, tmp_path / "cache")


def test_a_manifest_that_is_not_the_committed_one_is_refused(store, tmp_path):
    published = publish(store, tmp_path)
    manifest = artifact.load_manifest(store, published)
    store.put(published.manifest, replace(manifest, values={"n": 4}).to_json())
    with pytest.raises(Damaged, match="content digest"):
        artifact.load_manifest(store, published)
    store.put(published.manifest, b"{")
    with pytest.raises(Damaged, match="cannot be read"):
        artifact.load_manifest(store, published)
    store.put(published.manifest, manifest.to_json().replace(b'"schema": 1', b'"schema": 2'))
    with pytest.raises(BadInput, match="newer code"):
        artifact.load_manifest(store, published)
    store.delete(published.manifest)
    with pytest.raises(Damaged, match="is missing"):
        artifact.load_manifest(store, published)


def test_only_the_named_files_are_brought(store, tmp_path):
    manifest = artifact.load_manifest(store, publish(store, tmp_path))
    folder = artifact.materialise(store, manifest, tmp_path / "cache", ["deep/er/b.bin"])
    assert [p.name for p in folder.rglob("*") if p.is_file()] == ["b.bin"]
    with pytest.raises(Damaged, match="has no nothing"):
        artifact.materialise(store, manifest, tmp_path / "cache", ["nothing"])


def test_the_cache_mends_itself(store, tmp_path):
    """Bytes that were altered, removed or added in the local folder never reach a reader."""
    manifest = artifact.load_manifest(store, publish(store, tmp_path))
    folder = artifact.materialise(store, manifest, tmp_path / "cache")
    (folder / "a.txt").write_bytes(b"ALPHA")
    (folder / "empty").unlink()
    (folder / "stray").touch()
    assert artifact.materialise(store, manifest, tmp_path / "cache") == folder
    assert {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == FILES


def test_readers_at_once_share_one_folder(store, tmp_path):
    manifest = artifact.load_manifest(store, publish(store, tmp_path))
    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(lambda _: artifact.materialise(store, manifest, tmp_path / "cache"), range(16)))
    [folder] = folders
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()) == sorted(FILES)


def test_publishing_can_be_stopped(store, tmp_path):
    """What the progress callback raises (a lost place, a cancel) ends the upload, and nothing is committed."""
    def stop(done: int, total: int, what: str) -> None:
        raise record.AttemptLost("gone")

    with pytest.raises(record.AttemptLost, match="gone"):
        publish(store, tmp_path, progress=stop)
    assert record.read(store, "s", "k").record.state is record.State.RUNNING


def test_the_key_document_lies_beside_the_manifest(store):
    artifact.write_document(store, "attempts/s/k/g1e1", {"stage": "s", "config": {"x": 1.0}})
    assert artifact.read_document(store, "attempts/s/k/g1e1") == {"stage": "s", "config": {"x": 1.0}}
    assert artifact.read_document(store, "attempts/s/k/g1e2") is None
