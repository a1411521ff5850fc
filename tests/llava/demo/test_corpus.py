"""The demo's corpora: published formats, known faults, and a web that tells the same twice."""

import http.client
import json
import threading
from collections import Counter

import pytest

from llava.demo import pictures
from llava.demo.corpus import FATES, Fate, caption_rows, coco_pictures, fate, token, web_scene, write_coco
from llava.demo.drawing import boxes
from llava.demo.grammar import understand
from llava.demo.world import WorldSpec
from llava.images import BadImage, decode_image
from llava.instructions.context import read_coco

SPEC = WorldSpec(num_captions=2000, num_coco=25)


@pytest.fixture(scope="module")
def rows():
    return list(caption_rows(SPEC, "http://127.0.0.1:1/"))


def path_of(number):
    return f"/{token(SPEC)}/{number}.jpg"


def number_with(outcome):
    return next(n for n in range(5000) if fate(SPEC, n) is outcome)


def test_captions_are_rows_of_two_fields_with_some_repeated(rows):
    """Every row is a caption and an address; about one in fifty repeats an earlier row exactly."""
    assert len(rows) == 2000
    assert all(c.strip() and not set(c) & set("\t\n") and u.startswith("http://127.0.0.1:1/seed7") for c, u in rows)
    assert 15 <= len(rows) - len(set(rows)) <= 90


def test_phrases_are_frequent_and_rare(rows):
    """Some words of captions occur a thousand times and some once or twice, so that selection has a choice."""
    words = Counter(word for caption, _ in rows for word in caption.split())
    assert words.most_common(1)[0][1] > 1000
    assert sum(1 for w, n in Counter(c.split(" on ")[0] for c, _ in rows).items() if n == 1) > 10
    assert words["lovely"] > 3 * words["whimsical"] > 0


def test_captions_are_true_of_their_pictures(rows):
    """What a caption says of places is where the picture behind its address has it."""
    told = 0
    for caption, url in rows[:300]:
        scene = web_scene(SPEC, int(url.rsplit("/", 1)[1].removesuffix(".jpg")))
        for placed in understand([caption.replace(" , ", ", ")], []).placed:
            assert scene.at(placed.cell) == placed.name
            told += 1
    assert told > 200


def test_about_one_link_in_twelve_is_dead():
    """The fates of 5000 pictures have the shares that the table gives."""
    counts = Counter(fate(SPEC, n) for n in range(1, 5001))
    for outcome, share in FATES:
        assert abs(counts[outcome] / 5000 - share / 1000) < 0.012
    assert 0.06 < (counts[Fate.MISSING] + counts[Fate.GONE] + counts[Fate.FAILING]) / 5000 < 0.1
    assert fate(SPEC, 0) is Fate.PAGE


def test_every_fate_is_answered_as_it_says():
    """Statuses, types and bodies of each outcome."""
    dead = (Fate.MISSING, Fate.GONE, Fate.FAILING)
    assert [pictures.reply(path_of(number_with(f)))[0] for f in dead] == [404, 410, 500]
    status, kind, body = pictures.reply(path_of(0))
    assert (status, kind.split(";")[0], body[:9]) == (200, "text/html", b"<!doctype")
    for outcome in (Fate.TRUNCATED, Fate.CORRUPT, Fate.HUGE):
        status, kind, body = pictures.reply(path_of(number_with(outcome)))
        assert status == 200 and kind.startswith("image/")
        with pytest.raises(BadImage):
            decode_image(body)
    status, kind, body = pictures.reply(path_of(number_with(Fate.FINE)))
    assert (status, kind, decode_image(body).size) == (200, "image/jpeg", (64, 64))


@pytest.mark.parametrize("path", ["/", "/seed7-drawings33-size64/1.jpg", "/seed7-drawings32-size9984/1.jpg",
                                  "/seed7-drawings32-size64/../1.jpg"])
def test_addresses_outside_the_world_are_not_found(path):
    """A path that names no world or no picture is a 404 that says why."""
    status, _, body = pictures.reply(path)
    assert status == 404 and body.startswith(b"no such")


def test_the_server_answers_over_http():
    """The same bytes come over a socket as from the function, on one connection, with HEAD and GET."""
    with pictures.PictureServer(("127.0.0.1", 0), pictures._Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=30)
        for _ in range(2):
            connection.request("GET", path_of(7))
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (200, pictures.reply(path_of(7))[2])
        connection.request("HEAD", path_of(7))
        assert connection.getresponse().read() == b""
        connection.close()
        server.shutdown()


def test_coco_files_are_read_by_the_reader_of_real_ones(tmp_path):
    """Five captions and all boxes of each picture; pictures exist under the names that the files give."""
    write_coco(SPEC, tmp_path)
    annotations = read_coco(tmp_path / "captions.json", tmp_path / "instances.json")
    assert len(annotations.contexts) == 25
    assert {len(c.captions) for c in annotations.contexts} == {5}
    names = {image["file_name"] for image in json.loads((tmp_path / "captions.json").read_text())["images"]}
    assert names == {name for name, _ in coco_pictures(SPEC)}


def test_boxes_of_instances_are_where_the_drawings_are(tmp_path):
    """The boxes in the file are those that the picture was drawn with."""
    from llava.demo.corpus import coco_scene

    write_coco(SPEC, tmp_path)
    content = json.loads((tmp_path / "instances.json").read_text())
    names = {c["id"]: c["name"] for c in content["categories"]}
    for number in range(1, 26):
        scene = coco_scene(SPEC, number)
        found = [(names[a["category_id"]], tuple(a["bbox"])) for a in content["annotations"] if a["image_id"] == number]
        assert found == [(p.name, b) for p, b in zip(scene.placements, boxes(scene, 64), strict=True)]
