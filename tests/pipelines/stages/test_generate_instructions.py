"""generate_instructions fills quotas with accepted answers, counts the rest by reason, and asks each request once."""

import json
from collections import Counter

import pytest

from llava.conversations import read_samples
from llava.instructions.parse import Kind
from llava.instructions.prompts import load_prompt
from llava.instructions.questions import DETAILED
from llava.instructions.teachers import GRAMMAR, TeacherUnavailable
from pipelines.observations import Observations
from pipelines.stage import BadInput
from pipelines.stages.generate_instructions import STAGE, Config
from pipelines.store import open_store
from tests.llava.instructions.coco import write_coco
from tests.llava.instructions.endpoint import completion, endpoint
from tests.pipelines.stages.stage_context import stage_context

ANSWERS = {
    Kind.CONVERSATION: "Question:\nWhat is it?\n===\nAnswer:\nA dog.\n===\nQuestion:\nWhere?\n===\nAnswer:\nThere.",
    Kind.DETAIL: "A dog lies on a sofa.",
    Kind.COMPLEX: "Question:\nWhy?\n===\nAnswer:\nBecause it is tired.",
}


def context(folder, num_images=6, seed=0, store=None, **config):
    captions, instances = write_coco(folder, num_images)
    config = Config.model_validate({"captions": str(captions), "instances": str(instances),
                                    "quotas": {"conversation": 0, "detail": 0, "complex": 0}} | config)
    store = open_store(f"file://{store or folder / 'store'}")
    return stage_context(STAGE, folder, config, seed=seed, store=store,
                         observations=Observations(store, "generate_instructions", "k"))


def kind_of(body):
    return next(k for k in Kind if load_prompt(k).system == body["messages"][0]["content"])


