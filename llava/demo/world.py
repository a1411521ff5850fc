"""What the demo's world is: which drawings, which scenes, and which combinations no training scene may hold.

A combination is a drawing in a place on a background. One in eight is held out, by a Latin square over the shuffled
drawings and backgrounds: each drawing is held out on one background for each of its four places, and each place and
background holds out an eighth of the drawings. A training scene holds no held-out combination; a held-out scene holds
no other. So every drawing, place and background is seen in training, what a held-out scene shows in each place never
is, and neither a place nor a background hints at a drawing.

A scene is a pure function of the world's spec, a purpose and a number: nothing is stored, and order does not matter.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass

from llava.demo.vocabulary import BACKGROUNDS, CELLS, GROUPS

HELD_OUT_SHARE = 8  # one combination in so many
REPEAT_CHANCE = 0.15  # that a further drawing of a scene repeats the first


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldSpec:
    """All that the demo's world follows from.

    seed: of everything. num_drawings: a multiple of 8, so that the held-out combinations balance. image_size: pixels,
    a multiple of 32. The other numbers count rows, pictures or questions of each data set.
    """

    seed: int = 7
    num_drawings: int = 32
    image_size: int = 64
    num_captions: int = 4000
    num_coco: int = 1500
    num_problems: int = 1200
    num_bench_images: int = 10
    num_probe_per_kind: int = 128

    def __post_init__(self) -> None:
        available = sum(len(names) for names in GROUPS.values())
        if self.num_drawings % HELD_OUT_SHARE or not 16 <= self.num_drawings <= available:
            raise ValueError(f"num_drawings is {self.num_drawings}; give a multiple of {HELD_OUT_SHARE} "
                             f"from 16 to {available}")
        if self.image_size % 32 or self.image_size < 64:
            raise ValueError(f"image_size is {self.image_size}; give a multiple of 32, at least 64")

    def as_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> WorldSpec:
        """Raises ValueError when the text is not a spec."""
        try:
            return cls(**json.loads(text))
        except (TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"not a world.json of the demo: {error}") from None


@dataclass(frozen=True, order=True, slots=True)
class Placement:
    """A drawing in one of the four places (an index into CELLS)."""

    cell: int
    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """What a picture shows. placements: in order of place, at most one each. look: seeds jitter, shades and quality."""

    background: str
    placements: tuple[Placement, ...]
    look: int

    def at(self, cell: int) -> str | None:
        return next((p.name for p in self.placements if p.cell == cell), None)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(p.name for p in self.placements)


@functools.lru_cache(maxsize=16)
def drawings(spec: WorldSpec) -> tuple[str, ...]:
    """Names of the drawings of this world, in shuffled order: the groups take turns until there are enough."""
    rng = random.Random(f"{spec.seed}/drawings")
    queues = [rng.sample(names, len(names)) for names in GROUPS.values()]
    chosen: list[str] = []
    while len(chosen) < spec.num_drawings:
        for queue in queues:
            if queue and len(chosen) < spec.num_drawings:
                chosen.append(queue.pop())
    rng.shuffle(chosen)
    return tuple(chosen)


@functools.lru_cache(maxsize=16)
def held_out(spec: WorldSpec) -> frozenset[tuple[str, int, str]]:
    """The held-out combinations, as (drawing, place, background)."""
    backgrounds = random.Random(f"{spec.seed}/backgrounds").sample(BACKGROUNDS, len(BACKGROUNDS))
    return frozenset(
        (name, cell, background)
        for d, name in enumerate(drawings(spec)) for cell in range(len(CELLS))
        for b, background in enumerate(backgrounds) if (d + 3 * cell + b) % HELD_OUT_SHARE == 0)


@functools.lru_cache(maxsize=16)
def choices(spec: WorldSpec, held: bool) -> dict[tuple[int, str], tuple[str, ...]]:
    """For each place and background the drawings that a held-out (or a training) scene may show there."""
    combinations = held_out(spec)
    return {(cell, background): tuple(n for n in drawings(spec) if ((n, cell, background) in combinations) == held)
            for cell in range(len(CELLS)) for background in BACKGROUNDS}


def training_scene(spec: WorldSpec, purpose: str, number: int) -> Scene:
    """The numbered training scene of a purpose: one to four drawings, none in a held-out combination."""
    rng = random.Random(f"{spec.seed}/{purpose}/{number}")
    count = rng.choices((1, 2, 3, 4), weights=(3, 3, 2, 2))[0]
    return _compose(spec, rng, rng.choice(BACKGROUNDS), rng.sample(range(len(CELLS)), count), held=False)


def held_out_scene(spec: WorldSpec, rng: random.Random, *, count: int | None = None,
                   background: str | None = None, fixed: Placement | None = None) -> Scene:
    """A scene made of held-out combinations only, with different drawings.

    fixed: a drawing that must be in its place; the background follows from it, since each drawing is held out on one
    background for each place. The other places and drawings are drawn uniformly.
    """
    if fixed is not None:
        background = next(b for b in BACKGROUNDS if (fixed.name, fixed.cell, b) in held_out(spec))
    background = background or rng.choice(BACKGROUNDS)
    count = count or rng.randint(1, len(CELLS))
    cells = rng.sample(range(len(CELLS)), count)
    if fixed is not None:
        cells = [fixed.cell, *[c for c in rng.sample(range(len(CELLS)), len(CELLS)) if c != fixed.cell][:count - 1]]
    return _compose(spec, rng, background, cells, held=True, fixed=fixed)


def _compose(spec: WorldSpec, rng: random.Random, background: str, cells: Sequence[int], *, held: bool,
             fixed: Placement | None = None) -> Scene:
    allowed = choices(spec, held)
    placed = [fixed] if fixed else []
    for cell in cells[len(placed):]:
        options = [n for n in allowed[cell, background] if n not in {p.name for p in placed}]
        repeated = placed[0].name if placed else None
        if not held and repeated in allowed[cell, background] and rng.random() < REPEAT_CHANCE:
            placed.append(Placement(cell, str(repeated)))
        else:
            placed.append(Placement(cell, rng.choice(options)))
    return Scene(background=background, placements=tuple(sorted(placed)), look=rng.getrandbits(32))


def is_training_scene(spec: WorldSpec, scene: Scene) -> bool:
    """Whether the scene holds no held-out combination."""
    return not any((p.name, p.cell, scene.background) in held_out(spec) for p in scene.placements)
