"""The chat page in a real browser: a picture is chosen, a question typed, and the answer is read as it is written."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, Route, expect, sync_playwright

from tests import tiny
from tests.pipelines.serving.conftest import DESCRIPTION

pytestmark = pytest.mark.slow
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run"]
FILE = {"name": "red.png", "mimeType": "image/png", "buffer": tiny.picture(size=(64, 48))}


@pytest.fixture(scope="module")
def browser_page(live) -> Iterator[Page]:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert found, "no Chromium on this machine: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, headless=True, args=FLAGS)
        yield browser.new_page(viewport={"width": 1000, "height": 760})
        browser.close()


@pytest.fixture
def page(live, browser_page) -> Page:
    browser_page.unroute_all()
    browser_page.goto(live.url + "/")
    expect(browser_page.locator("#version")).to_contain_text("tiny-v")
    return browser_page


def ask(page: Page, question: str) -> None:
    page.fill("#question", question)
    page.keyboard.press("Enter")


def test_says_what_it_knows(page, live):
    """The page names the version and what the model knows, and loads nothing from anywhere else."""
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.reload()
    expect(page.locator("#about")).to_have_text(DESCRIPTION)
    page.get_by_role("button", name="What is in the picture?").click()
    expect(page.locator("#question")).to_have_value("What is in the picture?")
    assert requested and all(url.startswith((live.url, "data:")) for url in requested)


def test_question_about_a_picture(page, live):
    """Choose a picture, type, press Enter: the answer that the API gives appears, with the picture beside it."""
    page.set_input_files("#file", FILE)
    expect(page.locator("#named")).to_have_text("red.png, 64 × 48")
    ask(page, "is it?")
    expect(page.locator(".theirs small")).to_contain_text("tokens", timeout=60_000)
    expect(page.locator(".mine img")).to_be_visible()
    from tests.pipelines.serving.bodies import data_uri, image_part

    content = [image_part(data_uri(FILE["buffer"])), {"type": "text", "text": "is it?"}]
    said = live.client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": content}])
    assert page.locator(".theirs p").text_content() == said.choices[0].message.content
    ask(page, "and now?")
    expect(page.locator(".theirs small")).to_have_count(2, timeout=60_000)
    page.get_by_role("button", name="New conversation").click()
    expect(page.locator(".turn")).to_have_count(0)
    expect(page.locator("#drop")).to_be_visible()


def test_stop(page):
    """Escape ends an answer that is being written; what was written stays and the page can ask again."""
    ask(page, "what is in the picture")
    expect(page.locator(".theirs p")).not_to_be_empty()
    page.keyboard.press("Escape")
    expect(page.locator("#send")).to_be_visible()
    expect(page.locator(".theirs small")).to_have_count(1)


def test_not_a_picture(page):
    """A file that is no picture is named, and nothing is sent."""
    page.set_input_files("#file", {"name": "notes.png", "mimeType": "image/png", "buffer": b"hello"})
    expect(page.get_by_role("alert")).to_contain_text("notes.png is not a picture")


def test_lost_connection(page):
    """An answer that breaks off is shown as broken, never as finished, and the question is kept."""
    def half(route: Route) -> None:
        event = '{"choices":[{"index":0,"delta":{"content":"A red"},"finish_reason":null}]}'
        route.fulfill(status=200, content_type="text/event-stream", body=f"data: {event}\n\n")

    page.route("**/v1/chat/completions", half)
    ask(page, "what is it")
    expect(page.get_by_role("alert")).to_contain_text("connection was lost")
    expect(page.locator("#question")).to_have_value("what is it")
    assert page.locator(".theirs small").count() == 0


def test_refusal_is_shown(page):
    """What the server says when it refuses is what the person reads."""
    ask(page, "word " * 3000)
    expect(page.get_by_role("alert")).to_contain_text("tokens", timeout=20_000)
