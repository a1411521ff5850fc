import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.stage import BadInput, InputArtifact
from pipelines.stages.gate import STAGE, Champion, Config, decide
from tests.pipelines.stages.stage_context import stage_context

SCORES = {"probe": {"overall": 0.83, "kinds": {"count": {"accuracy": 0.9}}}, "scienceqa": {"accuracy": 91.0}}


def champion(**scores) -> Champion:
    return Champion(model="demo", version=3, scores={"probe": scores})


def accepts(scores, champion=None, tolerance=0.0, **rules) -> bool:
    config = Config(rules=rules or {"probe.overall": 0.8}, champion=champion, tolerance=tolerance)
    return not decide(scores, config).rejections


def decided(tmp_path, scores, config, judged="digest-a", candidate="digest-a"):
    inputs = {"evaluation": InputArtifact.of_folder(tmp_path, {**scores, "model_digest": judged}),
              "model": InputArtifact.of_folder(tmp_path, digest=candidate)}
    ctx = stage_context(STAGE, tmp_path, config, inputs)
    return STAGE.run(ctx), json.loads((ctx.out / "decision.json").read_text())


def test_a_score_at_its_minimum_passes_and_one_below_does_not():
    """The minimum itself is enough."""
    assert accepts(SCORES, **{"probe.overall": 0.83})
    assert not accepts(SCORES, **{"probe.overall": 0.8301})


def test_one_score_below_its_minimum_is_enough_to_reject():
    """Every rule must hold, at any depth."""
    assert accepts(SCORES, **{"probe.overall": 0.5, "probe.kinds.count.accuracy": 0.9})
    assert not accepts(SCORES, **{"probe.overall": 0.5, "probe.kinds.count.accuracy": 0.91})


@given(theirs=st.floats(0, 1), ours=st.floats(0, 1))
def test_a_worse_model_never_passes(theirs, ours):
    """Without tolerance, a candidate is accepted exactly when it is at least as good as the champion."""
    assert accepts({"probe": {"overall": ours}}, champion(overall=theirs), **{"probe.overall": 0.0}) == (ours >= theirs)


def test_tolerance_is_a_share_of_the_champions_score():
    """Five per cent of 0.8 is 0.04."""
    assert accepts({"probe": {"overall": 0.761}}, champion(overall=0.8), tolerance=0.05, **{"probe.overall": 0.0})
    assert not accepts({"probe": {"overall": 0.759}}, champion(overall=0.8), tolerance=0.05, **{"probe.overall": 0.0})


@pytest.mark.parametrize("broken", [math.nan, math.inf, None])
def test_a_score_that_is_no_number_passes_nothing(broken):
    """Neither NaN, nor infinity, nor null is better than a minimum."""
    assert not accepts({"probe": {"overall": broken}}, **{"probe.overall": 0.0})


def test_a_champion_without_the_scores_cannot_be_passed():
    """Nothing to compare is not the same as no worse; one common score is compared and the rest is named."""
    assert not accepts(SCORES, champion(other=0.1))
    config = Config(rules={"probe.overall": 0.5, "scienceqa.accuracy": 50}, champion=champion(overall=0.5))
    verdict = decide(SCORES, config)
    assert verdict.rejections == ()
    assert verdict.notes == ("champion demo version 3 has no score scienceqa.accuracy: not compared",)


def test_a_rule_without_its_score_is_bad_input():
    """A typo in a recipe is not a rejection; the error lists the scores there are."""
    with pytest.raises(BadInput, match=r"gate.rules.probe.overal: .*probe.overall, probe.kinds.count.accuracy"):
        accepts(SCORES, **{"probe.overal": 0.5})


def test_a_gate_without_rules_is_refused():
    """A gate that checks nothing is not a gate."""
    with pytest.raises(ValueError, match="rules"):
        Config(rules={})


def test_an_accepted_decision_says_what_was_compared(tmp_path):
    """The artifact holds candidate, champion and every comparison; the values what the next steps read."""
    config = Config(model="demo", rules={"probe.overall": 0.8}, champion=champion(overall=0.7))
    result, decision = decided(tmp_path, SCORES, config)
    assert result.values["accepted"] is True
    assert decision["candidate"] == {"model": "demo", "digest": "digest-a", "scores": {"probe.overall": 0.83}}
    assert decision["champion"]["version"] == 3
    assert [c["bound"] for c in decision["checks"]] == [0.8, 0.7]
    assert result.values["reasons"] == decision["reasons"] == [
        "probe.overall = 0.83 is at least 0.8 (the recipe's minimum)",
        "probe.overall = 0.83 is at least 0.7 (champion demo version 3)"]


def test_a_rejection_is_a_result_with_its_reasons(tmp_path):
    """It does not raise; each failed comparison is a sentence."""
    result, decision = decided(tmp_path, SCORES, Config(rules={"probe.overall": 0.9}))
    assert (result.values["accepted"], decision["accepted"]) == (False, False)
    assert result.values["reasons"] == ["probe.overall = 0.83 is below 0.9 (the recipe's minimum)"]


def test_an_evaluation_of_another_model_is_rejected(tmp_path):
    """Scores count only for the model that earned them."""
    result, _ = decided(tmp_path, SCORES, Config(rules={"probe.overall": 0.8}), judged="digest-b")
    assert result.values["accepted"] is False
    assert "another model" in result.values["reasons"][0]
