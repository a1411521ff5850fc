"""An installation: everything of one set of local services lies in one state folder.

Credentials are generated once per installation and never leave their files (mode 600); what other programs are told
(``env.json``, ``env.sh``) holds addresses and paths only. Ports stay as they were first chosen until ``down``.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shlex
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from infra.local.ports import HOST

ROOT = Path(__file__).resolve().parent.parent.parent
BUCKET = "llava"
REGION = "us-east-1"
SOCKET_ROOM = 40  # a UNIX socket's path has 107 bytes, of which Ray needs 65 below its temporary folder
STALE = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_DEFAULT_REGION")

Environment = dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Installation:
    """One state folder with the ports of its services. ``identity`` marks every process that belongs to it."""

    state: Path
    ports: Mapping[str, int]

    @property
    def identity(self) -> str:
        return str(self.state)

    @property
    def credentials(self) -> Path:
        return self.state / "credentials" / "aws"

    @property
    def ray_token(self) -> Path:
        return self.state / "credentials" / "ray_token"

    @property
    def ray_folder(self) -> Path:
        """Ray's temporary folder: in the state folder, unless a socket's path would be too long there."""
        inside = self.state / "ray"
        if len(str(inside)) <= SOCKET_ROOM:
            return inside
        return Path(tempfile.gettempdir()) / f"llava-ray-{hashlib.sha256(self.identity.encode()).hexdigest()[:10]}"

    def log(self, service: str) -> Path:
        return self.state / "logs" / f"{service}.log"

    def pid_file(self, service: str) -> Path:
        return self.state / "run" / f"{service}.json"

    def url(self, port: str) -> str:
        return f"http://{HOST}:{self.ports[port]}"

    def keys(self) -> tuple[str, str]:
        """Access key and secret key of the local S3 server, generated at the first call."""
        if not self.credentials.is_file():
            access, secret = secrets.token_hex(10).upper(), secrets.token_urlsafe(32)
            write_private(self.credentials,
                          f"[default]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n")
        lines = dict(line.split(" = ", 1) for line in self.credentials.read_text().splitlines() if " = " in line)
        return lines["aws_access_key_id"], lines["aws_secret_access_key"]

    def token(self) -> str:
        """The Ray token, generated at the first call."""
        if not self.ray_token.is_file():
            write_private(self.ray_token, secrets.token_hex(32))
        return self.ray_token.read_text().strip()

    def environment(self) -> Environment:
        """What other programs need to find the services. Holds no secret."""
        return {
            "LLAVA_STATE": str(self.state),
            "LLAVA_STORE": f"s3://{BUCKET}/main",
            "AWS_SHARED_CREDENTIALS_FILE": str(self.credentials),
            "AWS_CONFIG_FILE": str(self.state / "credentials" / "aws_config"),
            "AWS_PROFILE": "default",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL": self.url("s3"),
            "MLFLOW_TRACKING_URI": self.url("mlflow"),
            "RAY_API_SERVER_ADDRESS": self.url("ray.dashboard"),
            "RAY_ADDRESS": f"{HOST}:{self.ports['ray.gcs']}",
            "LLAVA_RAY_GCS": f"{HOST}:{self.ports['ray.gcs']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.ray_token),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else Ray rewrites the loopback address to the routed one
            "RAY_USAGE_STATS_ENABLED": "0",
            "LLAVA_PICTURES_URL": self.url("pictures"),
            "LLAVA_SERVE_PORT": str(self.ports["serve"]),
            "DS_ACCELERATOR": "cpu",
        }

    def process_environment(self) -> Environment:
        """The environment of the services themselves: the caller's without its AWS identity, with this one's."""
        inherited = {k: v for k, v in os.environ.items() if k not in STALE and not k.startswith("RAY_")}
        path = f"{Path(sys.prefix) / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        return inherited | self.environment() | {"PATH": path, "VIRTUAL_ENV": sys.prefix}

    def write_environment(self) -> None:
        """Write env.json, read by pipelines.settings, and env.sh, for a shell to source."""
        environment = self.environment()
        write_private(self.state / "env.json", json.dumps(environment, indent=2) + "\n")
        write_private(self.state / "env.sh", shell_lines(environment))

    def save(self) -> None:
        write_private(self.state / "ports.json", json.dumps(dict(self.ports), indent=2) + "\n")


def open_installation(state: Path) -> Installation | None:
    """The installation in that folder, or None when there never was one."""
    file = state / "ports.json"
    return Installation(state=state, ports=json.loads(file.read_text())) if file.is_file() else None


def shell_lines(environment: Mapping[str, str]) -> str:
    """``export`` lines; keys of another account are unset, since they would win over the credentials file."""
    lines = [f"unset {' '.join(STALE[:3])}"]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    lines.append(f'export PATH={shlex.quote(str(Path(sys.prefix) / "bin"))}:"$PATH"')
    return "\n".join(lines) + "\n"


def write_private(path: Path, text: str) -> None:
    """Replace the file whole, readable by its owner only."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        stream.write(text)
    partial.replace(path)
