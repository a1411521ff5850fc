"""The registry as MLflow shows it: a copy, repaired from the S3 object whenever the two differ.

MLflow numbers versions itself, so a version is known there by the tag ``llava.version``. A version that somebody made
by hand in MLflow is left alone; an alias that differs is moved back.
"""

from __future__ import annotations

from pipelines.mlflow_api import MlflowApi, MlflowDown, MlflowRefused
from pipelines.registry import ALIASES, Registered, Version

NUMBER_TAG = "llava.version"
PAGE = 200


def show_in_mlflow(uri: str | None, store_uri: str, state: Registered) -> int:
    """Mirror where there is an MLflow. Returns the repairs; -1, and a warning, when it does not take part."""
    if uri is None:
        return 0
    try:
        return mirror(MlflowApi(uri), store_uri, state)
    except (MlflowDown, MlflowRefused) as error:
        print(f"warning: MLflow does not show the registry's state yet, the next run repairs it: {error}")
        return -1


def mirror(api: MlflowApi, store_uri: str, state: Registered) -> int:
    """Make MLflow's registered model show this state. Returns how many differences were repaired.

    Raises MlflowDown when the server does not answer; whoever calls decides whether that matters.
    """
    repaired = _ensure_model(api, state.model)
    shown = _versions(api, state.model)
    for version in state.versions:
        if str(version.number) not in shown:
            shown[str(version.number)] = _create(api, store_uri, state.model, version)
            repaired += 1
    found = api.get("registered-models/get", {"name": state.model})["registered_model"]
    aliases = {a["alias"]: a["version"] for a in found.get("aliases", [])}
    for alias in ALIASES:
        number = state.aliases.get(alias)
        wanted = shown[str(number)] if number is not None else None
        if aliases.get(alias) == wanted:
            continue
        repaired += 1
        if wanted is None:
            api.delete("registered-models/alias", {"name": state.model, "alias": alias})
        else:
            api.post("registered-models/alias", {"name": state.model, "alias": alias, "version": wanted})
    return repaired


def _ensure_model(api: MlflowApi, model: str) -> int:
    try:
        api.post("registered-models/create", {"name": model})
    except MlflowRefused as error:
        if error.code != "RESOURCE_ALREADY_EXISTS":
            raise
        return 0
    return 1


def _versions(api: MlflowApi, model: str) -> dict[str, str]:
    """Our version number -> MLflow's, of every version that carries our tag; of two that do, the older."""
    numbers: dict[str, str] = {}
    query = {"filter": f"name='{model}'", "max_results": PAGE}
    while True:
        page = api.get("model-versions/search", query)
        for version in page.get("model_versions", []):
            tags = {t["key"]: t["value"] for t in version.get("tags", [])}
            if own := tags.get(NUMBER_TAG):
                numbers[own] = min(numbers.get(own, version["version"]), version["version"], key=int)
        if not page.get("next_page_token"):
            return numbers
        query["page_token"] = page["next_page_token"]


def _create(api: MlflowApi, store_uri: str, model: str, version: Version) -> str:
    tags = {NUMBER_TAG: str(version.number), "llava.step": version.step, "llava.key": version.key,
            "llava.digest": version.digest}
    answer = api.post("model-versions/create", {
        "name": model, "source": f"{store_uri}/steps/{version.step}/{version.key}.json",
        "tags": [{"key": k, "value": v} for k, v in tags.items()]})
    return answer["model_version"]["version"]
