"""Answers: equal alone and in a batch, streamed and not, and ended where the template ends them."""

import pytest
import torch

from llava.chat import Chat, ChatRequest, PromptTooLong
from llava.model import AssistantConfig, LlavaModel
from llava.templates import Turn
from tests.tiny import picture, tokenizer, write_base_models


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    base = write_base_models(folder / "base")
    config = AssistantConfig(template="v1", max_length=320)
    model = LlavaModel.from_parts(base / "vision_tower", base / "language_model", config)
    with torch.no_grad():  # a model whose choices are decided, and depend on all that it reads
        for weight in (*model.language_model.parameters(), model.projector.weight):
            if weight.ndim == 2:
                weight *= 12
    model.save(folder / "assistant")
    return Chat.load(folder / "assistant")


def ask(text: str, *pictures: bytes) -> ChatRequest:
    return ChatRequest(turns=(Turn("human", "<image>\n" * len(pictures) + text),), images=pictures)


REQUESTS = [ask("What is it?", picture()), ask("Hi"), ask("Compare a long line of words, please.", picture((0, 9, 200)),
                                                         picture((3, 250, 3)))]


def test_a_batch_answers_as_each_request_alone(chat):
    """Left padding and neighbours change nothing, greedy or sampled."""
    for how in ({}, {"temperature": 0.9, "top_p": 0.8, "seed": 3}):
        together = chat.generate(REQUESTS, max_new_tokens=12, **how)
        assert together == [chat.generate([r], max_new_tokens=12, **how)[0] for r in REQUESTS]
        assert len({r.text for r in together}) > 1


def test_greedy_equals_stock_generate(chat):
    """The cached decoding loop gives the tokens of transformers' own greedy search."""
    request, model = REQUESTS[0], chat.model
    row = chat._row(request, 12, 0, ())
    embedded = model.embed(torch.tensor([row.prompt]), torch.stack(row.pixels))
    stock = model.language_model.generate(inputs_embeds=embedded, attention_mask=torch.ones(1, len(row.prompt)),
                                          max_new_tokens=12, do_sample=False, pad_token_id=0)[0]
    reply = chat.generate([request], max_new_tokens=12)[0]
    assert tokenizer().decode(stock, skip_special_tokens=True).strip() == reply.text
    assert reply.num_completion_tokens == len(stock) and reply.num_prompt_tokens == len(row.prompt)


def test_the_picture_matters(chat):
    """Another picture gives another answer to the same words."""
    replies = chat.generate([ask("What?", picture((255, 255, 255))), ask("What?", picture((0, 0, 0)))],
                            max_new_tokens=12)
    assert replies[0].text != replies[1].text


def test_a_stream_joins_to_the_reply(chat):
    """The pieces are the answer, and the generator returns the same reply."""
    expected = chat.generate(REQUESTS[:1], max_new_tokens=15)[0]
    pieces, stream = [], chat.stream(REQUESTS[0], max_new_tokens=15)
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            assert end.value == expected
            break
    assert "".join(pieces) == expected.text and len(pieces) > 1


def test_stop_strings_end_the_answer(chat):
    """The text before the stop is kept, in both ways of asking, and the reason is ``stop``."""
    whole = chat.generate(REQUESTS[:1], max_new_tokens=15)[0]
    stop = whole.text[4:6]
    cut = chat.generate(REQUESTS[:1], max_new_tokens=15, stop=[stop])[0]
    assert cut.text == whole.text.partition(stop)[0].strip() and cut.finish_reason == "stop"
    assert "".join(chat.stream(REQUESTS[0], max_new_tokens=15, stop=[stop])) == cut.text
    assert whole.finish_reason == "length"


def test_the_end_token_ends_the_answer(chat):
    """An end token of the generation config ends the answer, is counted, and is no text."""
    whole = chat.generate([REQUESTS[1]], max_new_tokens=12)[0]
    row = chat._row(REQUESTS[1], 12, 0, ())
    list(chat._decode([row], 0.0, 1.0))
    chat.model.language_model.generation_config.eos_token_id = [2, row.ids[6]]
    try:
        reply = Chat(chat.model).generate([REQUESTS[1]], max_new_tokens=12)[0]
    finally:
        chat.model.language_model.generation_config.eos_token_id = 2
    first = row.ids.index(row.ids[6])
    assert (reply.finish_reason, reply.num_completion_tokens) == ("stop", first + 1)
    assert reply.text == tokenizer().decode(row.ids[:first]).strip() and whole.finish_reason == "length"


def test_sampling_follows_the_seed(chat):
    """The same seed gives the same answer, another seed another one."""
    answers = [chat.generate([REQUESTS[1]], max_new_tokens=12, temperature=5.0, seed=s)[0].text for s in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2]


def test_bad_requests_are_refused(chat):
    """Pictures that do not match, a prompt without room, and a conversation that does not ask."""
    with pytest.raises(ValueError, match="for 0 picture"):
        chat.generate([ChatRequest(turns=(Turn("human", "<image>"),))])
    with pytest.raises(PromptTooLong, match="takes 320"):
        chat.generate([ask("why " * 400)])
    with pytest.raises(ValueError, match="human turn"):
        chat.generate([ChatRequest(turns=(Turn("human", "a"), Turn("gpt", "b")))])
