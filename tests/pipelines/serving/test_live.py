"""The whole of serving on real services: rollouts by drivers that come and go, and clients all the while."""

from __future__ import annotations

import json
import os
import threading
import time

import psutil
import pytest

from tests import tiny
from tests.pipelines.serving import bodies
from tests.pipelines.serving.bodies import PICTURE, body, image_part, raw

pytestmark = pytest.mark.slow
JSON = {"Content-Type": "application/json"}
ASKED = [{"role": "user", "content": [image_part(PICTURE), {"type": "text", "text": "what is in the picture"}]}]


def test_served_after_its_driver_ended(live):
    """The driver that rolled out is gone; the model is served, healthy, and the alias says so."""
    health = live.http.get("/health").json()
    assert health["status"] == "ok" and health["system_fingerprint"].startswith("tiny-v1")
    assert live.state.aliases["serving"] == 1


def test_again_is_nothing(live):
    """A rollout of what runs already does nothing and says so."""
    before = live.http.get("/v1/models").json()
    again = live.roll_out()
    assert "nothing to do" in again.stdout, again.stdout + again.stderr
    assert live.http.get("/v1/models").json() == before


def test_openai_client(live):
    """The official client: models, an answer, the same answer as a stream, usage with the picture's tokens."""
    client = live.client
    assert [m.id for m in client.models.list()] == ["tiny"] and client.models.retrieve("tiny").object == "model"
    whole = client.chat.completions.create(model="tiny", messages=ASKED, max_tokens=8)
    chunks = list(client.chat.completions.create(model="tiny", messages=ASKED, max_tokens=8, stream=True,
                                                 stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content and text
    assert chunks[-1].usage == whole.usage and chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert whole.usage.completion_tokens == 8 and whole.system_fingerprint.startswith("tiny-v1")
    only_words = [{"role": "user", "content": "what is in the picture"}]
    words = client.chat.completions.create(model="tiny", messages=only_words, max_tokens=8)
    assert whole.usage.prompt_tokens - words.usage.prompt_tokens >= 4  # the patches of a picture
    assert len({c.id for c in chunks} | {whole.id}) == 2


def test_picture_matters(live):
    """Another picture gives another answer: the picture does reach the model."""
    def answer(colour):
        part = image_part(bodies.data_uri(tiny.picture(colour)))
        return live.client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": [part]}],
                                                   max_tokens=24).choices[0].message.content

    assert len({answer((0, 0, 0)), answer((255, 255, 255)), answer((255, 0, 0)), answer((0, 0, 255))}) > 1


def test_stream_ends_with_done(live):
    """The wire: events of JSON, then [DONE], in the media type of server-sent events."""
    with live.http.stream("POST", "/v1/chat/completions", json=body(stream=True)) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        events = [line for line in reply.iter_lines() if line]
    assert events[-1] == "data: [DONE]" and all(json.loads(e.removeprefix("data: ")) for e in events[:-1])


def test_every_refusal(live):
    """Each bad request gets its status and code over HTTP, streaming or not, and the connection is kept."""
    with live.http as http:
        for name, (sent, status, code, param) in bodies.REFUSED.items():
            reply = http.post("/v1/chat/completions", content=raw(sent), headers=JSON)
            error = reply.json()["error"]
            assert (reply.status_code, error["code"], error["param"]) == (status, code, param), name
            assert error.keys() == {"message", "type", "param", "code"}
        reply = http.post("/v1/chat/completions", json=body("word " * 2_000, stream=True))
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "context_length_exceeded")


@pytest.mark.parametrize(("method", "path", "headers", "status", "code"), [
    ("GET", "/v1/nothing", {}, 404, "unknown_url"), ("GET", "/docs", {}, 404, "unknown_url"),
    ("GET", "/openapi.json", {}, 404, "unknown_url"), ("GET", "/v1/models/", {}, 404, "model_not_found"),
    ("GET", "/v1/models/other", {}, 404, "model_not_found"), ("DELETE", "/v1/models", {}, 405, "method_not_allowed"),
    ("GET", "/v1/chat/completions", {}, 405, "method_not_allowed"),
    ("POST", "/v1/chat/completions", {"Content-Type": "text/plain"}, 415, "unsupported_media_type")])
def test_routes(live, method, path, headers, status, code):
    """Only the named routes exist, and refusals there have the same form."""
    reply = live.http.request(method, path, headers=headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)


