"""A source is known by its content."""

from pathlib import Path

import pytest

from pipelines.sources import digest_source, materialise_source, tree_digest
from pipelines.stage import BadInput


def test_a_digest_follows_the_bytes_and_not_the_name_of_a_file(tmp_path: Path):
    """A moved file is the same source; a changed byte is another."""
    first, moved, other = tmp_path / "a.tsv", tmp_path / "b.tsv", tmp_path / "c.tsv"
    first.write_bytes(b"one\n"), moved.write_bytes(b"one\n"), other.write_bytes(b"two\n")
    assert digest_source(str(first)) == digest_source(str(moved)) != digest_source(str(other))


def test_a_folder_s_digest_follows_its_names_and_bytes(tmp_path: Path):
    """Renaming a file within a folder is a change: its rows refer to names."""
    (tmp_path / "x").mkdir(), (tmp_path / "y").mkdir()
    (tmp_path / "x/a.jpg").write_bytes(b"1"), (tmp_path / "y/b.jpg").write_bytes(b"1")
    assert digest_source(str(tmp_path / "x")) != digest_source(str(tmp_path / "y"))


def test_a_source_that_changed_after_planning_is_refused(tmp_path: Path):
    """A result never goes under the key of other content."""
    file = tmp_path / "a.tsv"
    file.write_bytes(b"one\n")
    digest = digest_source(str(file))
    assert materialise_source(str(file), digest, tmp_path) == file
    file.write_bytes(b"two\n")
    with pytest.raises(BadInput, match=r"a\.tsv changed since the run was planned"):
        materialise_source(str(file), digest, tmp_path)


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir()], ids=["missing", "empty"])
def test_a_source_that_is_not_there_names_itself(tmp_path: Path, make):
    """The error names the path."""
    path = tmp_path / "gone"
    make(path)
    with pytest.raises(BadInput, match="gone"):
        digest_source(str(path))


def test_the_order_of_files_does_not_matter():
    """A listing's order is not content."""
    entries = [("a", 1, "x"), ("b", 2, "y")]
    assert tree_digest(entries) == tree_digest(entries[::-1]) != tree_digest(entries[:1])
