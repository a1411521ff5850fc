"""A small DAG of toy stages and a driver for it: the real engine, a directory store, attempts as real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines import record, runs
from pipelines.artifact import load_manifest
from pipelines.attempt_log import read_log
from pipelines.dag import Pipeline, Step
from pipelines.drive import drive
from pipelines.identity import load_reference
from pipelines.plan import Plan, make_plan
from pipelines.settings import Settings
from pipelines.store import ObjectStore, open_store
from pipelines.work import ExitCode

ROOT = Path(__file__).resolve().parents[2]
STAGES = "tests.pipelines.toy_stages"


def step(name: str, *, inputs: Mapping[str, str] | None = None, sources: Mapping[str, str] | None = None,
         after: tuple[str, ...] = (), imported: str | None = None, **config: Any) -> Step:
    """``left`` is a step of the stage ``left``; ``add@left`` one of the stage ``add``."""
    stage = load_reference(f"{STAGES}:{name.partition('@')[0]}")
    config = {"run": {"retries": 2}, **config, **(sources or {}), **({"from": imported} if imported else {})}
    return Step(name=name, stage=stage, config=stage.config.model_validate(config), inputs=inputs or {},
                sources=sources or {}, after=after, imported=imported)


def diamond(*, value: int = 1, minimum: int = 0, retries: int = 2, **changes: Step) -> Pipeline:
    """number@a and number@b -> add -> decide -> announce; ``changes`` replaces steps by name, ``@`` written ``__``."""
    run = {"retries": retries}
    steps = [step("number@a", value=value, run=run), step("number@b", value=10, run=run),
             step("add", inputs={"left": "number@a", "right": "number@b"}),
             step("decide", inputs={"evaluation": "add"}, minimum=minimum),
             step("announce", inputs={"decision": "decide"})]
    by_name = {s.name: s for s in steps} | {name.replace("__", "@"): s for name, s in changes.items()}
    return Pipeline(recipe="toy", model="toy", seed=7, steps=tuple(by_name.values()))


@dataclass(frozen=True, kw_only=True, slots=True)
class Workshop:
    """A store, a state folder and the folder through which toy stages are watched and steered."""

    folder: Path
    uri: str = ""

    @property
    def store(self) -> ObjectStore:
        return open_store(self.uri or f"file://{self.folder}/store", wait_s=5)

    @property
    def settings(self) -> Settings:
        return Settings(state=self.folder / "state", store_uri=self.store.uri, ray_address="", mlflow_uri=None,
                        pictures_url=None, serve_host="127.0.0.1", serve_port=0, lease_ttl_s=6.0)

    def run(self, pipeline: Pipeline, **options: Any) -> ExitCode:
        return drive(pipeline, self.settings, jobs="processes", poll_s=0.05, **options)

    def start(self, **arguments: Any) -> subprocess.Popen[bytes]:
        """A driver of ``diamond(**arguments)`` as a process of its own."""
        code = ("import json, sys; from pathlib import Path; from tests.pipelines.toys import Workshop, diamond; "
                "sys.exit(Workshop(folder=Path(sys.argv[1])).run(diamond(**json.loads(sys.argv[2]))))")
        return subprocess.Popen([sys.executable, "-c", code, str(self.folder), json.dumps(arguments)], cwd=ROOT,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def plan(self, pipeline: Pipeline, **options: Any) -> Plan:
        return make_plan(pipeline, self.store, **options)

    def executed(self) -> list[str]:
        """``<step>`` for each execution so far, sorted."""
        return sorted(line.split()[0] for line in self.effects())

    def effects(self) -> list[str]:
        file = self.folder / "effects"
        return file.read_text().splitlines() if file.exists() else []

    def forget_executions(self) -> None:
        (self.folder / "effects").unlink(missing_ok=True)

    def hold(self, step_name: str) -> Path:
        """Make the step wait until the returned file is removed."""
        file = self.folder / f"hold-{step_name}"
        file.touch()
        return file

    def fail(self, step_name: str, *words: str) -> None:
        """What the step's next executions do instead of working."""
        (self.folder / f"fail-{step_name}").write_text("\n".join(words))

    def digests(self) -> dict[str, str]:
        """Content digest of every committed step that is not an effect."""
        return {s: m.digest for s, m in self.manifests().items() if s != "announce"}

    def manifests(self) -> dict[str, Any]:
        found = {}
        for info in self.store.list("steps/"):
            _, name, file = info.key.split("/")
            seen = record.read(self.store, name, file.removesuffix(".json"))
            if seen and seen.record.state is record.State.COMMITTED:
                found[name] = load_manifest(self.store, seen.record)
        return found

    def run_ids(self) -> list[str]:
        return runs.run_ids(self.store)

    def last_run(self) -> str:
        return self.run_ids()[-1]

    def log(self, name: str) -> str:
        """What the committed attempt of the step printed."""
        return "".join(text for _, text in read_log(self.store, self.manifests()[name].prefix))


def workshop(folder: Path, monkeypatch: Any) -> Workshop:
    """With the environment that attempts inherit."""
    for name, value in {"TOY": str(folder), "LLAVA_STATE": str(folder / "state"), "LLAVA_LEASE_TTL_S": "6",
                        "PYTHONPATH": str(ROOT)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    os.environ.pop("PIPELINE_FAULT", None)
    return Workshop(folder=folder)
