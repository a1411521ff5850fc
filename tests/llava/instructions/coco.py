"""COCO annotation files for tests, in the official form."""

import json
from pathlib import Path

CAPTIONS = ("A dog lies on a red sofa.", "A sleeping dog on a couch.", "Dog and cat share a sofa.",
            "Two pets rest in a living room.", "A cat sits beside a dog.")


def write_coco(folder: Path, num_images: int = 4, **changes) -> tuple[Path, Path]:
    """Files of that many images of 200x100 pixels, each with five captions and two boxes. changes: lists to replace."""
    images = [{"id": 100 + i, "file_name": f"{100 + i:012d}.jpg", "width": 200, "height": 100}
              for i in range(num_images)]
    sentences = [{"id": 10 * i["id"] + n, "image_id": i["id"], "caption": f"{c[:-1]} number {i['id']}.\n"}
                 for i in images for n, c in enumerate(CAPTIONS)]
    boxes = [{"id": 10 * i["id"] + n, "image_id": i["id"], "category_id": c, "bbox": b}
             for i in images for n, (c, b) in enumerate([(18, [20, 10, 100, 50.57]), (17, [140.0, 40.0, 60.0, 60.0])])]
    captions = {"images": images, "annotations": sentences}
    instances = {"images": images, "annotations": boxes,
                 "categories": [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}]}
    for name, value in changes.items():
        file, _, field = name.partition("_")
        (captions if file == "captions" else instances)[field] = value
    paths = folder / "captions.json", folder / "instances.json"
    for path, body in zip(paths, (captions, instances), strict=True):
        path.write_text(json.dumps(body))
    return paths
