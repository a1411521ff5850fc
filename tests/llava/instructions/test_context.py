"""The symbolic context is the paper's: captions, then boxes as fractions with three decimals."""

import json
from pathlib import Path

import pytest

from llava.instructions.context import BadAnnotations, read_coco, render
from tests.llava.instructions.coco import write_coco


def test_a_context_as_the_teacher_reads_it(tmp_path):
    """Five captions a line each, an empty line, corners over width and height in the order of annotation."""
    first = read_coco(*write_coco(tmp_path)).contexts[0]
    assert (first.id, first.image) == ("000000000100", "000000000100.jpg")
    assert render(first, with_boxes=True) == (
        "A dog lies on a red sofa number 100.\nA sleeping dog on a couch number 100.\n"
        "Dog and cat share a sofa number 100.\nTwo pets rest in a living room number 100.\n"
        "A cat sits beside a dog number 100.\n\ndog: [0.1, 0.1, 0.6, 0.606]\ncat: [0.7, 0.4, 1.0, 1.0]")
    assert render(first, with_boxes=False) == render(first, with_boxes=True).partition("\n\n")[0]


def test_what_is_left_out_is_counted(tmp_path):
    """A sixth caption, an empty one, a box without area and an image without captions are skipped by name."""
    captions, instances = write_coco(tmp_path)
    body = json.loads(captions.read_text())
    body["images"].append({"id": 7, "file_name": "7.jpg", "width": 10, "height": 10})
    body["annotations"] += [{"id": 1, "image_id": 100, "caption": "One more."},
                            {"id": 2, "image_id": 101, "caption": " "}, {"id": 3, "image_id": 9, "caption": "Lost."}]
    captions.write_text(json.dumps(body))
    boxes = json.loads(instances.read_text())
    boxes["annotations"].append({"id": 4, "image_id": 100, "category_id": 17, "bbox": [0, 0, 0.01, 50]})
    instances.write_text(json.dumps(boxes))
    found = read_coco(captions, instances)
    assert len(found.contexts) == 4
    assert found.skipped == {"caption_after_the_fifth": 1, "empty_caption": 1, "caption_of_an_unknown_image": 1,
                             "box_without_area": 1, "image_without_captions": 1}


@pytest.mark.parametrize(("changes", "says"), [
    ({"captions_annotations": None}, r"captions\.json has no list 'annotations'"),
    ({"instances_categories": {}}, r"instances\.json has no list 'categories'"),
    ({"captions_images": [{"id": 1, "file_name": "x"}]}, r"captions\.json: images\[0\]\.width"),
    ({"instances_annotations": [{"image_id": 100, "category_id": 17, "bbox": [1, 2, 3]}]},
     r"instances\.json: annotations\[0\]\.bbox"),
    ({"instances_annotations": [{"image_id": 100, "category_id": 5, "bbox": [1, 2, 3, 4]}]}, r"category_id 5"),
    ({"captions_annotations": []}, r"no image has a caption"),
])
def test_a_malformed_file_is_named_with_its_field(tmp_path, changes, says):
    """The error says which file and which field."""
    with pytest.raises(BadAnnotations, match=says):
        read_coco(*write_coco(tmp_path, **changes))


@pytest.mark.parametrize("body", [None, b"", b"{", b"\xff\xfe", b"[1, 2]"])
def test_a_missing_or_broken_file_is_named(tmp_path, body):
    """No traceback from a JSON parser: the file's name and what is expected."""
    captions, instances = write_coco(tmp_path)
    instances.unlink() if body is None else instances.write_bytes(body)
    with pytest.raises(BadAnnotations, match=r"instances\.json"):
        read_coco(captions, instances)


def test_a_missing_file_of_captions_is_named(tmp_path):
    """The captions are read first and named first."""
    with pytest.raises(BadAnnotations, match=r"nothing\.json does not exist"):
        read_coco(Path("nothing.json"), write_coco(tmp_path)[1])
