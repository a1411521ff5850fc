"""Runs in MLflow, found by the pipeline's own names.

A pipeline run and each of its steps is the run that carries its names as tags, whichever process asks; it is created
when there is none. Sending the same records again changes nothing that is shown.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from pipelines.mlflow_api import MlflowApi, MlflowRefused

Record = dict[str, Any]
METRICS_A_REQUEST, PARAMS_A_REQUEST, DATASETS_A_REQUEST = 1000, 100, 100
PARAM_LENGTH = 6000


class Runs:
    """The runs of one server. Every method raises MlflowDown or MlflowRefused."""

    def __init__(self, api: MlflowApi) -> None:
        self._api = api
        self._experiments: dict[str, str] = {}
        self._found: dict[tuple[str, ...], dict[str, Any]] = {}

    def send(self, records: list[Record]) -> None:
        """Records of one run, in order. Those after a refused one are sent all the same; the refusal is raised last."""
        info = self._resolve(records[0])
        refusal: MlflowRefused | None = None
        for kind, body in _requests(records):
            try:
                self._request(info, kind, body)
            except MlflowRefused as error:
                refusal = error
        if refusal:
            raise refusal

    def _request(self, info: dict[str, Any], kind: str, body: Any) -> None:
        run_id = info["run_id"]
        if kind == "recipe":
            self._api.put_artifact(info["artifact_uri"], "recipe.json", json.dumps(body, indent=1).encode())
        elif kind == "end":
            self._api.post("runs/update", {"run_id": run_id, **body})
        elif kind == "datasets":
            self._api.post("runs/log-inputs", {"run_id": run_id, "datasets": body})
        else:
            self._api.post("runs/log-batch", {"run_id": run_id, kind: body})

    def _resolve(self, record: Record) -> dict[str, Any]:
        """MLflow's info of the run that the record belongs to."""
        experiment = self._experiment(record["recipe"])
        parent = self._run(experiment, {"llava.pipeline_run": record["run"]}, record["run"], record["at"], None)
        if "step" not in record:
            return parent
        tags = {"llava.run": record["run"], "llava.step": record["step"], "llava.key": record["key"]}
        return self._run(experiment, tags, record["step"], record["at"], parent["run_id"])

    def _experiment(self, name: str) -> str:
        if name not in self._experiments:
            try:
                found = self._api.post("experiments/create", {"name": name})
                self._experiments[name] = found["experiment_id"]
            except MlflowRefused as error:
                if error.code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self._api.get("experiments/get-by-name", {"experiment_name": name})
                self._experiments[name] = found["experiment"]["experiment_id"]
        return self._experiments[name]

    def _run(self, experiment: str, names: dict[str, str], title: str, at: int, parent: str | None) -> dict[str, Any]:
        identity = (experiment, *names.values())
        if identity not in self._found:
            if self._oldest(experiment, names) is None:
                tags = names | {"mlflow.runName": title} | ({"mlflow.parentRunId": parent} if parent else {})
                self._api.post("runs/create", {"experiment_id": experiment, "start_time": at, "run_name": title,
                                               "tags": [{"key": k, "value": v} for k, v in tags.items()]})
            info = self._oldest(experiment, names)  # of two processes that both created one, both take the older
            if info is None:
                raise MlflowRefused(f"MLflow created the run {title} but does not find it", "NOT_FOUND")
            self._found[identity] = info
        return self._found[identity]

    def _oldest(self, experiment: str, names: dict[str, str]) -> dict[str, Any] | None:
        wanted = " and ".join(f"tags.`{k}` = '{v}'" for k, v in names.items())
        found = self._api.post("runs/search", {"experiment_ids": [experiment], "filter": wanted, "max_results": 100})
        return min((r["info"] for r in found.get("runs", [])), key=lambda i: (int(i["start_time"]), i["run_id"]),
                   default=None)


def _requests(records: list[Record]) -> Iterator[tuple[str, Any]]:
    """As few requests as MLflow's limits allow."""
    metrics = [_metric(name, value, r) for r in records if r["kind"] == "metrics"
               for name, value in r["values"].items()]
    params = [{"key": k, "value": v[:PARAM_LENGTH]} for r in records if r["kind"] == "params"
              for k, v in r["values"].items()]
    tags = [{"key": k, "value": v} for r in records if r["kind"] == "tags" for k, v in r["values"].items()]
    datasets = [{"dataset": {"name": name, "digest": digest[:32], "source_type": "content", "source": digest}}
                for r in records if r["kind"] == "datasets" for name, digest in r["values"].items()]
    for kind, entries, size in (("params", params, PARAMS_A_REQUEST), ("tags", tags, PARAMS_A_REQUEST),
                                ("metrics", metrics, METRICS_A_REQUEST), ("datasets", datasets, DATASETS_A_REQUEST)):
        for i in range(0, len(entries), size):
            yield kind, entries[i:i + size]
    for record in records:
        if record["kind"] == "recipe":
            yield "recipe", record["body"]
        elif record["kind"] == "end":
            yield "end", {"status": record["status"], "end_time": record["at"]}


def _metric(name: str, value: float, record: Record) -> dict[str, Any]:
    """JSON has no NaN and no infinity; MLflow takes them as text."""
    text = "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return {"key": name, "value": value if math.isfinite(value) else text, "timestamp": record["at"],
            "step": record["index"]}
