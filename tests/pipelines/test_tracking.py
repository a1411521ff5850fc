"""Tracking: MLflow shows what was logged, once, and its absence neither stops nor loses anything that has room."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra.local.installation import Environment
from pipelines.mlflow_api import MlflowApi
from pipelines.spool import Spool
from pipelines.tracking import Tracker

AWAY = "http://127.0.0.1:9"  # the discard port: nothing listens there


@pytest.fixture
def mlflow(services: Environment) -> str:
    """A real MLflow server with its artifact store."""
    return services["MLFLOW_TRACKING_URI"]


@pytest.fixture
def tracker(tmp_path: Path) -> Callable[[str], Tracker]:
    """Trackers of one run, as its processes open them one after the other on one machine."""
    run = f"run-{uuid.uuid4().hex[:8]}"
    return lambda uri: Tracker(uri, Spool(tmp_path, run, 100_000), run, "toy")


def _runs(uri: str, tag: str, value: str) -> list[dict[str, Any]]:
    api = MlflowApi(uri)
    experiment = api.get("experiments/get-by-name", {"experiment_name": "toy"})["experiment"]["experiment_id"]
    return api.post("runs/search", {"experiment_ids": [experiment],
                                    "filter": f"tags.`{tag}` = '{value}'"}).get("runs", [])


def _curve(uri: str, run: dict[str, Any], name: str) -> list[tuple[int, float]]:
    history = MlflowApi(uri).get("metrics/get-history", {"run_id": run["info"]["run_id"], "metric_key": name})
    return [(int(m["step"]), float(m["value"])) for m in history["metrics"]]


@pytest.mark.slow
def test_a_step_is_a_run_within_the_pipelines_run(mlflow: str, tracker):
    """Params, tags, datasets, the end and a loss curve of many points arrive in the step's run, below the run's own."""
    key = uuid.uuid4().hex
    opened = tracker(mlflow)
    step = opened.step("tune_chat", key)
    step.log_params({"learning_rate": 2e-5})
    for i in range(1500):
        step.log_metrics({"loss": 1 / (i + 1)}, i)
    step.log_metrics({"grad_norm": math.inf}, 0)
    step.set_tags({"digest": "d1"})
    step.log_datasets({"captions": "c" * 64})
    step.end("FINISHED")
    assert opened.close() is None
    [run] = _runs(mlflow, "llava.key", key)
    [parent] = _runs(mlflow, "llava.pipeline_run", opened._who["run"])
    tags = {t["key"]: t["value"] for t in run["data"]["tags"]}
    assert tags["mlflow.parentRunId"] == parent["info"]["run_id"]
    assert (tags["digest"], run["info"]["status"]) == ("d1", "FINISHED")
    assert run["data"]["params"] == [{"key": "learning_rate", "value": "2e-05"}]
    assert [d["dataset"]["source"] for d in run["inputs"]["dataset_inputs"]] == ["c" * 64]
    assert len(_curve(mlflow, run, "loss")) == 1500
    assert _curve(mlflow, run, "loss")[2] == (2, 1 / 3)


@pytest.mark.slow
def test_a_second_attempt_continues_the_steps_run(mlflow: str, tracker):
    """Two processes that log for one key write to one run."""
    key = uuid.uuid4().hex
    for i in range(2):
        opened = tracker(mlflow)
        opened.step("tune_chat", key).log_metrics({"loss": float(i)}, i)
        opened.close()
    [run] = _runs(mlflow, "llava.key", key)
    assert _curve(mlflow, run, "loss") == [(0, 0.0), (1, 1.0)]


@pytest.mark.slow
def test_what_was_logged_while_mlflow_was_away_is_shown_once_when_it_is_back(mlflow: str, tracker, tmp_path: Path):
    """The next process on the machine sends what the last had to spool, and the spool is empty then."""
    key = uuid.uuid4().hex
    away = tracker(AWAY)
    away.step("tune_chat", key).log_metrics({"loss": 0.5}, 3)
    assert "1 records that will be sent later" in (away.close() or "")
    for _again in range(2):
        assert tracker(mlflow).close() is None
    [run] = _runs(mlflow, "llava.key", key)
    assert _curve(mlflow, run, "loss") == [(3, 0.5)]
    assert list(tmp_path.glob("*.jsonl")) == []


@pytest.mark.slow
def test_a_refusal_is_counted_and_the_rest_is_shown(mlflow: str, tracker):
    """A param that would change is refused by MLflow; the metric behind it arrives, and close says what is missing."""
    key = uuid.uuid4().hex
    opened = tracker(mlflow)
    step = opened.step("gate", key)
    step.log_params({"a": 1})
    step.log_params({"a": 2})
    step.log_metrics({"loss": 1.0})
    assert "that it refused" in (opened.close() or "")
    [run] = _runs(mlflow, "llava.key", key)
    assert _curve(mlflow, run, "loss") == [(0, 1.0)]


@pytest.mark.slow
def test_the_recipe_lies_in_the_runs_artifacts(mlflow: str, tracker):
    """The complete recipe can be read back from MLflow, which keeps it in S3."""
    opened = tracker(mlflow)
    opened._put({"kind": "recipe", "body": {"seed": 7}})
    assert opened.close() is None
    [run] = _runs(mlflow, "llava.pipeline_run", opened._who["run"])
    listed = MlflowApi(mlflow).get("artifacts/list", {"run_id": run["info"]["run_id"]})
    assert [f["path"] for f in listed["files"]] == ["recipe.json"]


def test_a_full_spool_drops_and_counts(tmp_path: Path):
    """Records beyond the limit are lost, and their number is told."""
    spool = Spool(tmp_path, "run", limit_bytes=100)
    lost = spool.append([{"kind": "metrics", "index": i} for i in range(50)])
    sent: list[dict[str, Any]] = []
    spool.replay(sent.extend)
    assert 0 < len(sent) < 50 and len(sent) + lost == 50


def test_records_stay_when_sending_fails(tmp_path: Path):
    """A spool is emptied by success only, and keeps the order."""
    spool = Spool(tmp_path, "run", limit_bytes=10_000)
    spool.append([{"index": 1}, {"index": 2}])

    def fail(_records: list[dict[str, Any]]) -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        spool.replay(fail)
    spool.append([{"index": 3}])
    sent: list[dict[str, Any]] = []
    spool.replay(sent.extend)
    assert [r["index"] for r in sent] == [1, 2, 3]


def test_a_live_processs_spool_is_not_taken(tmp_path: Path):
    """Only what nobody holds any more is sent by another."""
    mine, other = Spool(tmp_path, "a", 10_000), Spool(tmp_path, "b", 10_000)
    mine.append([{"index": 1}])
    sent: list[dict[str, Any]] = []
    other.replay(sent.extend)
    assert sent == []
    mine.close()
    other.replay(sent.extend)
    assert sent == [{"index": 1}]


def test_without_mlflow_nothing_happens(tmp_path: Path):
    """No server configured: calls do nothing and close has nothing to say."""
    tracker = Tracker(None, Spool(tmp_path, "run", 100), "run", "toy")
    tracker.step("gate", "k").log_metrics({"loss": 1.0})
    assert tracker.close() is None
    assert list(tmp_path.iterdir()) == []
