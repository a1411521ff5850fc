"""The published schema, the templates' exact strings, and masks built from spans."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava.conversations import (
    IGNORE,
    IMAGE_TOKEN,
    TEMPLATES,
    BadConversations,
    CannotEncode,
    Sample,
    Turn,
    encode,
    encode_prompt,
    place_images,
    read_samples,
    write_samples,
)
from tests.tiny import tokenizer

TWO_ROUNDS = Sample(id="s", images=("a.jpg",), turns=(
    Turn("human", "<image>\nWhat is it?"), Turn("gpt", "A cat."), Turn("human", "Red?"), Turn("gpt", "Yes.")))
HUMAN_SYSTEM = ("A chat between a curious human and an artificial intelligence assistant. The assistant gives "
                "helpful, detailed, and polite answers to the human's questions.")
USER_SYSTEM = HUMAN_SYSTEM.replace("human", "user")
HELPFUL = ("You are a helpful language and vision assistant. You are able to understand the visual content that the "
           "user provides, and assist the user with a variety of tasks using natural language.")
GOLDEN = {  # rendered, «…» around what is supervised
    "v0": HUMAN_SYSTEM + "\n\n### Human: <image>\nWhat is it?\n### Assistant:« A cat.\n###» Human: Red?\n"
          "### Assistant:« Yes.\n###» ",
    "llava_v0": HUMAN_SYSTEM + "###Human: <image>\nWhat is it?###Assistant:« A cat.###»Human: Red?###Assistant:"
                "« Yes.###»",
    "v1": "<s>" + USER_SYSTEM + " USER: <image>\nWhat is it? ASSISTANT:« A cat.</s>»USER: Red? ASSISTANT:« Yes.</s>»",
    "llava_v1": "<s>" + HUMAN_SYSTEM + " USER: <image>\nWhat is it? ASSISTANT:« A cat.</s>»USER: Red? ASSISTANT:"
                "« Yes.</s>»",
    "llava_llama_2": f"<s>[INST] <<SYS>>\n{HELPFUL}\n<</SYS>>\n\n<image>\nWhat is it? [/INST]« A cat. </s>»<s>[INST] "
                     "Red? [/INST]« Yes. </s>»",
}


def shown(ids: list[int], labels: list[int]) -> str:
    """Text of the ids with « and » around supervised runs and <image> for a run of image tokens."""
    words, out, inside, run = tokenizer(), "", False, []
    for i, (token, label) in enumerate(zip(ids, labels, strict=True)):
        assert label in (IGNORE, token)
        if (label != IGNORE) != inside:
            out, run, inside = out + words.decode(run), [], not inside
            out += "«" if inside else "»"
        if token == IMAGE_TOKEN:
            out, run = out + words.decode(run), []
            out += "" if i and ids[i - 1] == IMAGE_TOKEN else "<image>"
        else:
            run.append(token)
    return out + words.decode(run) + ("»" if inside else "")


@pytest.mark.parametrize("name", GOLDEN)
def test_templates_render_and_mask_exactly(name):
    """Each template gives its published string, and supervises each answer with what ends it and nothing else."""
    encoded = encode(TWO_ROUNDS, TEMPLATES[name], tokenizer(), 4)
    expected = GOLDEN[name] if GOLDEN[name].startswith("<s>") else "<s>" + GOLDEN[name]
    assert shown(encoded.ids, encoded.labels) == expected
    assert encoded.ids.count(IMAGE_TOKEN) == 4


def test_plain_is_picture_and_caption():
    """``plain`` shows no instruction and supervises the caption and its newline."""
    sample = Sample(id="p", images=("a.jpg",), turns=(Turn("human", "Describe it.\n<image>"), Turn("gpt", "a cat")))
    encoded = encode(sample, TEMPLATES["plain"], tokenizer(), 2)
    assert shown(encoded.ids, encoded.labels) == "<s><image>«a cat\n»"


def test_plain_refuses_dialogues():
    """More than one round does not silently lose its questions."""
    with pytest.raises(CannotEncode, match="one picture and one caption"):
        encode(TWO_ROUNDS, TEMPLATES["plain"], tokenizer(), 2)


ANY_TEXT = st.text(max_size=25) | st.sampled_from(
    ["</s>", "<s> x", "###", " ASSISTANT: no", "[/INST] ", "<image>", "\n"])


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(GOLDEN)), ANY_TEXT, ANY_TEXT, ANY_TEXT)
def test_supervised_text_is_answers_and_stops(name, question, first, second):
    """Whatever the words, the supervised tokens spell the answers and their stops, and the rest spells the rest."""
    question = question.replace("<image>", "picture")
    turns = (Turn("human", question), Turn("gpt", first), Turn("human", question), Turn("gpt", second))
    template = TEMPLATES[name]
    encoded = encode(Sample(id="h", turns=turns), template, tokenizer(), 4)
    spelled = tokenizer().decode([label for label in encoded.labels if label != IGNORE])
    stop = template.stop + ("</s>" if template.end else "")
    assert spelled.replace(" ", "") == "".join((first, stop, second, stop)).replace(" ", "")
    assert encoded.ids.count(2) == (2 if template.end else 0)  # words that look like </s> are no end


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(GOLDEN)), st.text(max_size=20), st.text(min_size=1, max_size=20))
def test_prompt_is_what_training_shows(name, question, answer):
    """A prompt's ids are the ids before the answer in the training sample."""
    turns = (Turn("human", question.replace("<image>", "x")), Turn("gpt", answer))
    encoded = encode(Sample(id="h", turns=turns), TEMPLATES[name], tokenizer(), 4)
    prompt = encode_prompt(turns[:1], TEMPLATES[name], tokenizer(), 4)
    first = next(i for i, label in enumerate(encoded.labels) if label != IGNORE)
    white = tokenizer().decode(encoded.ids[len(prompt):first])
    assert encoded.ids[:len(prompt)] == prompt and white.strip() == ""


