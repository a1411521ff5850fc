"""The demo's corpora as files in the published formats: web captions with addresses, and COCO captions and boxes.

All files follow from the spec and the address of the picture server; a row follows from its number alone.
"""

from __future__ import annotations

import enum
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llava.demo.drawing import boxes, encode, picture
from llava.demo.phrasing import five_captions, web_caption
from llava.demo.vocabulary import GROUP_OF
from llava.demo.world import Scene, WorldSpec, drawings, training_scene

DUPLICATE_CHANCE = 0.02  # that a row of captions.tsv repeats an earlier one


class Fate(enum.Enum):
    """What the picture server answers for a picture of the web corpus."""

    FINE = "the picture"
    MISSING = "status 404: a dead link"
    GONE = "status 410: a dead link"
    FAILING = "status 500, always"
    TRUNCATED = "the first half of the file"
    CORRUPT = "bytes that are no picture, called image/jpeg"
    HUGE = "a picture of 80 megapixels"
    PAGE = "an HTML page with status 200"


FATES = ((Fate.MISSING, 60), (Fate.GONE, 10), (Fate.FAILING, 10), (Fate.TRUNCATED, 8), (Fate.CORRUPT, 6),
         (Fate.HUGE, 2))
"""How many of 1000 pictures meet each fate; the rest are fine. Picture 0 is the page."""


def fate(spec: WorldSpec, number: int) -> Fate:
    if number == 0:
        return Fate.PAGE
    draw = random.Random(f"{spec.seed}/fate/{number}").randrange(1000)
    for outcome, share in FATES:
        if draw < share:
            return outcome
        draw -= share
    return Fate.FINE


def web_scene(spec: WorldSpec, number: int) -> Scene:
    """What the numbered picture of the web corpus shows."""
    return training_scene(spec, "web", number)


def token(spec: WorldSpec) -> str:
    """The spec as one word of an address: what the picture server needs to know of a world."""
    return f"seed{spec.seed}-drawings{spec.num_drawings}-size{spec.image_size}"


def caption_rows(spec: WorldSpec, base_url: str) -> Iterator[tuple[str, str]]:
    """(caption, address) of each row; now and then a row is an exact copy of an earlier one."""
    base = f"{base_url.rstrip('/')}/{token(spec)}"
    for row in range(spec.num_captions):
        rng = random.Random(f"{spec.seed}/row/{row}")
        number = rng.randrange(row) if row and rng.random() < DUPLICATE_CHANCE else row
        caption = web_caption(web_scene(spec, number), random.Random(f"{spec.seed}/caption/{number}"))
        yield caption, f"{base}/{number}.jpg"


def write_captions(spec: WorldSpec, base_url: str, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(f"{caption}\t{url}\n" for caption, url in caption_rows(spec, base_url))


def coco_scene(spec: WorldSpec, number: int) -> Scene:
    return training_scene(spec, "coco", number)


def coco_name(number: int) -> str:
    return f"{number:012d}.jpg"


def coco_pictures(spec: WorldSpec) -> Iterator[tuple[str, bytes]]:
    """(name, JPEG) of each picture of the COCO-like set."""
    for number in range(1, spec.num_coco + 1):
        yield coco_name(number), encode(picture(coco_scene(spec, number), spec.image_size), "JPEG")


def write_coco(spec: WorldSpec, folder: Path) -> None:
    """``captions.json`` and ``instances.json`` as COCO publishes them."""
    folder.mkdir(parents=True, exist_ok=True)
    categories = [{"id": i + 1, "name": name, "supercategory": GROUP_OF[name]}
                  for i, name in enumerate(sorted(drawings(spec)))]
    category_ids = {c["name"]: c["id"] for c in categories}
    images: list[dict[str, Any]] = []
    captions: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    for number in range(1, spec.num_coco + 1):
        scene = coco_scene(spec, number)
        images.append({"id": number, "file_name": coco_name(number), "width": spec.image_size,
                       "height": spec.image_size, "license": 1})
        for text in five_captions(scene, random.Random(f"{spec.seed}/five/{number}")):
            captions.append({"id": len(captions) + 1, "image_id": number, "caption": text})
        for place, bbox in zip(scene.placements, boxes(scene, spec.image_size), strict=True):
            instances.append({"id": len(instances) + 1, "image_id": number, "category_id": category_ids[place.name],
                              "bbox": list(bbox), "area": bbox[2] * bbox[3], "iscrowd": 0})
    head = {"info": {"description": "Scenes of the LLaVA pipeline's demo", "version": "1"},
            "licenses": [{"id": 1, "name": "CC BY-SA 4.0", "url": "https://creativecommons.org/licenses/by-sa/4.0/"}],
            "images": images}
    write_json(folder / "captions.json", {**head, "annotations": captions})
    write_json(folder / "instances.json", {**head, "annotations": instances, "categories": categories})


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(r, sort_keys=True, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
