import csv
import json

import pytest
from typer.testing import CliRunner

from pipelines.cli.benchmark import app

LABELS = [["qid", "answer", "n_choices", "has_text", "has_image", "grade", "subject"],
          ["1", "0", "2", "1", "1", "2", "natural science"], ["2", "1", "3", "0", "0", "7", "language science"]]


@pytest.fixture
def files(tmp_path):
    with (tmp_path / "labels.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(LABELS)
    predictions = {"outputs": {"1": "A", "2": "no idea"}, "results": {"1": 0, "2": 1}}
    (tmp_path / "file.json").write_text(json.dumps(predictions))
    return tmp_path


def call(*arguments):
    return CliRunner().invoke(app, ["scienceqa", "score", *map(str, arguments)])


def test_score_prints_one_json_object(files):
    """With --json, nothing but the object stands on stdout."""
    result = call(files / "file.json", "--labels", files / "labels.csv", "--json")
    scores = json.loads(result.stdout)
    assert result.exit_code == 0
    assert (scores["rule"], scores["correct"], scores["unusable"], scores["accuracy"]) == ("strict", 1, 1, 50.0)


def test_the_rule_is_chosen_and_named(files):
    """The table says under which rule it was made."""
    stored = call(files / "file.json", "--labels", files / "labels.csv", "--rule", "stored")
    assert "rule stored" in stored.stdout
    assert "100.00" in stored.stdout
    assert "no_answer" in call(files / "file.json", "--labels", files / "labels.csv").stdout


@pytest.mark.parametrize(("arguments", "message"), [
    (("file.json",), "give --labels"), (("none.json", "--labels", "labels.csv"), "none.json: cannot be read"),
    (("file.json", "--labels", "file.json"), "give --splits"),
])
def test_what_is_missing_is_one_message(files, monkeypatch, arguments, message):
    """Exit code 2, a sentence on stderr, no traceback."""
    monkeypatch.chdir(files)
    result = call(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
