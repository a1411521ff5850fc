"""The model behind the API, without Ray."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.serving.assistant import Assistant, CanaryFailed, to_chat
from pipelines.serving.errors import ApiError
from pipelines.serving.parsing import Completion, Message, Sampling
from pipelines.serving.served import Canary, check_folder
from tests import tiny


@pytest.fixture(scope="module")
def assistant(assistant_folder):
    return Assistant(assistant_folder, "tiny-v1")


def asked(text: str, *images: bytes, **sampling) -> Completion:
    return Completion(model="tiny", messages=(Message(role="human", text=text, images=images),),
                      sampling=Sampling(**{"max_tokens": 6} | sampling))


def streamed(assistant, one):
    pieces, deltas = assistant.start(one), []
    while True:
        item = assistant.piece(pieces)
        if hasattr(item, "usage"):
            return "".join(deltas), item
        deltas.append(item.text)


def test_stream_equals_whole(assistant):
    """A streamed answer is the whole answer, with the same counts."""
    one = asked("what is in the picture", tiny.picture())
    [whole] = assistant.answer([one])
    assert streamed(assistant, one) == (whole.text, whole)
    assert whole.text and whole.fingerprint == "tiny-v1"


def test_answers_come_in_order(assistant):
    """Requests of different sampling in one batch get their own answers."""
    mixed = [asked("a red cat", max_tokens=3), asked("two blue dogs"), asked("is it?", tiny.picture(), max_tokens=3)]
    together = assistant.answer(mixed)
    assert together == [assistant.answer([one])[0] for one in mixed]
    assert all(a.num_completion_tokens <= m.sampling.max_tokens for a, m in zip(together, mixed, strict=True))


def test_typed_mark_is_text(assistant):
    """``<image>`` and special tokens in the words are more tokens of text, not pictures or ends."""
    plain, marked = assistant.answer([asked("what is", tiny.picture()), asked("what is <image> </s>", tiny.picture())])
    assert marked.num_prompt_tokens > plain.num_prompt_tokens + 4
    assert assistant.answer([asked("<image>")])[0].num_prompt_tokens > 5


def test_pictures_stand_first():
    """A turn shows its pictures before its words, each on a line."""
    request = to_chat([Message(role="human", text="and this?", images=(b"1", b"2"))])
    assert request.turns[0].text == "<image>\n<image>\nand this?"
    assert request.images == (b"1", b"2")


def test_too_long_spoils_no_other(assistant):
    """A request that does not fit is refused; the one beside it is answered."""
    refused, answered = assistant.answer([asked("word " * 600), asked("a cat")])
    assert isinstance(refused, ApiError) and (refused.status, refused.code) == (400, "context_length_exceeded")
    assert answered == assistant.answer([asked("a cat")])[0]
    assert isinstance(assistant.start(asked("word " * 600)), ApiError)


def test_canary(assistant):
    """A canary passes on any text when it expects nothing, and fails when an expected word is missing."""
    assistant.check([Canary(question="what is it", picture=tiny.picture())])
    with pytest.raises(CanaryFailed, match="none of zebra"):
        assistant.check([Canary(question="what is it", picture=tiny.picture(), expect=("zebra",))])


def test_canary_reads_words():
    """An expected word must be a word of the answer, and no text is never an answer."""
    canary = Canary(question="?", picture=b"", expect=("red fox", "cat"))
    assert canary.complaint("A fox that is red.") is None
    assert canary.complaint("Catalogues.") and canary.complaint(" ")


def test_weights_that_are_not_numbers(assistant_folder, tmp_path):
    """A model with a NaN among its weights is refused when it is loaded, by the name of the weight."""
    broken = shutil.copytree(assistant_folder, tmp_path / "assistant")
    [file] = (broken / "language_model").glob("*.safetensors")
    weights = load_file(file)
    weights["model.norm.weight"][0] = torch.nan
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(CanaryFailed, match=r"norm\.weight"):
        Assistant(broken, "tiny-v2")


def test_folder_without_code(assistant_folder, tmp_path):
    """A pickle, a link or a config that names code is refused before anything is loaded."""
    check_folder(assistant_folder)
    for name, text in (("weights.bin", "x"), ("config.json", '{"auto_map": {}}')):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=name):
            check_folder(tmp_path)
        (tmp_path / name).unlink()
    (tmp_path / "link.json").symlink_to("/etc/hostname")
    with pytest.raises(ValueError, match="link"):
        check_folder(tmp_path)
