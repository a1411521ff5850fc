"""A Llama language model for the demo, taught on texts about training scenes.

It learns captions, descriptions, problems, and dialogues about pictures written out as words: for each patch, in
reading order, a bag of the words that captions use for it (``dog top left sand``), read as the mean of the words'
embeddings. What it learns there, to find in such bags what stands where, is what it needs when projected features of
patches take their place. It never sees a picture, and never a held-out combination.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from llava.benchmarks.scienceqa import Problem, answer_text, question_text
from llava.conversations import IGNORE, IMAGE, IMAGE_TOKEN, Encoded, Sample, encode
from llava.demo import grammar
from llava.demo.phrasing import five_captions, web_caption
from llava.demo.problems import problem, split_of
from llava.demo.vocabulary import CELLS
from llava.demo.world import Scene, WorldSpec, training_scene
from llava.templates import ASSISTANT, HUMAN, SYSTEM, TEMPLATES, Turn

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

REQUESTS = ("Describe the following image.", "Describe the image concisely.",
            "Provide a brief description of the given image.", "Write a detailed description of the given image.",
            "Summarize the visual content of the image.", "Share a concise interpretation of the image provided.")
PROBLEM_FORMAT = "QCM-LEA"


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageSettings:
    """Sizes of the model, in Llama's terms, and of its training. template: of the dialogues that it learns from.

    matrix_learning_rate: of the layers' matrices, which Muon steps: in a trial it learnt to look things up in
    a third of AdamW's steps. learning_rate: of embeddings, head and norms, which AdamW steps.
    """

    width: int = 256
    layers: int = 3
    heads: int = 4
    intermediate: int = 512
    vocab_size: int = 768
    template: str = "v1"
    steps: int = 400
    batch_size: int = 32
    learning_rate: float = 2e-3
    matrix_learning_rate: float = 5e-3


def build_language_model(settings: LanguageSettings, vocab_size: int) -> LlamaForCausalLM:
    """A model with random weights.

    Larger embeddings than usual, and an output head that starts as a copy of them: what is asked for is mostly a word
    that the picture holds, and so it can be copied from the first step on.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(
        hidden_size=settings.width, intermediate_size=settings.intermediate, num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads, num_key_value_heads=settings.heads, vocab_size=vocab_size,
        max_position_embeddings=2048, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        initializer_range=0.06))
    with torch.no_grad():
        model.lm_head.weight.copy_(cast(torch.nn.Embedding, model.get_input_embeddings()).weight)
    return model


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialogue:
    """A text, and the picture that it is about, written out: a bag of words for each patch, none without a picture."""

    sample: Sample
    patches: tuple[str, ...]


