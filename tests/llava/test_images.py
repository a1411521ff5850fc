"""Pictures come back as they were stored, from shards and from folders."""

import io

import pyarrow.parquet as pq
import pytest
from PIL import Image

from llava.images import BadImage, ImageStore, MissingImage, decode_image, write_image_shards


def picture(colour: tuple[int, ...], mode: str = "RGB", size: tuple[int, int] = (12, 8)) -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, colour).save(out, "PNG")
    return out.getvalue()


ROWS = [(f"p{i:03d}.png", picture((i, 2 * i, 0))) for i in range(100)]


def test_shards_give_back_every_picture(tmp_path):
    """Every name, in any order, gives the bytes that were written."""
    assert write_image_shards(ROWS, tmp_path, rows_per_shard=40) == 100
    assert [p.name for p in sorted(tmp_path.iterdir())] == [f"part-0000{i}.parquet" for i in range(3)]
    store = ImageStore.open(tmp_path)
    assert {name: store[name] for name in reversed(list(store))} == dict(ROWS)
    assert len(store) == 100 and "p005.png" in store and "q.png" not in store


def test_shards_are_a_function_of_the_pictures(tmp_path):
    """The same pictures give the same bytes, whether they come from a list or a stream."""
    write_image_shards(ROWS, tmp_path / "a", 64)
    write_image_shards(iter(ROWS), tmp_path / "b", 64)
    assert [p.read_bytes() for p in sorted((tmp_path / "a").iterdir())] == [
        p.read_bytes() for p in sorted((tmp_path / "b").iterdir())]


def test_rows_out_of_order_are_refused(tmp_path):
    """A repeated or unsorted name is an error that names it."""
    with pytest.raises(ValueError, match=r"p000\.png"):
        write_image_shards([ROWS[1], ROWS[0]], tmp_path)


def test_no_picture_is_still_a_store(tmp_path):
    """An empty set of pictures is written and read as empty."""
    assert write_image_shards([], tmp_path) == 0
    assert len(ImageStore.open(tmp_path)) == 0


def test_plain_folder_uses_relative_paths(tmp_path):
    """Pictures in sub-folders are named by their path; other files are no pictures."""
    (tmp_path / "17").mkdir()
    (tmp_path / "17" / "image.png").write_bytes(ROWS[3][1])
    (tmp_path / "notes.txt").write_text("x")
    store = ImageStore.open(tmp_path)
    assert list(store) == ["17/image.png"] and store["17/image.png"] == ROWS[3][1]


def test_missing_picture_is_named(tmp_path):
    """The error says which picture and where it was looked for."""
    write_image_shards(ROWS, tmp_path)
    with pytest.raises(MissingImage, match=r"nowhere\.png.*100 pictures"):
        ImageStore.open(tmp_path)["nowhere.png"]


def test_damaged_shard_is_noticed(tmp_path):
    """Bytes that do not match their checksum are never handed out."""
    write_image_shards(ROWS[:3], tmp_path)
    path = tmp_path / "part-00000.parquet"
    table = pq.read_table(path)
    bodies = [b"other", *table["bytes"].to_pylist()[1:]]
    pq.write_table(table.set_column(1, table.schema.field("bytes"), [bodies]), path)
    with pytest.raises(BadImage, match=r"p000\.png.*checksum"):
        ImageStore.open(tmp_path)["p000.png"]


def test_decode_gives_rgb():
    """Palette, grey and transparent pictures all become RGB of the same size."""
    for mode, colour in (("L", 7), ("RGBA", (1, 2, 3, 255)), ("P", 3)):
        decoded = decode_image(picture(colour, mode))
        assert decoded.mode == "RGB" and decoded.size == (12, 8)
    assert decode_image(picture((9, 8, 7))).getpixel((0, 0)) == (9, 8, 7)


@pytest.mark.parametrize("body", [b"", b"<html></html>", picture((1, 2, 3), size=(400, 400))[:-200]])
def test_what_is_no_picture_is_refused(body):
    """Empty, foreign and cut-off bytes are BadImage."""
    with pytest.raises(BadImage):
        decode_image(body)


def test_huge_picture_is_refused_before_it_is_decoded():
    """The size in the header is enough to refuse."""
    with pytest.raises(BadImage, match="9000x9000"):
        decode_image(picture(0, "1", (9000, 9000)))
