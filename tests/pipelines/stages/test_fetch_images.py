"""fetch_images ends every row in a stored picture or a named reason, and asks for no URL again that has an answer."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llava.captions.chat import chat_record, image_name
from llava.captions.corpus import caption_identity
from llava.conversations import read_samples
from llava.images import ImageStore
from llava.instructions.questions import BRIEF
from pipelines.observations import Observations
from pipelines.stage import BadInput, InputArtifact
from pipelines.stages.fetch_images import STAGE, Config
from pipelines.store import open_store
from tests.llava.captions.web import BODIES, Handler, misbehaving_server
from tests.pipelines.stages.stage_context import stage_context

PATHS = ["/good.jpg", "/nothing", "/good.png", "/html", "/truncated-file", "/heals", "/bomb", "/good.jpg", "/large",
         "/good.webp", "/reset", "/empty"]
REASONS = {1: "http_error", 3: "html", 4: "truncated", 6: "too_many_pixels", 8: "too_big", 10: "unreachable",
           11: "empty"}
STORED = [3 * i for i in range(len(PATHS)) if i not in REASONS]


@pytest.fixture(scope="module")
def web():
    with misbehaving_server() as address:
        yield address


def captions(folder, urls):
    """An artifact of select_captions: every third line of a corpus was selected."""
    rows = [{"row": 3 * i, "id": caption_identity(f"caption {i}", url).hex(), "caption": f"caption {i}", "url": url}
            for i, url in enumerate(urls)]
    (folder / "captions" / "selected").mkdir(parents=True, exist_ok=True)
    schema = pa.schema([("row", pa.int64()), *[(c, pa.string()) for c in ("id", "caption", "url")]])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "captions" / "selected" / "part-00000.parquet")
    return InputArtifact.of_folder(folder / "captions")


def context(folder, urls, store_folder, epoch=1, **config):
    config = Config.model_validate({
        "max_bytes": 200_000, "allow_private_hosts": ["127.0.0.1"], "max_failed_fraction": 0.7, "rows_per_shard": 10,
        "run": {"num_workers": 2, "request_timeout_s": 2, "request_retries": 1}} | config)
    store = open_store(f"file://{store_folder}")
    ctx = stage_context(STAGE, folder, config, {"captions": captions(folder, urls)}, store=store,
                        observations=Observations(store, "fetch_images", "k"))
    ctx.attempt_prefix = f"attempts/fetch_images/k/g1e{epoch}"
    return ctx


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def fetched(cluster, web, tmp_path_factory):
    """The set of PATHS, fetched once. Its context, result, and how often each path was asked for."""
    folder = tmp_path_factory.mktemp("fetched")
    Handler.asked.clear()
    ctx = context(folder, [web + p for p in PATHS], folder / "store")
    return ctx, STAGE.run(ctx), dict(Handler.asked)


@pytest.mark.slow
def test_every_row_ends_in_a_picture_or_a_reason(fetched, web):
    """Counts conserve; each failure is quarantined by name; pictures are stored as fetched, under the row's name."""
    ctx, result, _ = fetched
    assert result.values["counts"] == {"selected": 12, "stored": 5, "failed": 7}
    assert sum(result.values["failed"].values()) == 7
    quarantine = pq.read_table(ctx.out / "quarantine.parquet").to_pylist()
    assert {r["row"] // 3: r["reason"] for r in quarantine} == REASONS
    assert quarantine[0] == {"row": 3, "url": f"{web}/nothing", "reason": "http_error", "status": 404}
    images = ImageStore.open(ctx.out / "images")
    assert sorted(images) == [f"GCC_train_{row:09d}.jpg" for row in STORED]
    assert images["GCC_train_000000006.jpg"] == BODIES["/good.png"]
    assert "kept as fetched" in (ctx.out / "report.md").read_text()
    assert "| · html | 1 |" in (ctx.out / "report.md").read_text()
    assert json.loads((ctx.out / "report.json").read_text())["pictures"]["exact_copies"] == 2


@pytest.mark.slow
def test_the_set_in_the_published_schema(fetched):
    """Every stored row is one turn: an instruction of the list, <image> before or after, the caption as the answer."""
    ctx, *_ = fetched
    samples, violations = read_samples(ctx.out / "chat.json")
    assert not violations and [s.id for s in samples] == [f"GCC_train_{row:09d}" for row in STORED]
    chat = json.loads((ctx.out / "chat.json").read_text())
    assert all(r["conversations"][0]["value"].replace("<image>", "").strip() in BRIEF for r in chat)
    assert chat[1]["conversations"][1] == {"from": "gpt", "value": "caption 2"}
    metadata = json.loads((ctx.out / "metadata.json").read_text())
    assert [m["image"] for m in metadata] == [r["image"] for r in chat] and set(metadata[0]) == {
        "id", "image", "url", "caption"}


@pytest.mark.slow
def test_shards_are_cut_by_row(fetched):
    """Rows 0 to 9 lie in the first shard, whatever of them could be had."""
    ctx, *_ = fetched
    names = [p.name for p in sorted((ctx.out / "images").iterdir())]
    assert names == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    first = pq.read_table(ctx.out / "images" / "part-00000.parquet")["name"].to_pylist()
    assert first == ["GCC_train_000000000.jpg", "GCC_train_000000006.jpg"]


@pytest.mark.slow
def test_a_rerun_asks_for_nothing_and_gives_the_same_files(fetched, web, tmp_path):
    """Another epoch, after the first was lost before it published, reads the record and the stored shards."""
    ctx, _, _ = fetched
    before = Handler.asked.total()
    again = context(tmp_path, [web + p for p in PATHS], ctx.store.root, epoch=2)
    STAGE.run(again)
    assert Handler.asked.total() == before
    assert files(again.out) == files(ctx.out)


@pytest.mark.slow
def test_only_units_without_a_record_are_fetched(fetched, web, tmp_path):
    """Of a run that was killed after its first unit, the others are fetched, and the files are the same."""
    ctx, *_ = fetched
    store = open_store(f"file://{tmp_path}/store")
    record = ctx.observations.get("unit-00000")
    key = record["shard"]["key"]
    store.put(key, ctx.store.get(key).body)
    Observations(store, "fetch_images", "k").record("unit-00000", record)
    Handler.asked.clear()
    again = context(tmp_path, [web + p for p in PATHS], tmp_path / "store", epoch=2)
    STAGE.run(again)
    assert Handler.asked["/nothing"] == 0 and Handler.asked["/good.webp"] == 1
    assert {k: v for k, v in files(again.out).items() if "heals" not in k} == files(ctx.out)


@pytest.mark.slow
def test_pictures_that_are_gone_are_fetched_anew_and_must_be_the_same(fetched, web, tmp_path, monkeypatch):
    """With the stored shards lost, a row whose picture is another now ends as changed; the others are restored."""
    ctx, *_ = fetched
    shutil.copytree(ctx.store.root, tmp_path / "store")
    shutil.rmtree(tmp_path / "store" / "attempts")
    monkeypatch.setitem(BODIES, "/good.png", BODIES["/good.gif"])
    monkeypatch.setitem(BODIES, "/nothing", BODIES["/good.gif"])  # recorded as a failure, which is final
    again = context(tmp_path, [web + p for p in PATHS], tmp_path / "store", epoch=2)
    result = STAGE.run(again)
    assert result.metrics["pictures_changed"] == 1
    assert result.values["failed"]["changed"] == 1 and result.values["failed"]["http_error"] == 1
    assert len(ImageStore.open(again.out / "images")) == 4


@pytest.mark.slow
def test_an_outage_is_no_outcome(cluster, tmp_path):
    """When nothing can be reached the step fails as infrastructure, and nothing is recorded."""
    ctx = context(tmp_path, [f"http://127.0.0.1:1/{i}" for i in range(10)], tmp_path / "store", rows_per_shard=1000)
    with pytest.raises(ConnectionError, match=r"none of 10 pictures .*10 unreachable; 127\.0\.0\.1:1"):
        STAGE.run(ctx)
    assert ctx.observations.get("unit-00000") is None


@pytest.mark.slow
def test_too_many_failures_are_for_a_person(fetched, web, tmp_path):
    """The error lists the reasons and names the knob."""
    ctx, *_ = fetched
    again = context(tmp_path, [web + p for p in PATHS], ctx.store.root, epoch=2, max_failed_fraction=0.5)
    with pytest.raises(BadInput, match=r"7 of 12 pictures .*1 http_error.*max_failed_fraction"):
        STAGE.run(again)


def test_given_pictures_are_taken_as_they_are(tmp_path):
    """chat.json with a folder of files becomes shards; a picture that is missing is named."""
    given, out = tmp_path / "given", tmp_path / "out"
    (given / "images").mkdir(parents=True)
    out.mkdir()
    records = [chat_record(row, "a dog", "0" * 64, 0) for row in (3, 5)]
    (given / "chat.json").write_text(json.dumps(records))
    (given / "images" / image_name(3)).write_bytes(BODIES["/good.jpg"])
    with pytest.raises(BadInput, match=r"1 pictures .*first GCC_train_000000005\.jpg"):
        STAGE.import_output(given, out, Config())
    (given / "images" / image_name(5)).write_bytes(BODIES["/good.png"])
    assert STAGE.import_output(given, out, Config()).values["counts"]["stored"] == 2
    assert dict(ImageStore.open(out / "images")) == {
        image_name(3): BODIES["/good.jpg"], image_name(5): BODIES["/good.png"]}
    assert json.loads((out / "chat.json").read_text()) == records


def test_an_empty_selection_is_for_a_person(tmp_path):
    """It says where captions come from."""
    ctx = context(tmp_path, [], tmp_path / "store")
    with pytest.raises(BadInput, match=r"no caption was selected.*select_captions"):
        STAGE.run(ctx)