def files(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def test_the_grammar_teaches_all_kinds_and_says_what_it_is(tmp_path):
    """One sample of every image and kind, in the published schema, by a teacher that is no language model."""
    ctx = context(tmp_path, teacher="grammar")
    result = STAGE.run(ctx)
    samples, violations = read_samples(ctx.out / "chat.json")
    assert not violations and len(samples) == 18
    records = json.loads((ctx.out / "chat.json").read_text())
    assert {r["model"] for r in records} == {GRAMMAR}
    report = json.loads((ctx.out / "report.json").read_text())
    assert report["teacher"] == GRAMMAR == result.values["teacher"] and report["models"] == [GRAMMAR]
    details = [r for r in records if r["conversations"][0]["value"].replace("<image>", "").strip() in DETAILED]
    assert len(details) == 6


def test_the_same_seed_gives_the_same_files(tmp_path):
    """Byte for byte, with any concurrency; another seed draws others."""
    quotas = {"conversation": 2, "detail": 3, "complex": 1}
    outs = []
    for name, seed, concurrency in (("a", 0, 1), ("b", 0, 8), ("c", 1, 8)):
        (tmp_path / name).mkdir()
        ctx = context(tmp_path / name, 12, seed, teacher="grammar", quotas=quotas, run={"concurrency": concurrency})
        STAGE.run(ctx)
        outs.append(files(ctx.out))
    assert outs[0] == outs[1] != outs[2]
    assert set(outs[0]) == {"chat.json", "rejected.jsonl", "report.json"}


def test_rejected_answers_are_kept_counted_and_replaced(tmp_path, monkeypatch):
    """The quota is filled from further images; counts of every kind conserve; the raw response is kept."""
    monkeypatch.setenv("OPENAI_API_KEY", "k")

    def respond(body, _number):
        kind = kind_of(body)
        image = body["messages"][-1]["content"]
        if "number 101." in image:
            return 200, {}, completion("I'm sorry, I cannot help with that.")
        if "number 102." in image:
            return 200, {}, completion(ANSWERS[kind], "length")
        if "number 103." in image:
            return 400, {}, b'{"error": {"message": "too long"}}'
        return 200, {}, completion(ANSWERS[kind])

    with endpoint(respond) as (url, requests):
        ctx = context(tmp_path, 8, teacher="openai", base_url=url, model="m", quotas={
            "conversation": 5, "detail": 0, "complex": 1})
        STAGE.run(ctx)
        kinds = json.loads((ctx.out / "report.json").read_text())["kinds"]
        assert Counter(kind_of(r).value for r in requests) == {k: v["asked"] for k, v in kinds.items()}
    for counts in kinds.values():
        assert counts["images"] == 8 == counts["asked"] + counts["not_asked"]
        assert counts["asked"] == counts["accepted"] + sum(counts["rejected"].values())
    assert kinds["conversation"]["accepted"] == 5 and kinds["complex"]["accepted"] == 1
    assert kinds["detail"]["accepted"] == 5
    assert kinds["detail"]["rejected"] == {"refusal": 1, "request_refused": 1, "truncated": 1}
    rejected = [json.loads(line) for line in (ctx.out / "rejected.jsonl").read_text().splitlines()]
    refusal = next(r for r in rejected if r["reason"] == "refusal")
    assert refusal["text"].startswith("I'm sorry") and refusal["id"] == "000000000101"
    assert len(json.loads((ctx.out / "chat.json").read_text())) == 11


def test_a_rerun_asks_only_what_was_not_answered(tmp_path, monkeypatch):
    """After the endpoint failed on the way, the answers so far are not asked for again, and the files are the same."""
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    failing = [True]

    def respond(body, number):
        if failing[0] and number > 7:
            return 500, {}, b"{}"
        return 200, {}, completion(ANSWERS[kind_of(body)])

    run = {"concurrency": 1, "request_retries": 0}
    with endpoint(respond) as (url, requests):
        with pytest.raises(TeacherUnavailable):
            STAGE.run(context(tmp_path, base_url=url, model="m", run=run))
        failing[0] = False
        requests.clear()
        ctx = context(tmp_path, base_url=url, model="m", run=run)
        result = STAGE.run(ctx)
        assert len(requests) == 18 - 7 == result.metrics["teacher_requests"]
        assert result.metrics["teacher_answers_reused"] == 7
        (tmp_path / "fresh").mkdir()
        fresh = context(tmp_path / "fresh", base_url=url, model="m", run=run)
        STAGE.run(fresh)
    assert files(fresh.out) == files(ctx.out)


def test_the_key_is_in_no_file(tmp_path, monkeypatch):
    """Neither in the artifact nor in what is recorded."""
    monkeypatch.setenv("OPENAI_API_KEY", "very-secret")
    with endpoint(lambda body, _n: (200, {}, completion(ANSWERS[kind_of(body)]))) as (url, requests):
        STAGE.run(context(tmp_path, 2, base_url=url, model="m"))
        assert requests[0]["authorization"] == "Bearer very-secret"
    assert not any(b"very-secret" in p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())


@pytest.mark.parametrize(("config", "says"), [
    ({"captions": "nowhere.json"}, r"nowhere\.json does not exist"),
    ({"teacher": "openai"}, "OPENAI_API_KEY is not set"),
    ({"captions": None}, r"--set generate_instructions\.captions"),
])
def test_what_a_person_must_mend(tmp_path, monkeypatch, config, says):
    """Annotations, the key, a source that is not set."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(BadInput, match=says):
        STAGE.run(context(tmp_path, **{"teacher": "grammar", **config}))


def test_given_instructions_are_taken_as_they_are(tmp_path):
    """A published file passes; one row that breaks the schema is named."""
    first = context(tmp_path, teacher="grammar")
    STAGE.run(first)
    (tmp_path / "given").mkdir()
    result = STAGE.import_output(first.out / "chat.json", tmp_path / "given", first.config)
    assert result.values["samples"] == 18
    assert (tmp_path / "given" / "chat.json").read_bytes() == (first.out / "chat.json").read_bytes()
    rows = json.loads((first.out / "chat.json").read_text())
    rows[4]["conversations"].pop()
    (first.out / "chat.json").write_text(json.dumps(rows))
    with pytest.raises(BadInput, match=r"17 usable rows and 1 that break the schema, first chat\.json, row 4"):
        STAGE.import_output(first.out, tmp_path / "given", first.config)


def test_a_wrong_key_is_for_a_person(tmp_path, monkeypatch):
    """The endpoint and the model are named, no traceback."""
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    with endpoint(lambda _body, _n: (401, {}, b'{"error": {"message": "bad key"}}')) as (url, _), \
            pytest.raises(BadInput, match=r"refuses model 'm': .*bad key"):
        STAGE.run(context(tmp_path, base_url=url, model="m"))
