"""Training under Ray Train: the shardings agree, an attempt continues another's, and errors arrive as themselves."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.stage import BadInput, InputArtifact, RunSettings
from pipelines.stages import pretrain_projector, tune_chat
from pipelines.store import open_store
from tests.pipelines.stages.stage_context import stage_context
from tests.tiny import picture, write_base_models

COLOURS = {"red": (250, 0, 0), "blue": (0, 0, 250), "green": (0, 250, 0)}
RUN = RunSettings(num_workers=2, retries=0)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A local Ray of two processors."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False,
             runtime_env={"env_vars": {"DS_ACCELERATOR": "cpu"}})
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Models, twelve pictures with one word each, and a projector."""
    folder = tmp_path_factory.mktemp("inputs")
    write_base_models(folder / "models")
    (folder / "captions" / "images").mkdir(parents=True)
    rows = []
    for i in range(12):
        name = list(COLOURS)[i % 3]
        (folder / "captions" / "images" / f"{i}.png").write_bytes(picture(COLOURS[name]))
        rows.append({"id": f"s{i}", "image": f"{i}.png", "conversations": [
            {"from": "human", "value": "<image>\nWhat colour?"}, {"from": "gpt", "value": f"It is {name}."}]})
    rows.append({"id": "lost", "image": "no.png", "conversations": rows[0]["conversations"]})
    (folder / "captions" / "chat.json").write_text(json.dumps(rows))
    import torch

    from llava.projector import Projector, write_projector

    write_projector(Projector(weight=torch.eye(64)[:, :32], bias=torch.zeros(64)), folder / "projector")
    (folder / "projector" / "projector.json").write_text(json.dumps({"select_layer": -2, "feature": "patch"}))
    return {name: InputArtifact.of_folder(folder / name) for name in ("models", "captions", "projector")}


def tune(tmp_path: Path, inputs, name="a", epoch=1, **config):
    """A context for a chat tuning of a few steps; attempts of the same folder share a store and a key."""
    captions = inputs["captions"].folder()
    values = {"template": "v1", "learning_rate": 1e-3, "global_batch": 5, "micro_batch": 2, "epochs": 2,
              "checkpoint_every": 2, "data": str(captions / "chat.json"), "images": str(captions / "images"),
              "run": RUN, **config}
    store = open_store(f"file://{tmp_path}/store")
    ctx = stage_context(tune_chat.STAGE, tmp_path / f"{name}{epoch}", tune_chat.Config(**values), inputs, seed=3,
                        store=store)
    return replace(ctx, attempt_prefix=f"attempts/tune_chat/{name}/g1e{epoch}", epoch=epoch)


