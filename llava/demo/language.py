"""A Llama language model for the demo, taught on texts about training scenes.

It learns captions, descriptions, problems, and dialogues about pictures written out as words: one word for each patch
in reading order, the drawing's name or the background's. What it learns there, to find in such a grid what stands
where, is what it needs when projected features of patches take the words' place. It never sees a picture.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llava.benchmarks.scienceqa import Problem, answer_text, question_text
from llava.conversations import IGNORE, Encoded, Sample, encode
from llava.demo import grammar
from llava.demo.phrasing import five_captions, web_caption
from llava.demo.problems import problem, split_of
from llava.demo.world import Scene, WorldSpec, training_scene
from llava.templates import ASSISTANT, HUMAN, TEMPLATES, Turn

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

REQUESTS = ("Describe the following image.", "Describe the image concisely.",
            "Provide a brief description of the given image.", "Write a detailed description of the given image.",
            "Summarize the visual content of the image.", "Share a concise interpretation of the image provided.")
PROBLEM_FORMAT = "QCM-LEA"


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageSettings:
    """Sizes of the model, in Llama's terms, and of its training. template: of the dialogues that it learns from."""

    width: int = 256
    layers: int = 2
    heads: int = 4
    intermediate: int = 512
    vocab_size: int = 768
    template: str = "v1"
    steps: int = 400
    batch_size: int = 32
    learning_rate: float = 2e-3


def build_language_model(settings: LanguageSettings, vocab_size: int) -> LlamaForCausalLM:
    """A model with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(
        hidden_size=settings.width, intermediate_size=settings.intermediate, num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads, num_key_value_heads=settings.heads, vocab_size=vocab_size,
        max_position_embeddings=2048, bos_token_id=1, eos_token_id=2, pad_token_id=0, attn_implementation="sdpa"))


def written_picture(scene: Scene, side: int, rng: random.Random) -> str:
    """One word a patch, row by row: the name of what stands in the patch's quarter, now and then what is behind it."""
    words = []
    for row in range(side):
        for column in range(side):
            name = scene.at(2 * (2 * row // side) + 2 * column // side)
            words.append(name if name and rng.random() < 0.8 else scene.background)
    return " ".join(words)


def dialogue(spec: WorldSpec, number: int, side: int) -> Sample:
    """The numbered text: a conversation, a description or a question about a written picture, or a problem."""
    rng = random.Random(f"{spec.seed}/dialogue/{number}")
    scene = training_scene(spec, "language", number)
    draw = rng.random()
    if draw < 0.2:
        return _problem_dialogue(spec, rng, side)
    shown = written_picture(scene, side, rng)
    captions = five_captions(scene, rng)
    facts = grammar.understand(captions, [])
    if draw < 0.8:
        pairs = grammar.conversation(facts, rng)
    elif draw < 0.88:
        pairs = [(rng.choice(REQUESTS[:1] + REQUESTS[3:4]), grammar.describe(facts, rng))]
    elif draw < 0.92:
        pairs = [(rng.choice(REQUESTS), web_caption(scene, rng))]
    else:
        pairs = [grammar.reason(facts, rng)]
    return _sample(number, shown, pairs, rng)


def _problem_dialogue(spec: WorldSpec, rng: random.Random, side: int) -> Sample:
    number = 5 * rng.randrange(spec.num_problems, spec.num_problems + 100_000) + rng.randrange(3)
    assert split_of(number) == "train"
    qid, fields, scene = problem(spec, number)
    parsed = Problem(qid=qid, question=fields["question"], choices=tuple(fields["choices"]), answer=fields["answer"],
                     hint=fields["hint"], image=fields["image"], grade=1, subject=fields["subject"],
                     lecture=fields["lecture"], solution=fields["solution"])
    question_side, answer_side = PROBLEM_FORMAT.split("-")
    pair = question_text(parsed, question_side), answer_text(parsed, answer_side)
    return _sample(number, written_picture(scene, side, rng) if scene else None, [pair], rng)


def _sample(number: int, shown: str | None, pairs: list[tuple[str, str]], rng: random.Random) -> Sample:
    turns: list[Turn] = []
    for i, (question, said) in enumerate(pairs):
        if i == 0 and shown is not None:
            question = f" {shown}\n{question}" if rng.random() < 0.5 else f"{question}\n {shown}"
        turns += [Turn(HUMAN, question), Turn(ASSISTANT, said)]
    return Sample(id=str(number), turns=tuple(turns))


def texts(spec: WorldSpec, number: int, side: int) -> Iterator[str]:
    """Plain texts to learn a tokenizer from."""
    for name in ("v0", "v1"):
        for i in range(number):
            spans = TEMPLATES[name].render(dialogue(spec, i, side).turns)
            yield "".join(span.text for span in spans)


def encode_dialogue(sample: Sample, tokenizer: PreTrainedTokenizerFast, template: str) -> Encoded:
    return encode(sample, TEMPLATES[template], tokenizer, num_image_tokens=0)


def train_language_model(spec: WorldSpec, tokenizer: PreTrainedTokenizerFast, settings: LanguageSettings, side: int,
                         seed: int, report: Callable[[int, dict[str, float]], None]) -> LlamaForCausalLM:
    """A model taught on dialogues made afresh for every step. side: patches along a picture."""
    import torch

    torch.manual_seed(seed)
    model = build_language_model(settings, len(tokenizer))
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    warm_up = max(1, settings.steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min(
        (s + 1) / warm_up, 0.5 + 0.5 * math.cos(math.pi * s / settings.steps)))
    model.train()
    for step, batch in enumerate(_batches(spec, tokenizer, settings, side)):
        ids, labels, mask = pad(batch)
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        report(step, {"language_loss": loss.item()})
    return model.eval()


def _batches(spec: WorldSpec, tokenizer: PreTrainedTokenizerFast, settings: LanguageSettings,
             side: int) -> Iterator[list[Encoded]]:
    """A batch for each step, of texts of like length, so that little is padding."""
    size, pool = settings.batch_size, 16
    for start in range(0, settings.steps, pool):
        steps = min(pool, settings.steps - start)
        encoded = sorted((encode_dialogue(dialogue(spec, start * size + i, side), tokenizer, settings.template)
                          for i in range(steps * size)), key=lambda e: len(e.ids))
        order = random.Random(f"{spec.seed}/batches/{start}").sample(range(steps), steps)
        yield from (encoded[k * size:(k + 1) * size] for k in order)


def pad(batch: list[Encoded]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """int64 [N, T] ids and labels and attention mask, padded on the right."""
    import torch

    length = max(len(e.ids) for e in batch)
    ids = torch.zeros(len(batch), length, dtype=torch.long)
    labels = torch.full((len(batch), length), IGNORE)
    mask = torch.zeros(len(batch), length, dtype=torch.long)
    for i, e in enumerate(batch):
        ids[i, :len(e.ids)] = torch.tensor(e.ids)
        labels[i, :len(e.ids)] = torch.tensor(e.labels)
        mask[i, :len(e.ids)] = 1
    return ids, labels, mask
