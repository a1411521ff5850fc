"""The whole mission on this machine, as an operator would run it: ``make demo``, or ``python -m infra.demo``.

It keeps no state of its own: it starts what is not running, submits the driver unless one is at work already, watches,
and asks the served model a question. So it may be stopped and started at any time. Ctrl-C stops the watching only: the
pipeline goes on in its jobs, and the next ``make demo`` watches it again.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from infra.local import services
from infra.local.installation import ROOT, Environment
from infra.local.services import ServiceFailed
from infra.local.terminal import Progress
from pipelines.settings import state_folder
from pipelines.stage import BadInput

ALIVE = ("PENDING", "RUNNING")
INTERRUPTED = 130
REJECTED = 10


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m infra.demo", description=__doc__)
    parser.add_argument("--recipe", default="demo", help="the recipe to run (demo)")
    recipe = parser.parse_args().recipe
    state = state_folder()
    try:
        print("Services", flush=True)
        with Progress() as progress:
            environment = services.start(state, report=progress.report)
        os.environ.update(environment)
        print(f"\nPipeline, up to a quarter of an hour the first time. Watch it too at "
              f"{environment['RAY_API_SERVER_ADDRESS']} and {environment['MLFLOW_TRACKING_URI']}", flush=True)
        code = run_pipeline(recipe, environment)
        if code == REJECTED:
            print("\nThe gate rejected the new model; what was served before goes on. `llavactl show` says why.")
        elif code:
            print(f"\nThe pipeline ended with {code}. `llavactl show` says where; `make demo` goes on from there.")
        if code:
            return code
        ask(state, environment)
    except (BadInput, ServiceFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, BadInput) else 1
    except KeyboardInterrupt:
        print("\nStopped watching; what was started goes on in the background.\n"
              "  make demo   watches it again and goes on to the end\n"
              "  make down   stops everything; what is done stays done", flush=True)
        return INTERRUPTED
    return 0


def run_pipeline(recipe: str, environment: Environment) -> int:
    """Submit the driver, or follow the one that is at work, until it ends. Returns the driver's exit code."""
    entrypoint = f"python jobs/full_pipeline.py --recipe {recipe}"
    if alive := [j for j in _jobs(environment, entrypoint) if j["status"] in ALIVE]:
        job = alive[-1]["submission_id"]
        print(f"a driver is at work already: following {job}", flush=True)
        command = ["ray", "job", "logs", "--follow", job]
    else:
        command = ["ray", "job", "submit", "--", *shlex.split(entrypoint)]
    print(f"$ {shlex.join(command)}", flush=True)
    path = f"{Path(sys.prefix) / 'bin'}{os.pathsep}{os.environ['PATH']}"
    watching = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PATH": path}, stdin=subprocess.DEVNULL,
                                start_new_session=True)  # Ctrl-C is ours to answer
    try:
        watching.wait()
    finally:
        watching.terminate()
    jobs = _jobs(environment, entrypoint)
    if not jobs:
        raise BadInput("the driver could not be submitted: see what Ray says above, and `llavactl doctor`")
    return _exit_code(jobs[-1])


def ask(state: Path, environment: Environment) -> None:
    """Ask the served model about a picture it never saw, and print where everything is."""
    from pipelines.cli.ask import data_uri, local_url, open_client

    picture, question, answer = _example(state)
    client = open_client(local_url())
    model = client.models.list().data[0].id
    began = time.monotonic()
    reply = client.chat.completions.create(model=model, max_tokens=64, temperature=0, messages=[
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": data_uri(picture)}},
                                     {"type": "text", "text": question}]}])
    took = time.monotonic() - began
    shown = os.path.relpath(picture) if picture.is_relative_to(Path.cwd()) else str(picture)
    chat = f"http://127.0.0.1:{environment['LLAVA_SERVE_PORT']}"
    print(f"""
The assistant is served. A picture of a scene it never saw: {shown}
  question      {question}
  {model:<13} {reply.choices[0].message.content}     ({took:.1f} s)
  right answer  {answer}

  chat page     {chat}/        (OpenAI API: {chat}/v1)
  Ray           {environment['RAY_API_SERVER_ADDRESS']}   (its token: {environment['RAY_AUTH_TOKEN_PATH']})
  MLflow        {environment['MLFLOW_TRACKING_URI']}

Next
  {_bin('llavactl')} ask {shown} "{question}"
  {_bin('llavactl')} show                      the DAG of this run, with what each step took
  {_bin('llavactl')} plan --recipe demo --set tune_chat.learning_rate=5e-4     what a change would run again
  make demo                         again: every step is reused
  make down                         stop everything; `make demo` serves it again""", flush=True)


def _example(state: Path) -> tuple[Path, str, str]:
    """A held-out picture as a file, a question about it, and the right answer."""
    from llava.images import ImageStore
    from pipelines.artifact import load_manifest, materialise
    from pipelines.history import earlier
    from pipelines.record import State
    from pipelines.store import open_store

    store = open_store(os.environ["LLAVA_STORE"])
    made = [s.record for s in earlier(store, "demo_world") if s.record.state is State.COMMITTED]
    if not made:
        raise BadInput("the store holds no demo world, so there is no picture to ask about")
    manifest = load_manifest(store, made[0])
    names = [f.name for f in manifest.files if f.name.startswith(("images/", "probe/"))]
    folder = materialise(store, manifest, state / "cache", names)
    rows = [json.loads(line) for line in (folder / "probe" / "questions.jsonl").read_text().splitlines()]
    row = next((r for r in rows if r["kind"] == "background"), rows[0])
    picture = state / "demo" / row["image"]
    picture.parent.mkdir(exist_ok=True)
    picture.write_bytes(ImageStore.open(folder / "images")[row["image"]])
    return picture, row["text"], row["answer"]


def _jobs(environment: Environment, entrypoint: str) -> list[dict[str, Any]]:
    """Ray's jobs with that entry point, the oldest first."""
    token = Path(environment["RAY_AUTH_TOKEN_PATH"]).read_text().strip()
    request = urllib.request.Request(f"{environment['RAY_API_SERVER_ADDRESS']}/api/jobs/",
                                     headers={"Authorization": f"Bearer {token}"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as reply:
        jobs = [j for j in json.load(reply) if j.get("submission_id") and j["entrypoint"] == entrypoint]
    return sorted(jobs, key=lambda j: j["start_time"])


def _exit_code(job: dict[str, Any]) -> int:
    """The driver's own exit code; 1 when it did not come to give one."""
    if job["status"] == "SUCCEEDED":
        return 0
    code = job.get("driver_exit_code")
    return code if isinstance(code, int) and code > 0 else 1


def _bin(name: str) -> str:
    return os.path.relpath(Path(sys.prefix) / "bin" / name)


if __name__ == "__main__":
    sys.exit(main())
