"""Symbolic context: all that a teacher knows of a picture is five sentences and boxes, as text.

The text is what the paper's prompts hold (section 3 and its appendix): a caption a line; then, where boxes are wanted,
an empty line and ``category: [x1, y1, x2, y2]`` a line, corners as fractions of width and height with three decimals,
in the order of annotation.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NUM_CAPTIONS = 5


class BadAnnotations(ValueError):
    """A COCO file that cannot be used. The message names the file, the field and the fix."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """Corners as fractions of the picture, 0..1, rounded to three decimals."""

    category: str
    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SymbolicContext:
    """id: as in the published data, twelve digits for a numbered image. image: the picture's file name."""

    id: str
    image: str
    captions: tuple[str, ...]
    boxes: tuple[Box, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Annotations:
    """contexts: ascending by id. skipped: images and annotations that are not in them, counted by reason."""

    contexts: tuple[SymbolicContext, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)


def render(context: SymbolicContext, *, with_boxes: bool) -> str:
    """The context as the teacher reads it."""
    text = "\n".join(context.captions)
    if with_boxes and context.boxes:
        text += "\n\n" + "\n".join(f"{b.category}: [{b.x1}, {b.y1}, {b.x2}, {b.y2}]" for b in context.boxes)
    return text


def read_coco(captions: Path, instances: Path) -> Annotations:
    """Contexts of the images that have captions, from COCO's official files (2014 and 2017 have the same form).

    Raises BadAnnotations for a file that is no COCO file, or when no image has a caption.
    """
    texts = _CocoFile(captions, ("images", "annotations"))
    objects = _CocoFile(instances, ("images", "annotations", "categories"))
    names = {c["id"]: str(c["name"]) for c in objects.records("categories", ("id", "name"))}
    images = {i["id"]: i for i in texts.records("images", ("id", "file_name", "width", "height"))}
    skipped: Counter[str] = Counter()

    sentences: dict[Any, list[str]] = {}
    for a in texts.records("annotations", ("image_id", "caption")):
        sentence = " ".join(str(a["caption"]).split())
        own = sentences.setdefault(a["image_id"], [])
        if a["image_id"] not in images:
            skipped["caption_of_an_unknown_image"] += 1
        elif not sentence:
            skipped["empty_caption"] += 1
        elif len(own) == NUM_CAPTIONS:
            skipped["caption_after_the_fifth"] += 1
        else:
            own.append(sentence)

    boxes: dict[Any, list[Box]] = {}
    for a in objects.records("annotations", ("image_id", "category_id", "bbox")):
        if a["image_id"] not in images:
            skipped["box_of_an_unknown_image"] += 1
        elif a["category_id"] not in names:
            raise BadAnnotations(f"{instances}: an annotation of image {a['image_id']} has category_id "
                                 f"{a['category_id']}, which is not among its categories")
        elif (box := _box(names[a["category_id"]], a["bbox"], images[a["image_id"]])) is None:
            skipped["box_without_area"] += 1
        else:
            boxes.setdefault(a["image_id"], []).append(box)

    contexts = [SymbolicContext(id=f"{key:012d}" if isinstance(key, int) else str(key), image=str(image["file_name"]),
                                captions=tuple(sentences[key]), boxes=tuple(boxes.get(key, ())))
                for key, image in images.items() if sentences.get(key)]
    skipped["image_without_captions"] = len(images) - len(contexts)
    if not contexts:
        raise BadAnnotations(f"{captions}: no image has a caption; annotations must name images by image_id")
    return Annotations(contexts=tuple(sorted(contexts, key=lambda c: c.id)),
                       skipped={k: n for k, n in sorted(skipped.items()) if n})


def _box(category: str, bbox: Sequence[float], image: Mapping[str, Any]) -> Box | None:
    """COCO's ``[x, y, width, height]`` in pixels as corners in fractions, kept within 0..1; None without area."""
    x, y, width, height = (float(n) for n in bbox)
    corners = [min(1.0, max(0.0, round(n, 3))) for n in (
        x / image["width"], y / image["height"], (x + width) / image["width"], (y + height) / image["height"])]
    x1, y1, x2, y2 = corners
    return Box(category=category, x1=x1, y1=y1, x2=x2, y2=y2) if x2 > x1 and y2 > y1 else None


class _CocoFile:
    """A COCO JSON file whose lists are there; every record that is handed out has the fields asked for."""

    def __init__(self, path: Path, lists: tuple[str, ...]) -> None:
        self.path = path
        try:
            self.body = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise BadAnnotations(f"{path} does not exist; give COCO's official JSON file") from None
        except (OSError, ValueError) as error:
            raise BadAnnotations(f"{path} is not readable JSON: {error}") from None
        for name in lists:
            if not isinstance(self.body, dict) or not isinstance(self.body.get(name), list):
                raise BadAnnotations(f"{path} has no list {name!r}: it is not a COCO file of this kind "
                                     f"(expected {', '.join(lists)})")

    def records(self, name: str, fields: tuple[str, ...]) -> Sequence[Mapping[str, Any]]:
        for i, record in enumerate(self.body[name]):
            wrong = [f for f in fields if not isinstance(record, dict) or record.get(f) is None]
            wrong += [] if wrong else [f for f in fields if f in CHECKS and not CHECKS[f](record[f])]
            if wrong:
                raise BadAnnotations(f"{self.path}: {name}[{i}].{wrong[0]} is missing or malformed")
        return self.body[name]


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and value > 0


def _name(value: Any) -> bool:
    return isinstance(value, int | str)


CHECKS = {
    "id": _name,
    "image_id": _name,
    "category_id": _name,
    "bbox": lambda v: isinstance(v, list) and len(v) == 4 and all(isinstance(n, int | float) for n in v),
    "width": _positive,
    "height": _positive,
    "caption": lambda v: isinstance(v, str),
}
