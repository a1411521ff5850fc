import pytest

from llava.benchmarks.records import Answer, MalformedRecords, in_order, read_jsonl


def answer(**changes) -> Answer:
    return Answer(**{"question_id": 3, "prompt": "p", "text": "t", "model_id": "m", "metadata": {}, **changes})


def test_an_answers_id_is_a_function_of_what_it_says():
    """Equal answers have equal ids; another text, question or model has another."""
    ids = {answer(**c).answer_id for c in ({}, {"text": "u"}, {"question_id": 4}, {"model_id": "n"}, {"prompt": "q"})}
    assert len(ids) == 5
    assert answer().answer_id == answer().answer_id


@pytest.mark.parametrize(("body", "message"), [
    (b'{"a": 1}\n{"a": \n', r"x.jsonl:2: not valid JSON"), (b"[1]\n", r"x.jsonl:1: a row is a JSON object"),
    (b"\n", "holds no row"), (b'{"a": "\xff"}', "not valid UTF-8"),
])
def test_a_bad_row_is_named_by_line(tmp_path, body, message):
    """The file is refused with the place of the fault."""
    path = tmp_path / "x.jsonl"
    path.write_bytes(body)
    with pytest.raises(MalformedRecords, match=message):
        read_jsonl(path)


def test_a_missing_file_is_an_error_of_the_input(tmp_path):
    """Not a traceback."""
    with pytest.raises(MalformedRecords, match=r"none.jsonl: cannot be read"):
        read_jsonl(tmp_path / "none.jsonl")


def test_ids_are_ordered_by_value():
    """2 comes before 10, numbers before names."""
    assert sorted(["b", "10", 2, "a"], key=in_order) == [2, "10", "a", "b"]
