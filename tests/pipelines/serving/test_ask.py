"""``llavactl ask``: the answer of what is served, or one sentence about what is wrong."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from pipelines.cli import ask
from tests import tiny
from tests.pipelines.serving.bodies import encoded


@pytest.fixture
def picture(tmp_path):
    file = tmp_path / "red.png"
    file.write_bytes(tiny.picture())
    return file


def run(*arguments):
    app = typer.Typer()
    app.command()(ask.command)
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.mark.slow
def test_answer(live, picture):
    """It prints what the API answers, at the local address by default."""
    from tests.pipelines.serving.bodies import PICTURE, image_part

    content = [image_part(PICTURE), {"type": "text", "text": "is it?"}]
    said = live.client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": content}],
                                               max_tokens=8, temperature=0)
    result = run(picture, "is it?", "--max-tokens", 8)
    assert (result.exit_code, result.stdout) == (0, f"{said.choices[0].message.content}\n")
    unknown = run(picture, "is it?", "--model", "other")
    assert unknown.exit_code == 2 and "'other' does not exist" in unknown.stderr


def test_nothing_is_served(picture):
    """No server is one sentence with the way out."""
    result = run(picture, "is it?", "--url", "http://127.0.0.1:9")
    assert result.exit_code == 2 and "nothing answers at http://127.0.0.1:9" in result.stderr


def test_not_a_picture(tmp_path):
    """A missing file and a file that is no picture are named before anything is sent."""
    (tmp_path / "notes.txt").write_text("hello")
    for name, said in (("notes.txt", "not a readable picture"), ("missing.png", "no such file")):
        result = run(tmp_path / name, "is it?", "--url", "http://127.0.0.1:9")
        assert result.exit_code == 2 and name in result.stderr and said in result.stderr


def test_other_formats_are_sent_as_jpeg(tmp_path):
    """The API reads four formats; whatever else can be read is sent as one of them, and those as they are."""
    (tmp_path / "a.bmp").write_bytes(encoded("BMP"))
    (tmp_path / "a.gif").write_bytes(encoded("GIF"))
    assert ask.data_uri(tmp_path / "a.bmp").startswith("data:image/jpeg;base64,/9j/")
    assert ask.data_uri(tmp_path / "a.gif").startswith("data:image/gif;base64,R0lGOD")
