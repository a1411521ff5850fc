"""The loop: what a step is, that it learns, stops on nonsense, and continues where it was."""

import math
from dataclasses import replace

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup

from llava.batches import Sampler, TrainingSet, encode_samples
from llava.conversations import Sample
from llava.engines import make_engine
from llava.model import AssistantConfig, LlavaModel
from llava.objective import Objective
from llava.templates import Turn
from llava.training import (
    Losses,
    LossIsNotFinite,
    TrainingConfig,
    learning_rate_at,
    load_checkpoint,
    save_checkpoint,
    train,
)
from tests.tiny import picture, write_base_models

COLOURS = {"red": (250, 0, 0), "blue": (0, 0, 250), "green": (0, 250, 0)}
IMAGES = {f"{name}.png": picture(rgb) for name, rgb in COLOURS.items()}
SAMPLES = [Sample(id=f"{name}{i}", images=(f"{name}.png",),
                  turns=(Turn("human", "<image>\nWhat?"), Turn("gpt", name))) for i in range(4) for name in COLOURS]
CONFIG = TrainingConfig(learning_rate=3e-3, global_batch=5, epochs=2, precision="float32", micro_batch=2, seed=7,
                        checkpoint_every=2)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base_models(tmp_path_factory.mktemp("base"))


def start(base, *, alignment=False, dtype=torch.float32, **config):
    model = LlavaModel.from_parts(base / "vision_tower", base / "language_model",
                                  AssistantConfig(**{"template": "v1", **config}), dtype=dtype, seed=1)
    kept, encoded, dropped = encode_samples(SAMPLES, model, IMAGES)
    assert not dropped
    if alignment:
        model.train_alignment()
    else:
        model.train_tuning()
    engine = make_engine("none", Objective(model), CONFIG.optimisation(), torch.device("cpu"))
    return engine, TrainingSet(kept, encoded, model, IMAGES)


def losses_of(result: Losses) -> list[float]:
    return [report.loss for report in result.reports]


def changed(config: TrainingConfig, **values) -> TrainingConfig:
    return replace(config, **values)


@pytest.mark.parametrize("num_steps", [7, 100])
def test_the_schedule_is_the_authors(num_steps):
    """Every step's learning rate equals transformers' cosine schedule with warm-up."""
    config = TrainingConfig(learning_rate=2e-3, global_batch=1)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([weight], lr=2e-3)
    schedule = get_cosine_schedule_with_warmup(optimizer, math.ceil(0.03 * num_steps), num_steps)
    for step in range(num_steps):
        assert learning_rate_at(step, num_steps, config) == pytest.approx(schedule.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        schedule.step()


def test_it_learns_to_name_the_picture(base):
    """The loss goes below what anyone can reach who does not look at the pictures."""
    engine, data = start(base)
    result = train(engine, data, changed(CONFIG, learning_rate=1e-2, epochs=40, global_batch=12, micro_batch=12))
    blind = math.log(len(COLOURS)) * len(data) / sum(data.num_supervised)
    assert losses_of(result)[0] > 4 and losses_of(result)[-1] < 0.8 * blind


def test_micro_batches_change_nothing(base):
    """Losses and weights are the same however a batch is cut."""
    runs = []
    for micro_batch in (1, 2, 5):
        engine, data = start(base)
        runs.append((losses_of(train(engine, data, changed(CONFIG, micro_batch=micro_batch))), engine.whole_state()))
    for losses, state in runs[1:]:
        assert losses == pytest.approx(runs[0][0], rel=1e-5)
        for name, tensor in state.items():
            torch.testing.assert_close(tensor, runs[0][1][name], rtol=1e-4, atol=1e-5)


def test_a_step_equals_a_plain_training_step(base):
    """The first steps equal those of stock AdamW on the mean loss of the whole batch, clipping included."""
    engine, data = start(base)
    config = changed(CONFIG, max_steps=3, warmup_ratio=0.0)
    result = train(engine, data, config)
    twin, _ = start(base)
    model = twin.objective.model
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=0.0)
    sampler = Sampler(num_samples=len(data), global_batch=5, epochs=2, seed=7, max_steps=3)
    for step, report in enumerate(result.reports):
        batch = data.collate(sampler.batch(step), dict.fromkeys(range(len(data)), 0.0))
        logits = model.language_model.lm_head(model(batch.ids_NT, batch.mask_NT, batch.pixels))
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch.labels_NT[:, 1:].flatten())
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, 3, config)
        optimizer.step()
        optimizer.zero_grad()
        assert report.loss == pytest.approx(loss.item(), rel=1e-5)
        assert report.grad_norm == pytest.approx(float(norm), rel=1e-4)


def test_alignment_moves_the_projector_and_nothing_else(base):
    """After alignment every tensor but the projector and the new rows is bit for bit what it was."""
    engine, data = start(base, alignment=True, image_tokens="start_end")
    before = {n: t.clone() for n, t in engine.objective.model.state_dict().items()}
    train(engine, data, CONFIG)
    moved = {n for n, t in engine.objective.model.state_dict().items() if not torch.equal(t, before[n])}
    assert moved == {"projector.weight", "projector.bias", "new_token_embeddings"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_resumed_run_continues_bit_for_bit(base, tmp_path, dtype):
    """From a checkpoint the remaining losses and the final weights equal those of the undisturbed run."""
    engine, data = start(base, dtype=dtype)
    whole = train(engine, data, CONFIG)
    first, data = start(base, dtype=dtype)
    train(first, data, CONFIG, on_step=lambda report: report.step == 2,
          on_checkpoint=lambda losses: save_checkpoint(first, losses, tmp_path / str(len(losses.reports))))
    again, data = start(base, dtype=dtype)
    losses = load_checkpoint(again, tmp_path / "3")
    assert len(losses.reports) == 3
    resumed = train(again, data, CONFIG, losses=losses)
    assert resumed.reports == whole.reports
    assert all(torch.equal(t, whole_t) for t, whole_t in zip(
        again.whole_state().values(), engine.whole_state().values(), strict=True))


def test_checkpoints_are_taken_when_due(base):
    """Every N steps and after the last; every step is reported once, in order."""
    engine, data = start(base)
    taken, seen = [], []
    train(engine, data, changed(CONFIG, max_steps=5), on_checkpoint=lambda losses: taken.append(len(losses.reports)),
          on_step=lambda report: bool(seen.append(report.step)))
    assert taken == [2, 4, 5] and seen == [1, 2, 3, 4, 5]


def test_a_loss_that_is_no_number_stops_before_the_weights(base):
    """The error names the step and its samples, and no weight has become NaN."""
    engine, data = start(base)
    engine.objective.model.projector.weight.data.fill_(float("inf"))
    with pytest.raises(LossIsNotFinite, match=r"step 1 .*(red|blue|green)\d"):
        train(engine, data, CONFIG)
    assert torch.isfinite(engine.objective.model.language_model.lm_head.weight).all()
