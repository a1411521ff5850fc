"""Scenes of the demo: what training may show, and what it must never show."""

import random

import numpy as np
import pytest

from llava.demo.drawing import boxes, picture, pictures, texture
from llava.demo.vocabulary import BACKGROUNDS, CELLS
from llava.demo.world import (
    Placement,
    Scene,
    WorldSpec,
    drawings,
    held_out,
    held_out_scene,
    is_training_scene,
    training_scene,
)

SPEC = WorldSpec()


def test_one_combination_in_eight_is_held_out_evenly():
    """Each drawing is held out once for each place, and each place and background holds out four of 32 drawings."""
    combinations = held_out(SPEC)
    assert len(combinations) == 32 * 4 * 8 // 8
    for name in drawings(SPEC):
        assert sorted(cell for n, cell, _ in combinations if n == name) == [0, 1, 2, 3]
    for cell in range(len(CELLS)):
        for background in BACKGROUNDS:
            assert sum((c, b) == (cell, background) for _, c, b in combinations) == 4


def test_training_scenes_hold_no_held_out_combination():
    """Of 3000 training scenes of several purposes, none shows what is held out, and all drawings occur."""
    scenes = [training_scene(SPEC, purpose, n) for purpose in ("web", "coco", "tower") for n in range(1000)]
    shown = {(p.name, p.cell, s.background) for s in scenes for p in s.placements}
    assert not shown & held_out(SPEC)
    assert len(shown) > 0.95 * (32 * 4 * 8 - 128)
    assert {len(s.placements) for s in scenes} == {1, 2, 3, 4}


def test_held_out_scenes_hold_nothing_else():
    """What a held-out scene shows in each place on its background is held out, and its drawings differ."""
    rng = random.Random(1)
    for _ in range(500):
        scene = held_out_scene(SPEC, rng)
        assert {(p.name, p.cell, scene.background) for p in scene.placements} <= held_out(SPEC)
        assert len(set(scene.names)) == len(scene.names)
        assert not is_training_scene(SPEC, scene)


def test_a_held_out_scene_keeps_what_was_fixed():
    """A fixed drawing stands in its place, and the background is the one on which that is held out."""
    rng = random.Random(2)
    for name in drawings(SPEC):
        scene = held_out_scene(SPEC, rng, count=3, fixed=Placement(2, name))
        assert scene.at(2) == name and len(scene.placements) == 3
        assert (name, 2, scene.background) in held_out(SPEC)


def test_scenes_depend_on_seed_purpose_and_number_alone():
    """The same three give the same scene; another of any gives another."""
    scene = training_scene(SPEC, "web", 5)
    assert training_scene(WorldSpec(num_captions=9), "web", 5) == scene
    assert training_scene(SPEC, "coco", 5) != scene
    assert training_scene(SPEC, "web", 6) != scene
    assert training_scene(WorldSpec(seed=8), "web", 5) != scene


def test_a_spec_survives_its_file_and_refuses_a_strange_one():
    """world.json gives the spec back; unknown fields and impossible numbers are errors."""
    assert WorldSpec.from_json(SPEC.as_json()) == SPEC
    with pytest.raises(ValueError, match="not a world"):
        WorldSpec.from_json('{"planets": 3}')
    with pytest.raises(ValueError, match="multiple of 8"):
        WorldSpec(num_drawings=33)
    with pytest.raises(ValueError, match="multiple of 32"):
        WorldSpec(image_size=70)


def test_a_picture_differs_from_its_background_within_the_boxes_only():
    """Each drawing is pasted within its box, within its quarter, and nowhere else."""
    scene = Scene(background="sand", placements=(Placement(0, "dog"), Placement(3, "key")), look=11)
    empty = Scene(background="sand", placements=(), look=11)
    changed = (picture(scene, 64) != picture(empty, 64)).any(axis=-1)
    for place, (left, top, width, height) in zip(scene.placements, boxes(scene, 64), strict=True):
        assert changed[top:top + height, left:left + width].mean() > 0.2
        changed[top:top + height, left:left + width] = False
        assert place.cell == 2 * (top // 32) + left // 32
        assert (left + width - 1) // 32 == left // 32 and (top + height - 1) // 32 == top // 32
    assert not changed.any()


def test_drawings_and_backgrounds_look_different():
    """No two drawings of the world, and no two backgrounds, are near each other in pixels."""
    alone = pictures([Scene(background="snow", placements=(Placement(0, n),), look=3) for n in drawings(SPEC)], 64)
    flat = alone.reshape(len(alone), -1).astype(float)
    distance = np.abs(flat[:, None, :] - flat[None]).mean(-1) + np.eye(len(flat)) * 1e3
    assert distance.min() > 4
    shades = np.array([texture(b, 0, 64).mean((0, 1)) for b in BACKGROUNDS])
    assert (np.abs(shades[:, None] - shades[None]).max(-1) + np.eye(len(shades))).min() > 0.03