def written_picture(scene: Scene, side: int, rng: random.Random) -> tuple[str, ...]:
    """The words for each patch, row by row: what stands in its quarter, which quarter that is, what is behind.

    Now and then a patch of a drawing's quarter shows only what is behind, as at the drawing's edge.
    """
    bags = []
    for row in range(side):
        for column in range(side):
            cell = 2 * (2 * row // side) + 2 * column // side
            name = scene.at(cell) or "nothing"
            shown = name if rng.random() < 0.85 else "nothing"
            bags.append(f" {shown} {CELLS[cell]} {scene.background}")
    return tuple(bags)


def dialogue(spec: WorldSpec, number: int, side: int) -> Dialogue:
    """The numbered text: a conversation, a description or a question about a written picture, or a problem."""
    rng = random.Random(f"{spec.seed}/dialogue/{number}")
    scene = training_scene(spec, "language", number)
    draw = rng.random()
    if draw < 0.1:
        return _problem_dialogue(spec, rng, side)
    captions = five_captions(scene, rng)
    facts = grammar.understand(captions, [])
    if draw < 0.55:  # one question about a place: the shortest text that teaches to look, and the hardest to answer
        pairs = [rng.choice(list(grammar.places(facts, rng)))]
    elif draw < 0.65:
        pairs = [rng.choice(grammar.conversation(facts, rng))]
    elif draw < 0.8:
        pairs = grammar.conversation(facts, rng)
    elif draw < 0.88:
        pairs = [(rng.choice(REQUESTS[:1] + REQUESTS[3:4]), grammar.describe(facts, rng))]
    elif draw < 0.92:
        pairs = [(rng.choice(REQUESTS), web_caption(scene, rng))]
    else:
        pairs = [grammar.reason(facts, rng)]
    return _dialogue(number, written_picture(scene, side, rng), pairs, rng)


def _problem_dialogue(spec: WorldSpec, rng: random.Random, side: int) -> Dialogue:
    number = 5 * rng.randrange(spec.num_problems, spec.num_problems + 100_000) + rng.randrange(3)
    assert split_of(number) == "train"
    qid, fields, scene = problem(spec, number)
    parsed = Problem(qid=qid, question=fields["question"], choices=tuple(fields["choices"]), answer=fields["answer"],
                     hint=fields["hint"], image=fields["image"], grade=1, subject=fields["subject"],
                     lecture=fields["lecture"], solution=fields["solution"])
    question_side, answer_side = PROBLEM_FORMAT.split("-")
    pair = question_text(parsed, question_side), answer_text(parsed, answer_side)
    return _dialogue(number, written_picture(scene, side, rng) if scene else (), [pair], rng)


def _dialogue(number: int, patches: tuple[str, ...], pairs: list[tuple[str, str]], rng: random.Random) -> Dialogue:
    """Three in four without the template's system text, which is long and always the same."""
    turns = [Turn(SYSTEM, "")] if rng.random() < 0.75 else []
    for i, (question, said) in enumerate(pairs):
        if i == 0 and patches:
            question = f"{IMAGE}\n{question}" if rng.random() < 0.5 else f"{question}\n{IMAGE}"
        turns += [Turn(HUMAN, question), Turn(ASSISTANT, said)]
    return Dialogue(sample=Sample(id=str(number), images=("written",) if patches else (), turns=tuple(turns)),
                    patches=patches)


def texts(spec: WorldSpec, number: int, side: int) -> Iterator[str]:
    """Plain texts to learn a tokenizer from."""
    for name in ("v0", "v1"):
        for i in range(number):
            made = dialogue(spec, i, side)
            yield "".join(span.text for span in TEMPLATES[name].render(made.sample.turns))
            yield from made.patches


def train_language_model(spec: WorldSpec, tokenizer: PreTrainedTokenizerFast, settings: LanguageSettings, side: int,
                         seed: int, report: Callable[[int, dict[str, float]], None]) -> LlamaForCausalLM:
    """A model taught on dialogues made afresh for every step. side: patches along a picture."""
    import torch

    torch.manual_seed(seed)
    model = build_language_model(settings, len(tokenizer))
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if all(p is not m for m in matrices)]
    optimizers = (
        torch.optim.Muon(matrices, lr=settings.matrix_learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.01))
    warm_up = max(1, settings.steps // 15)
    schedules = [torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warm_up, 1.05 - s / settings.steps)) for optimizer in optimizers]
    model.train()
    for step, batch in enumerate(_batches(spec, tokenizer, settings, side)):
        ids, labels, mask = pad([encoded for encoded, _ in batch])
        embeds = embed_written(model, ids, [words for _, bags in batch for words in bags])
        loss = model(inputs_embeds=embeds, attention_mask=mask, labels=labels).loss
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for moving in (*optimizers, *schedules):
            moving.step()
        report(step, {"language_loss": loss.item()})
    return model.eval()


def _batches(spec: WorldSpec, tokenizer: PreTrainedTokenizerFast, settings: LanguageSettings,
             side: int) -> Iterator[list[tuple[Encoded, list[list[int]]]]]:
    """A batch for each step, of texts of like length, so that little is padding; with each text its bags of ids."""
    size, pool = settings.batch_size, 16
    for start in range(0, settings.steps, pool):
        steps = min(pool, settings.steps - start)
        encoded = []
        for i in range(steps * size):
            made = dialogue(spec, start * size + i, side)
            bags = tokenizer(list(made.patches), add_special_tokens=False)["input_ids"] if made.patches else []
            encoded.append((encode(made.sample, TEMPLATES[settings.template], tokenizer, len(bags)), bags))
        encoded.sort(key=lambda e: len(e[0].ids))
        order = random.Random(f"{spec.seed}/batches/{start}").sample(range(steps), steps)
        yield from (encoded[k * size:(k + 1) * size] for k in order)


def embed_written(model: LlamaForCausalLM, ids_NT: torch.Tensor, bags: list[list[int]]) -> torch.Tensor:
    """float32 [N, T, D]: embeddings of the ids; at each IMAGE_TOKEN the mean embedding of the next bag of ids."""
    import torch

    rows = cast(torch.nn.Embedding, model.get_input_embeddings())
    marks_NT = ids_NT == IMAGE_TOKEN
    embeds_NTD = rows(ids_NT.masked_fill(marks_NT, 0))
    if bags:
        starts = torch.tensor([0, *[len(bag) for bag in bags[:-1]]]).cumsum(0)
        means = torch.nn.functional.embedding_bag(torch.tensor([i for bag in bags for i in bag]), rows.weight, starts)
        embeds_NTD = embeds_NTD.masked_scatter(marks_NT[..., None], means)
    return embeds_NTD


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
