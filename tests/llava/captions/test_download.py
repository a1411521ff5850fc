"""Every URL ends in bytes or a named problem, and no address that is not public is reached."""

import asyncio
import dataclasses
import socket

import pytest

from llava.captions.download import Download, Limits, download_all, is_public
from llava.captions.pictures import PictureRules, Problem, examine
from tests.llava.captions.web import JPEG, Handler, misbehaving_server

LIMITS = Limits(max_bytes=200_000, timeout_s=1.0, retries=1, allow_private_hosts=frozenset({"127.0.0.1"}))
RULES = PictureRules(size=None, min_side=16, max_pixels=1_000_000)


@pytest.fixture(scope="module")
def web():
    with misbehaving_server() as address:
        yield address


def fetch(*urls, limits=LIMITS):
    async def use(_url, download):
        return download

    return asyncio.run(download_all(urls, limits, use))


@pytest.mark.parametrize(("path", "problem", "status"), [
    ("/nothing", Problem.HTTP_ERROR, 404), ("/status/403", Problem.HTTP_ERROR, 403),
    ("/status/500", Problem.SERVER_ERROR, 500), ("/status/429", Problem.SERVER_ERROR, 429),
    ("/large", Problem.TOO_BIG, 200), ("/endless", Problem.TOO_BIG, 200),
    ("/cut", Problem.TRUNCATED, 200), ("/drip", Problem.TIMEOUT, 200),
    ("/reset", Problem.UNREACHABLE, None), ("/not-http", Problem.UNREACHABLE, None),
    ("/to/file:~~~etc~passwd", Problem.BAD_REDIRECT, 302),
    ("/to/http:~~169.254.169.254~latest", Problem.FORBIDDEN_ADDRESS, 302),
    ("/to/http:~~localhost~x", Problem.FORBIDDEN_ADDRESS, 302),
    ("/to/http:~~0x7f.1~x", Problem.FORBIDDEN_ADDRESS, 302), ("/to/http:~~2130706433~x", Problem.BAD_URL, 302),
])
def test_a_failure_has_its_own_name(web, path, problem, status):
    """The problem and the last HTTP status are told; nothing is raised."""
    assert fetch(web + path) == {web + path: Download(problem=problem, status=status)}


def test_a_circle_of_redirects_ends(web):
    """The number of redirects is bounded."""
    url = f"{web}/to/~to~~to~"  # leads to /to//to/, which leads to /to/, and that to itself
    assert fetch(url, limits=dataclasses.replace(LIMITS, max_redirects=3))[url].problem is Problem.BAD_REDIRECT
    assert sum(n for path, n in Handler.asked.items() if path.startswith("/to/")) >= 4


@pytest.mark.parametrize("path", ["/heals", "/heals-429", "/cut-once", "/to/~good.jpg"])
def test_what_can_heal_is_tried_again(web, path):
    """A busy server, an answer cut short and a redirect end in the picture."""
    assert fetch(web + path)[web + path] == Download(body=JPEG, status=200)


def test_a_missing_page_is_asked_for_once(web):
    """What no retry heals is not retried."""
    fetch(f"{web}/gone?once")
    assert Handler.asked["/gone?once"] == 1


def test_equal_urls_are_fetched_once(web):
    """Rows that share a picture cost one request."""
    fetch(*[f"{web}/good.jpg?shared"] * 5)
    assert Handler.asked["/good.jpg?shared"] == 1


def test_loopback_is_refused_by_default(web):
    """Without being allowed by name, loopback is not connected to."""
    strict = dataclasses.replace(LIMITS, allow_private_hosts=frozenset())
    before = Handler.asked.total()
    assert fetch(f"{web}/good.jpg", limits=strict)[f"{web}/good.jpg"].problem is Problem.FORBIDDEN_ADDRESS
    assert Handler.asked.total() == before


def test_nobody_listening_and_nobody_there():
    """A refused connection and an unknown name are told apart."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
        assert fetch(url)[url].problem is Problem.UNREACHABLE
    url = "http://no-such-host.invalid/"
    assert fetch(url, limits=dataclasses.replace(LIMITS, timeout_s=5))[url].problem is Problem.UNKNOWN_HOST


@pytest.mark.parametrize(("address", "public"), [
    ("93.184.216.34", True), ("2606:2800:220:1:248:1893:25c8:1946", True), ("127.0.0.1", False), ("10.1.2.3", False),
    ("169.254.169.254", False), ("100.64.0.1", False), ("0.0.0.0", False), ("::1", False), ("fe80::1%eth0", False),
    ("::ffff:127.0.0.1", False), ("64:ff9b::7f00:1", False), ("2002:7f00:1::", False), ("224.0.0.1", False),
])
def test_public_addresses(address, public):
    """Only the public internet counts, however an address is written."""
    assert is_public(address) is public


@pytest.mark.parametrize(("path", "problem"), [
    ("/html", Problem.HTML), ("/svg", Problem.WRONG_TYPE), ("/tiff", Problem.WRONG_TYPE), ("/empty", Problem.EMPTY),
    ("/truncated-file", Problem.TRUNCATED), ("/corrupt", Problem.CORRUPT), ("/bomb", Problem.TOO_MANY_PIXELS),
    ("/small", Problem.TOO_SMALL), ("/bad-header", Problem.CORRUPT),
])
def test_bytes_that_are_no_picture(web, path, problem):
    """Content is looked at, whatever the server calls it."""
    assert examine(fetch(web + path)[web + path].body, RULES) is problem


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "gif"])
def test_bytes_are_kept_as_fetched(web, kind):
    """Without a size nothing is encoded anew."""
    body = fetch(f"{web}/good.{kind}")[f"{web}/good.{kind}"].body
    found = examine(body, RULES)
    assert (found.body, found.width, found.height) == (body, 96, 64)


def test_a_size_scales_the_shortest_side_down_without_loss():
    """Scaled pictures are PNG with the asked-for shortest side; a smaller picture is kept; equal bytes give equal."""
    import io

    from PIL import Image

    small = dataclasses.replace(RULES, size=32)
    found = examine(JPEG, small)
    stored = Image.open(io.BytesIO(found.body))
    assert (stored.size, stored.format, found.width) == ((48, 32), "PNG", 96)
    assert examine(JPEG, small) == found
    assert examine(JPEG, dataclasses.replace(RULES, size=64)).body == JPEG