def losses(ctx) -> list[float]:
    return [json.loads(line)["loss"] for line in (ctx.out / "losses.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_the_shardings_agree(cluster, inputs, tmp_path):
    """Two workers give the same losses under plain data parallel, ZeRO-2 and ZeRO-3, and an assistant that answers."""
    from llava.chat import Chat, ChatRequest
    from llava.templates import Turn

    found, shown = {}, []
    for sharding in ("none", "zero2", "zero3"):
        ctx = tune(tmp_path, inputs, name=sharding, sharding=sharding)
        ctx.on_metrics = lambda metrics, step: shown.append((step, metrics["loss"]))
        result = tune_chat.run(ctx)
        found[sharding] = losses(ctx)
        assert result.values["num_steps"] == len(found[sharding]) == 6
        assert (result.values["num_samples"], result.values["num_dropped"]) == (12, 1)
        assert "no.png" in (ctx.out / "dropped.jsonl").read_text()
        assert shown[-6:] == [(i + 1, loss) for i, loss in enumerate(found[sharding])]
        request = ChatRequest(turns=(Turn("human", "<image>\nWhat colour?"),), images=(picture(),))
        assert Chat.load(ctx.out / "assistant").generate([request], max_new_tokens=4)[0].num_completion_tokens
        assert (ctx.out / "hf" / "model.safetensors").is_file()
    assert found["none"][-1] < found["none"][1]
    assert found["zero2"] == pytest.approx(found["none"], abs=1e-4)
    assert found["zero3"] == pytest.approx(found["none"], abs=1e-4)


@pytest.mark.slow
def test_an_attempt_continues_an_earlier_one(cluster, inputs, tmp_path, capsys):
    """An attempt that is stopped leaves a checkpoint; the next trains the rest, and ends as an undisturbed run does."""
    whole = tune(tmp_path, inputs, name="whole", sharding="zero2")
    tune_chat.run(whole)
    stopped = tune(tmp_path, inputs, name="cut", sharding="zero2")
    seen = []

    def on_progress(done, total, what):
        seen.append(done)
        if what == "steps" and done == 2:
            raise InterruptedError("lease lost")

    stopped.on_progress = on_progress
    with pytest.raises(InterruptedError):
        tune_chat.run(stopped)
    again, steps = tune(tmp_path, inputs, name="cut", epoch=2, sharding="zero2"), []
    again.on_metrics = lambda metrics, step: steps.append(step)
    tune_chat.run(again)
    assert losses(again) == losses(whole)
    assert "resuming after step" in capsys.readouterr().out
    assert not {1, 2} & set(steps)  # the stopped one may have reached its end before it heard of it
    for file in ("assistant/language_model/model.safetensors", "assistant/projector.safetensors"):
        assert (again.out / file).read_bytes() == (whole.out / file).read_bytes()


@pytest.mark.slow
def test_alignment_makes_a_projector_file(cluster, inputs, tmp_path):
    """Alignment gives a moved projector in both forms, which a tuning and the authors' loader can read."""
    from llava.projector import read_projector

    config = pretrain_projector.Config(template="plain", global_batch=6, micro_batch=3, epochs=2, max_steps=3, run=RUN)
    ctx = stage_context(pretrain_projector.STAGE, tmp_path, config, inputs, store=open_store(f"file://{tmp_path}/s"))
    result = pretrain_projector.run(ctx)
    ours, theirs = (read_projector(ctx.out / n) for n in ("projector.safetensors", "mm_projector.bin"))
    assert ours.weight.equal(theirs.weight) and ours.weight.shape == (64, 32)
    assert result.values["num_steps"] == 3 and result.metrics["final_loss"] > 0
    assert json.loads((ctx.out / "projector.json").read_text())["select_layer"] == -2


@pytest.mark.slow
def test_what_a_person_must_mend_is_raised_as_such(cluster, inputs, tmp_path):
    """A worker's finding about the input reaches the driver as BadInput, not as a training failure to be retried."""
    (tmp_path / "chat.json").write_text(json.dumps([{"id": "x"}]))
    ctx = tune(tmp_path, inputs, data=str(tmp_path / "chat.json"))
    with pytest.raises(BadInput, match=r"chat\.json: no sample.*conversations"):
        tune_chat.run(ctx)


def test_a_projector_of_other_features_is_refused(inputs, tmp_path):
    """The tuning must read what the projector was aligned to."""
    ctx = tune(tmp_path, inputs, select_layer=-1)
    with pytest.raises(BadInput, match="same select_layer"):
        tune_chat.run(ctx)


def test_a_projector_can_be_given(inputs, tmp_path):
    """An mm_projector.bin is validated and laid out as the step's output; what is none is refused."""
    given = inputs["projector"].folder() / "mm_projector.bin"
    result = pretrain_projector.import_output(given, tmp_path / "out", pretrain_projector.Config())
    assert result.values["shape"] == [64, 32]
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"projector.safetensors", "mm_projector.bin",
                                                              "projector.json"}
    with pytest.raises(BadInput, match="start and end"):
        pretrain_projector.import_output(given, tmp_path / "o", pretrain_projector.Config(image_tokens="start_end"))
    with pytest.raises(BadInput, match="cannot be read"):
        pretrain_projector.import_output(tmp_path / "gone.bin", tmp_path / "o", pretrain_projector.Config())


def test_earlier_attempts_are_of_the_same_generation(inputs, tmp_path):
    """Only lower epochs of the own generation are looked at."""
    from pipelines.ray_train import earlier_prefixes

    ctx = tune(tmp_path, inputs, epoch=3)
    assert earlier_prefixes(ctx)[:2] == ["attempts/tune_chat/a/g1e2/", "attempts/tune_chat/a/g1e1/"]
