"""The stage demo_world: the files that later steps read, byte for byte the same each time."""

import hashlib
import json

import pytest
from pydantic import ValidationError

from llava.demo.world import WorldSpec
from llava.images import ImageStore, decode_image
from pipelines.stages.demo_world import STAGE, Config
from tests.pipelines.stages.stage_context import stage_context

SMALL = {"num_drawings": 16, "num_captions": 60, "num_coco": 12, "num_problems": 20, "num_bench_images": 1,
         "num_probe_per_kind": 8, "rows_per_shard": 40, "pictures_url": "http://127.0.0.1:9/"}


def digests(folder):
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    ctx = stage_context(STAGE, tmp_path_factory.mktemp("world"), Config(**SMALL))
    return ctx.out, STAGE.run(ctx)


def test_every_file_is_there(world):
    """The files that the recipe's step:// addresses name."""
    out, result = world
    assert {n for n in digests(out) if not n.startswith("images/")} == {
        "world.json", "captions.tsv", "coco/captions.json", "coco/instances.json", "scienceqa/problems.json",
        "scienceqa/pid_splits.json", "llava_bench/questions.jsonl", "llava_bench/context.jsonl",
        "llava_bench/references.jsonl", "probe/questions.jsonl"}
    assert result.values["captions"] == len((out / "captions.tsv").read_text().splitlines()) == 60
    assert WorldSpec.from_json((out / "world.json").read_text()).num_coco == 12


def test_every_picture_that_is_named_can_be_opened(world):
    """COCO, benchmark, probe and problems name pictures of the shards, and no picture is there for nothing."""
    out, result = world
    store = ImageStore.open(out / "images")
    named = {i["file_name"] for i in json.loads((out / "coco/captions.json").read_text())["images"]}
    for file in ("llava_bench/questions.jsonl", "probe/questions.jsonl"):
        rows = [json.loads(line) for line in (out / file).read_text().splitlines()]
        named |= {row[key] for row in rows for key in ("image", "swapped_image") if key in row}
    problems = json.loads((out / "scienceqa/problems.json").read_text())
    named |= {f"{qid}/{p['image']}" for qid, p in problems.items() if p["image"]}
    assert set(store) == named and len(store) == result.values["pictures"]
    assert {decode_image(store[name]).size for name in named} == {(64, 64)}


def test_the_same_config_gives_the_same_bytes(world, tmp_path):
    """Run twice, every file is equal; another seed changes the captions."""
    out, result = world
    again = stage_context(STAGE, tmp_path / "a", Config(**SMALL))
    assert STAGE.run(again) == result
    assert digests(again.out) == digests(out)
    other = stage_context(STAGE, tmp_path / "b", Config(**SMALL, seed=8))
    STAGE.run(other)
    assert digests(other.out)["captions.tsv"] != digests(out)["captions.tsv"]


def test_a_world_that_cannot_be_is_refused():
    """A number of drawings that is no multiple of 8 and an address that is none."""
    with pytest.raises(ValidationError, match="multiple of 8"):
        Config(num_drawings=20)
    with pytest.raises(ValidationError, match="address"):
        Config(pictures_url="127.0.0.1:8380")
