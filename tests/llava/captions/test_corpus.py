"""Every line of a caption file ends as a row or as a rejected row with a reason."""

import gzip

import pytest

from llava.captions.corpus import MAX_LINE_BYTES, RejectedRow, Row, RowProblem, caption_identity, is_web_url, read_rows

GOOD = b"a dog .\thttp://example.org/dog.jpg"


def rows_of(tmp_path, body, name="captions.tsv"):
    file = tmp_path / name
    file.write_bytes(body)
    return list(read_rows([file]))


@pytest.mark.parametrize(("line", "reason"), [
    (b"no tab at all", RowProblem.WRONG_NUMBER_OF_FIELDS),
    (b"a\tb\thttp://example.org/", RowProblem.WRONG_NUMBER_OF_FIELDS),
    (b"", RowProblem.EMPTY_LINE),
    (b" \thttp://example.org/", RowProblem.EMPTY_CAPTION),
    (b"\t", RowProblem.EMPTY_CAPTION),
    (b"caf\xe9\thttp://example.org/", RowProblem.INVALID_UTF8),
    (b"a\x00b\thttp://example.org/", RowProblem.CONTROL_CHARACTER),
    (b"caption\turl", RowProblem.BAD_URL),
    (b"a dog\tfile:///etc/passwd", RowProblem.BAD_URL),
    (b"x" * (MAX_LINE_BYTES * 5) + b"\thttp://example.org/", RowProblem.TOO_LONG),
])
def test_a_bad_line_is_named_and_the_next_is_read(tmp_path, line, reason):
    """The line is rejected with its own reason and number; its neighbours are rows."""
    before, bad, after = rows_of(tmp_path, b"\n".join([GOOD, line, GOOD]) + b"\n")
    assert isinstance(bad, RejectedRow) and (bad.row, bad.reason) == (1, reason)
    assert isinstance(before, Row) and isinstance(after, Row) and after.row == 2


def test_line_ends_and_byte_order_mark_do_not_count(tmp_path):
    """BOM, CRLF and a missing last line end give the same rows as plain text."""
    plain = rows_of(tmp_path, GOOD + b"\n" + GOOD + b"\n")
    assert rows_of(tmp_path, b"\xef\xbb\xbf" + GOOD + b"\r\n" + GOOD) == plain


def test_gzip_is_read_as_it_comes(tmp_path):
    """A gzip'd file gives the rows of its content."""
    assert rows_of(tmp_path, gzip.compress(GOOD + b"\n"), "c.tsv.gz") == rows_of(tmp_path, GOOD + b"\n")


def test_row_numbers_run_on_through_files(tmp_path):
    """The second file's rows follow the first's; identities do not depend on the place."""
    for name in ("a.tsv", "b.tsv"):
        (tmp_path / name).write_bytes(GOOD + b"\n")
    first, second = read_rows([tmp_path / "a.tsv", tmp_path / "b.tsv"])
    assert (first.row, second.row) == (0, 1)
    assert first.identity == second.identity == caption_identity("a dog .", "http://example.org/dog.jpg")


@pytest.mark.parametrize(("url", "usable"), [
    ("http://127.0.0.1:8080/a%20b.png", True), ("https://example.org", True), ("http://[::1]/x", True),
    ("ftp://example.org/x", False), ("http:///x", False), ("http://exa mple.org/", False), ("//example.org/x", False),
    ("http://user:secret@example.org/", False), ("http://example.org:99999/", False), ("http://[::1/", False),
])
def test_web_urls(url, usable):
    """Only absolute http and https URLs with a host and a real port."""
    assert is_web_url(url) is usable
