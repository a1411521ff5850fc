"""convert_scienceqa: the official ScienceQA files become samples of the published schema, every question once.

Output: train.json, val.json, test.json (splits in their official order) and report.json (counts). A problem that is
malformed or missing stops the step with its id and field: a converted set is complete or there is none.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import field_validator

from llava.benchmarks.records import MalformedRecords
from llava.benchmarks.scienceqa import problems_of, read_problems, read_splits, sides, to_sample
from llava.conversations import BadConversations, Sample, read_samples, write_samples
from pipelines.stage import BadInput, Placement, Result, Source, Stage, StageContext, StepConfig

SPLITS = ("train", "val", "test")


class Config(StepConfig):
    problems: Source | None = None  # the official problems.json
    splits: Source | None = None  # the official pid_splits.json
    answer_format: str = "QCM-LEA"  # reasoning before the answer; QCM-LEPA for the paper's own checkpoints

    @field_validator("answer_format")
    @classmethod
    def _known(cls, value: str) -> str:
        sides(value)
        return value


def run(ctx: StageContext) -> Result:
    config: Config = ctx.config
    counts = {}
    try:
        problems, splits = read_problems(ctx.source("problems")), read_splits(ctx.source("splits"))
        for done, split in enumerate(SPLITS):
            ctx.progress(done, len(SPLITS), "splits")
            samples = [to_sample(p, config.answer_format) for p in problems_of(problems, splits, split)]
            write_samples(samples, ctx.out / f"{split}.json")
            counts[split] = _count(samples)
    except MalformedRecords as error:
        raise BadInput(str(error)) from None
    report = {"answer_format": config.answer_format, "splits": counts}
    (ctx.out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    return Result(values=report)


def import_output(given: Path, out: Path, config: Config) -> Result:
    """Take a folder that holds train.json, val.json and test.json in the published schema."""
    counts = {}
    for split in SPLITS:
        try:
            samples, violations = read_samples(given / f"{split}.json")
        except BadConversations as error:
            raise BadInput(f"convert_scienceqa.from must be a folder with train.json, val.json and test.json: "
                           f"{error}") from None
        if violations:
            raise BadInput(f"{given}: {len(violations)} rows break the schema, the first: {violations[0]}")
        write_samples(samples, out / f"{split}.json")
        counts[split] = _count(samples)
    return Result(values={"splits": counts})


def _count(samples: list[Sample]) -> dict[str, int]:
    with_image = sum(bool(sample.images) for sample in samples)
    return {"samples": len(samples), "with_image": with_image, "text_only": len(samples) - with_image}


STAGE = Stage(name="convert_scienceqa", config=Config, run=run, needs=("problems", "splits"),
              placement=Placement.DRIVER, import_output=import_output)
