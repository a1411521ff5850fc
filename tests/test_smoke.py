"""The whole DAG on real services, started as an operator starts it."""

from __future__ import annotations

import base64
import io
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from infra.local.installation import Environment
from pipelines import registry
from pipelines.store import open_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
ROOT = Path(__file__).parent.parent
SUBMIT = ("ray", "job", "submit", "--", "python", "jobs/full_pipeline.py", "--recipe", "smoke")


@dataclass(frozen=True)
class Ran:
    environment: dict[str, str]
    code: int
    output: str


def shell(environment: dict[str, str], *command: str) -> Ran:
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, check=False)
    return Ran(environment, done.returncode, done.stdout)


@pytest.fixture(scope="module")
def smoke(services: Environment) -> Iterator[Ran]:
    """The smoke recipe, once, through ``ray job submit`` with no further flags."""
    binaries = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | services | {"PATH": binaries}
    yield shell(environment, *SUBMIT)


def llavactl(ran: Ran, *arguments: str) -> Ran:
    return shell(ran.environment, "llavactl", *arguments)


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (80, 60), (200, 30, 40)).save(buffer, "PNG")
    return buffer.getvalue()


def test_the_whole_dag_ends_with_every_step_done(smoke: Ran):
    """``ray job submit -- python jobs/full_pipeline.py`` exits 0 and every step has ended well."""
    assert smoke.code == 0, smoke.output[-4000:]
    table = llavactl(smoke, "show").output
    for step in ("demo_world", "prepare_models", "select_captions", "fetch_images", "pretrain_projector",
                 "generate_instructions", "tune_chat", "convert_scienceqa", "tune_scienceqa", "evaluate@chat",
                 "evaluate@scienceqa", "gate@chat", "gate@scienceqa", "register@chat", "register@scienceqa",
                 "rollout@chat"):
        assert f"✔ {step}  done" in table, table


def test_a_second_run_reuses_every_step(smoke: Ran):
    """What is committed never runs again; the plan says so before, and the run does what the plan said."""
    planned = llavactl(smoke, "plan", "--recipe", "smoke").output
    again = shell(smoke.environment, *SUBMIT)
    assert again.code == 0, again.output[-4000:]
    for step in ("demo_world", "tune_chat", "evaluate@chat", "gate@chat"):
        assert any(step in line and "REUSE" in line for line in planned.splitlines()), planned
    assert "tune_chat-" not in again.output, "a step job was submitted"


def test_what_is_served_answers_a_picture_in_the_openai_api(smoke: Ran):
    """Streamed and whole, the same text; the fingerprint names the registered version."""
    from openai import OpenAI

    port = smoke.environment["LLAVA_SERVE_PORT"]
    client = OpenAI(base_url=f"http://127.0.0.1:{port}/smoke/v1", api_key="none")
    url = f"data:image/png;base64,{base64.b64encode(picture()).decode()}"
    asked = {"model": "llava-smoke", "max_tokens": 6, "temperature": 0, "messages": [{"role": "user", "content": [
        {"type": "text", "text": "What is in the picture?"}, {"type": "image_url", "image_url": {"url": url}}]}]}
    whole = client.chat.completions.create(**asked)
    streamed = "".join(c.choices[0].delta.content or "" for c in client.chat.completions.create(**asked, stream=True)
                       if c.choices)
    assert whole.choices[0].message.content == streamed
    assert whole.usage.completion_tokens == 6 or whole.choices[0].finish_reason == "stop"
    assert whole.system_fingerprint.startswith("llava-smoke-v1")
    assert [m.id for m in client.models.list()] == ["llava-smoke"]


def test_mlflow_shows_the_run_its_loss_curve_and_the_model(smoke: Ran):
    """A person sees the same thing in MLflow: the run, its steps, a loss a step, and the registered champion."""
    from mlflow import MlflowClient

    client = MlflowClient(smoke.environment["MLFLOW_TRACKING_URI"])
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    tuned = next(r for r in runs if "tune_chat" in r.info.run_name)
    losses = client.get_metric_history(tuned.info.run_id, "loss")
    assert [m.step for m in losses] == [1, 2, 3, 4] and len({m.value for m in losses}) == 4
    assert client.get_model_version_by_alias("llava-smoke", "champion").version == "1"


def test_the_s3_alias_names_what_is_served(smoke: Ran):
    """Champion and serving are one version, in one object."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in smoke.environment.items():
            if name.startswith("AWS_"):
                patch.setenv(name, value)
        registered = registry.read(open_store(smoke.environment["LLAVA_STORE"]), "llava-smoke")
    champion = registered.alias("champion")
    assert champion is not None and champion.number == 1
    assert registered.alias("serving") == champion


BAD = {
    "a recipe that does not exist": (["--recipe", "smok"], {}, "did you mean 'smoke'"),
    "an unknown key": (["--set", "tune_chat.learning_rat=1"], {}, "did you mean 'learning_rate'"),
    "a missing TSV": (["--set", "select_captions.source=/nowhere/captions.tsv", "--until", "select_captions"], {},
                      "/nowhere/captions.tsv does not exist"),
    "a bucket that does not exist": ([], {"LLAVA_STORE": "s3://no-such-bucket-here/x"}, "no-such-bucket-here"),
    "wrong credentials": ([], {"AWS_ACCESS_KEY_ID": "AKIAWRONG", "AWS_SECRET_ACCESS_KEY": "wrong"}, "credentials"),
    "no Ray cluster": ([], {"RAY_API_SERVER_ADDRESS": "http://127.0.0.1:9"}, "Ray"),
    "a wrong Ray token": ([], {"RAY_AUTH_TOKEN": "0" * 64, "RAY_AUTH_TOKEN_PATH": ""}, "token"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_is_one_error_that_names_the_fix(services: Environment, case: str):
    """Exit code 2, the thing named, no traceback."""
    arguments, extra, found = BAD[case]
    environment = {k: v for k, v in (os.environ | services | extra).items() if v}
    environment |= {"LLAVA_STORE": extra.get("LLAVA_STORE", f"s3://llava/test/{uuid.uuid4().hex}")}
    if "--recipe" not in arguments:
        arguments = ["--recipe", "smoke", *arguments]
    ran = shell(environment, str(Path(sys.executable).parent / "llavactl"), "run", *arguments)
    assert ran.code == 2, ran.output
    assert found in ran.output and "Traceback" not in ran.output, ran.output