def test_image_ends_wrap_each_picture():
    """Start and end tokens stand around the run of image tokens."""
    ids = encode(TWO_ROUNDS, TEMPLATES["v1"], tokenizer(), 3, image_ends=(901, 902)).ids
    at = ids.index(901)
    assert ids[at:at + 5] == [901, IMAGE_TOKEN, IMAGE_TOKEN, IMAGE_TOKEN, 902]


def test_cut_never_reaches_a_picture():
    """A length that would cut a picture is an error; one that cuts text is kept exactly."""
    whole = encode(TWO_ROUNDS, TEMPLATES["v1"], tokenizer(), 4)
    cut = len(whole.ids) - 2
    assert encode(TWO_ROUNDS, TEMPLATES["v1"], tokenizer(), 4, max_length=cut).ids == whole.ids[:cut]
    with pytest.raises(CannotEncode, match="picture lies beyond"):
        encode(TWO_ROUNDS, TEMPLATES["v1"], tokenizer(), 4, max_length=whole.ids.index(IMAGE_TOKEN) + 2)


def test_nothing_supervised_is_an_error():
    """A sample whose answers are cut off is named, not trained on with zero loss."""
    text = Sample(id="long", turns=(Turn("human", "why " * 50), Turn("gpt", "so")))
    with pytest.raises(CannotEncode, match=r"'long'.*no supervised token"):
        encode(text, TEMPLATES["v1"], tokenizer(), 4, max_length=60)


def test_front_moves_each_picture_before_its_turn():
    """``front`` puts the mark on its own line first; answers and turns without pictures stay as they are."""
    turns = (Turn("human", "What is <image> here? "), Turn("gpt", "an <image> tag"), Turn("human", " and? "))
    assert place_images(turns, "front") == (Turn("human", "<image>\nWhat is  here?"), *turns[1:])
    assert place_images(turns, "kept") == turns


def test_samples_survive_a_round_trip(tmp_path):
    """What is written in the published schema is read back equal, without violations."""
    samples = [TWO_ROUNDS, Sample(id="t", turns=(Turn("human", "é?"), Turn("gpt", "ü"))),
               Sample(id="m", images=("a", "b"), turns=(Turn("human", "<image><image>"), Turn("gpt", "x")))]
    write_samples(samples, tmp_path / "chat.json")
    assert read_samples(tmp_path / "chat.json") == (samples, [])


ROUND = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
BROKEN = [
    (3, "(row)"), ({"conversations": ROUND}, "id"), ({"id": 7, "conversations": ROUND}, "id"),
    ({"id": "a"}, "conversations"), ({"id": "a", "conversations": ROUND[:1]}, "conversations"),
    ({"id": "a", "conversations": ROUND[::-1]}, "conversations[0].from"),
    ({"id": "a", "conversations": [ROUND[0], {"from": "gpt", "value": " "}]}, "conversations[1].value"),
    ({"id": "a", "conversations": [ROUND[0], "a"]}, "conversations[1]"),
    ({"id": "a", "image": "x.jpg", "conversations": ROUND}, "conversations"),
    ({"id": "a", "image": "../x.jpg", "conversations": ROUND}, "image"),
    ({"id": "a", "image": [], "conversations": ROUND}, "image"),
    ({"id": "a", "conversations": [{"from": "human", "value": "<image>"}, ROUND[1]]}, "conversations"),
    ({"id": "a", "image": "x", "conversations": [*ROUND, {"from": "human", "value": "<image>"}, ROUND[1]]},
     "conversations"),
]


@pytest.mark.parametrize(("row", "field"), BROKEN)
def test_violations_name_row_and_field(tmp_path, row, field):
    """A broken row is told by file, row and field, and the rows around it are kept."""
    good = {"id": "g", "conversations": ROUND}
    (tmp_path / "c.json").write_text(json.dumps([good, row, good]))
    samples, violations = read_samples(tmp_path / "c.json")
    assert [s.id for s in samples] == ["g", "g"]
    assert [(v.file, v.row, v.field) for v in violations] == [("c.json", 1, field)]


@pytest.mark.parametrize("body", [b"{}", b"[1,", b"\xff"])
def test_unusable_file_is_one_error(tmp_path, body):
    """A file that is no JSON list is refused as a whole, by name."""
    (tmp_path / "c.json").write_bytes(body)
    with pytest.raises(BadConversations, match=r"c\.json"):
        read_samples(tmp_path / "c.json")
