"""The doctor finds what is missing by trying it, and every finding that is not ok names its fix."""

from __future__ import annotations

from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from infra import preflight
from infra.local.doctor import Finding, Verdict, examine_mlflow, examine_ray, examine_store
from infra.local.installation import Environment
from pipelines.store.directory_store import DirectoryStore

NOWHERE = "http://127.0.0.1:9"


def by_name(findings: Iterable[Finding]) -> dict[str, Finding]:
    found = {f.what.rpartition(": ")[2]: f for f in findings}
    assert all(f.fix for f in found.values() if f.verdict is not Verdict.OK)
    return found


def test_a_good_s3_passes_every_probe_and_nothing_stays_there(store_uri: str):
    """Conditional writes, multipart, refused keys and the clock, on a real S3 server; what was written is gone."""
    from pipelines.store import open_store

    found = by_name(examine_store(store_uri))
    assert set(found) == {"conditional create", "conditional replace", "listing after writing", "multipart upload",
                          "wrong keys refused", "clock"}
    assert {f.verdict for f in found.values()} == {Verdict.OK}
    assert list(open_store(store_uri).list()) == []


def test_a_store_that_ignores_conditions_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An endpoint that overwrites on create or on an outdated ETag is not one to run on."""
    monkeypatch.setattr(DirectoryStore, "create", DirectoryStore.put)
    monkeypatch.setattr(DirectoryStore, "replace", lambda self, key, body, etag: self.put(key, body))
    found = by_name(examine_store(f"file://{tmp_path}/store"))
    assert found["conditional create"].verdict is Verdict.MISSING
    assert found["conditional replace"].verdict is Verdict.MISSING
    assert found["listing after writing"].verdict is Verdict.OK


@pytest.mark.parametrize("uri", ["s3://not-there/x", "ftp://x"])
def test_a_wrong_store_is_one_finding_that_names_it(uri: str, store_uri: str):
    """A bucket that is not there and a URI of no known kind."""
    [finding] = examine_store(uri)
    assert finding.verdict is Verdict.MISSING and finding.what == uri and finding.fix


def test_wrong_credentials_are_one_finding(store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The fix names how to get the right ones, and no key is shown."""
    (tmp_path / "keys").write_text("[default]\naws_access_key_id = WRONG\naws_secret_access_key = wrongsecret\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "keys"))
    [finding] = examine_store(store_uri)
    assert finding.verdict is Verdict.MISSING and "llavactl env" in finding.fix
    assert "wrongsecret" not in finding.found


@pytest.mark.slow
def test_a_token_is_needed_and_works(services: Environment):
    """Ray refuses without, and answers with the installation's token."""
    found = by_name(examine_ray(services["RAY_API_SERVER_ADDRESS"], services["RAY_AUTH_TOKEN_PATH"]))
    assert {n: f.verdict for n, f in found.items()} == {"Ray without a token": Verdict.OK, "Ray token": Verdict.OK}


@pytest.mark.slow
def test_a_wrong_token_is_missing(services: Environment, tmp_path: Path):
    """The token of another cluster does not do."""
    (tmp_path / "token").write_text("0" * 64)
    found = by_name(examine_ray(services["RAY_API_SERVER_ADDRESS"], str(tmp_path / "token")))
    assert found["Ray token"].verdict is Verdict.MISSING


def test_a_dashboard_open_to_anyone_is_a_warning(tmp_path: Path):
    """A server that answers 200 without a token."""
    class Open(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Open)
    Thread(target=server.serve_forever, daemon=True).start()
    found = by_name(examine_ray(f"http://127.0.0.1:{server.server_port}", str(tmp_path / "none")))
    server.shutdown()
    server.server_close()
    assert found["Ray without a token"].verdict is Verdict.WARNING
    assert "RAY_AUTH_MODE=token" in found["Ray without a token"].fix


def test_silence_is_named():
    """Nothing listens: Ray is missing, MLflow only a warning, since no step waits for it."""
    [ray] = examine_ray(NOWHERE, None)
    assert (ray.verdict, examine_mlflow(NOWHERE).verdict) == (Verdict.MISSING, Verdict.WARNING)
    assert NOWHERE in ray.found


def test_too_little_memory_and_disk_name_what_is_needed(tmp_path: Path):
    """8 GB of each, with a little tolerance for what a machine keeps for itself."""
    assert preflight.missing_memory(7.6e9) is None
    assert "8 GB of memory" in (preflight.missing_memory(4e9) or "")
    assert "disk" in (preflight.missing_disk(tmp_path / "not" / "yet", 1e18) or "")
    assert preflight.missing_disk(tmp_path, 1) is None


def test_a_taken_port_is_named_with_its_variable():
    """Before anything is installed."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        [line] = preflight.taken_ports({"LLAVA_PORT_S3": port})
    assert str(port) in line and "LLAVA_PORT_S3" in line
    assert preflight.taken_ports({"LLAVA_PORT_S3": port}) == []
