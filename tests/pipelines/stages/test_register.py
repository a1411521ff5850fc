"""register: the gate's decision, and nothing else, moves the champion; a killed run is completed by the next."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines import registry
from pipelines.faults import Fault
from pipelines.stage import BadInput, InputArtifact, StageContext
from pipelines.stages.register import STAGE, Config
from pipelines.store import ObjectStore, open_store
from tests.pipelines.stages.stage_context import stage_context


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(f"file://{tmp_path}/store")


def context(store: ObjectStore, folder: Path, *, accepted: bool = True, judged: str = "d1", champion: int | None = None,
            model: str = "toy") -> StageContext:
    """What the step sees after a gate that judged ``judged``; the candidate is d1."""
    (folder / "gate").mkdir(exist_ok=True)
    (folder / "gate" / "decision.json").write_text(json.dumps({
        "candidate": {"digest": judged}, "champion": {"version": champion} if champion else None}))
    candidate = InputArtifact(digest="d1", values={}, names=(), fetch=lambda _names: folder, step="tune_chat", key="k1")
    return stage_context(STAGE, folder, Config(model=model), {
        "decision": InputArtifact.of_folder(folder / "gate", {"accepted": accepted, "reasons": ["overall is 0.9"]}),
        "model": candidate, "evaluation": InputArtifact.of_folder(folder, {"overall": 0.9})}, store=store)


def test_an_accepted_model_is_champion_with_its_scores_and_record(store: ObjectStore, tmp_path: Path):
    """The version names the record it came from, its content and its scores, and history the reason."""
    STAGE.run(context(store, tmp_path))
    state = registry.read(store, "toy")
    champion = state.alias("champion")
    assert champion is not None
    assert (champion.step, champion.key, champion.digest) == ("tune_chat", "k1", "d1")
    assert champion.scores == {"overall": 0.9}
    assert "overall is 0.9" in state.history[-1].why


def test_a_rejected_model_changes_nothing_and_says_why(store: ObjectStore, tmp_path: Path, capsys):
    """Law 9: no version, no candidate."""
    result = STAGE.run(context(store, tmp_path, accepted=False))
    assert store.get(registry.alias_key("toy")) is None
    assert result.values == {"accepted": False}
    assert "overall is 0.9" in capsys.readouterr().out


def test_a_decision_about_another_model_is_refused(store: ObjectStore, tmp_path: Path):
    """The digest that was judged must be the digest that is registered."""
    with pytest.raises(BadInput, match="digest other"):
        STAGE.run(context(store, tmp_path, judged="other"))
    assert registry.read(store, "toy").versions == ()


def test_killed_in_between_the_next_run_completes_it(store: ObjectStore, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch):
    """Between candidate and champion: the second run makes the same version champion, and no other."""
    with monkeypatch.context() as faulty:
        faulty.setenv("PIPELINE_FAULT", "register.before_champion:raise")
        with pytest.raises(Fault):
            STAGE.run(context(store, tmp_path))
    assert registry.read(store, "toy").aliases == {"candidate": 1}
    STAGE.run(context(store, tmp_path))
    assert registry.read(store, "toy").aliases == {"champion": 1}


def test_mlflow_away_is_a_warning(store: ObjectStore, tmp_path: Path, capsys):
    """The S3 object decides; the copy is repaired another time."""
    ctx = context(store, tmp_path)
    ctx.settings = replace(ctx.settings, mlflow_uri="http://127.0.0.1:9")
    assert STAGE.run(ctx).metrics["mlflow_repairs"] == -1
    assert registry.read(store, "toy").aliases == {"champion": 1}
    assert "warning: MLflow" in capsys.readouterr().out


def test_a_step_without_a_model_name_says_how_to_give_one(store: ObjectStore, tmp_path: Path):
    """The error names the key."""
    with pytest.raises(BadInput, match=r"--set register.model="):
        STAGE.run(context(store, tmp_path, model=""))