def test_body_too_large(live):
    """A body beyond the limit is 413."""
    reply = live.http.post("/v1/chat/completions", content=b" " * 50_000_000, headers=JSON)
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "request_too_large")


def test_leaving_frees_the_slot(live):
    """Clients that leave in the middle of their streams hold up nobody."""
    for _ in range(40):
        with live.http.stream("POST", "/v1/chat/completions", json=body(stream=True, max_tokens=300)) as reply:
            next(reply.iter_lines())
    assert live.http.get("/health").status_code == 200


def test_replica_that_dies_mid_stream(live):
    """The stream ends with an error event and without [DONE]; a new replica comes up by itself."""
    with live.http.stream("POST", "/v1/chat/completions", json=body(stream=True, max_tokens=400)) as reply:
        lines = (line for line in reply.iter_lines() if line)
        next(lines)
        for replica in _replicas("ServeReplica:tiny:Engine"):
            replica.kill()
        last = list(lines)[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "no_replica"
    for _try in range(240):
        if (health := live.http.get("/health")).status_code == 200:
            break
        assert health.json()["error"]["code"] in ("no_replica", "deadline_exceeded"), health.text
        time.sleep(0.25)
    assert health.status_code == 200


def _replicas(title: str) -> list[psutil.Process]:
    """This stack's own processes of that title; others may run on the machine."""
    return [p for p in psutil.process_iter() if p.username() == psutil.Process().username()
            and title in " ".join(p.cmdline()) and p.environ().get("LLAVA_STATE") == os.environ["LLAVA_STATE"]]


class Asking:
    """A client that asks again and again while something else happens; what it was answered is kept."""

    def __init__(self, live) -> None:
        self._live, self._stop = live, threading.Event()
        self.replies: list[tuple[int, str]] = []
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Asking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _ask(self) -> None:
        with self._live.http as http:
            while not self._stop.is_set():
                reply = http.post("/v1/chat/completions", json=body())
                said = reply.json()
                self.replies.append((reply.status_code, said.get("system_fingerprint") or said["error"]["code"]))


def test_bad_candidate_is_never_served(live):
    """A version that fails its canary answers nobody: the one before goes on, and so does the alias."""
    live.crown(2)
    with Asking(live) as asking:
        failed = live.roll_out(canary_words=["zebra"])
    assert failed.returncode != 0 and "does not pass its canary" in failed.stderr
    assert "tiny-v1" in failed.stderr and "goes on being served" in failed.stderr
    assert {(status, said[:7]) for status, said in asking.replies} == {(200, "tiny-v1")}
    assert live.state.aliases["serving"] == 1 and live.http.get("/health").status_code == 200


def test_new_version_without_a_dropped_request(live):
    """While version 2 replaces version 1, every request is answered, first by the one and then by the other."""
    live.crown(2)
    with Asking(live) as asking:
        done = live.roll_out()
    assert "version 2" in done.stdout and "deployed" in done.stdout, done.stdout + done.stderr
    versions = [said[:7] for status, said in asking.replies if status == 200]
    assert len(versions) == len(asking.replies) and set(versions) <= {"tiny-v1", "tiny-v2"}
    assert versions == sorted(versions)
    assert live.http.get("/health").json()["system_fingerprint"].startswith("tiny-v2")
    assert live.state.aliases["serving"] == 2


def test_two_models_and_a_full_queue(live):
    """A second model is served beside the first; when its queue is full it says 429 and when to come back."""
    from tests.pipelines.serving import world

    world.crown(live.store, "other", live.manifests[0])
    done = live.roll_out(model="other", route_prefix="/other", batch_size=1, max_queued_requests=1)
    assert done.returncode == 0, done.stdout + done.stderr
    assert live.http.get("/v1/models").json()["data"][0]["id"] == "tiny"
    assert live.http.get("/other/v1/models").json()["data"][0]["id"] == "other"
    assert live.http.get("/other/").text == live.http.get("/").text
    replies = []

    def ask():
        replies.append(live.http.post("/other/v1/chat/completions", json=body(model="other", max_tokens=100)))

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {r.status_code for r in replies} == {200, 429}
    refused = next(r for r in replies if r.status_code == 429)
    assert refused.json()["error"]["code"] == "queue_full" and int(refused.headers["retry-after"]) >= 1
