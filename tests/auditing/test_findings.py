"""Conditions for the verdicts "repair" and "keep"."""

from types import SimpleNamespace

import pandas as pd
import pytest

from layerprobe.auditing.findings import recommend
from layerprobe.auditing.method.baselines import Interval
from layerprobe.auditing.method.ensemble import Candidate, EnsembleMember, ProbeEnsemble

CONTROLS = {"head": 0.5, "head, averaged over views": 0.55, "raw input": 0.6, "early stopping": 0.65}


def findings(
    controls=CONTROLS, own=0.7, noise=(0.3, 0.25, 0.35), gain=(0.2, 0.1, 0.3), incomparable=(), head_fit=0.9
):
    members = [EnsembleMember(Candidate(f"fc{i}", "ridge", 0.1), None) for i in (1, 2)]
    table = pd.DataFrame({"control": [*controls, "decoder"], "criterion": [*controls.values(), own]})
    table["beaten"] = [*(None if name in incomparable else own > c for name, c in controls.items()), False]
    return SimpleNamespace(
        ensemble=ProbeEnsemble(tuple(members)),
        noise=SimpleNamespace(rate=noise[0], low=noise[1], high=noise[2]),
        criterion=Interval(own, own - 0.02, own + 0.02),
        gain=None if gain is None else Interval(*gain),
        head_fit=head_fit,
        frequent=0.1,
        controls=table,
    )


def test_strong_evidence_recommends_repair():
    verdict = recommend(findings(), wrong_after=0.1, wrong_before=0.3)
    assert verdict.verdict == "repair"
    assert "30% of the labels are wrong (25% to 35%)" in verdict.finding
    assert "ridge on fc1 (and 1 more probes)" in verdict.finding
    assert "leaves 10.0% of the labels wrong, compared with 30.0% before" in verdict.why


def test_features_alone_have_no_head_to_beat():
    assert recommend(findings({}, gain=None), 0.1, 0.3).verdict == "repair"


@pytest.mark.parametrize(
    ("options", "after", "reason"),
    [
        ({"noise": (0.06, 0.04, 0.2)}, 0.01, "too low for a reliable repair"),
        ({"gain": (0.01, 0.0, 0.02)}, 0.1, "not significant"),
        ({"gain": (-0.1, -0.2, -0.05)}, 0.1, "-10.0 points"),
        ({"own": 0.65}, 0.1, "'early stopping' is about as good as the decoder (0.650 against 0.650)"),
        ({"controls": {"untrained copy": 0.71}}, 0.1, "'untrained copy' is about as good"),
        ({"controls": {"raw input": 0.7}}, 0.1, "'raw input' is about as good"),
        ({"controls": {"head, averaged over views": 0.9}}, 0.1, "averaged over views' is about as good"),
        ({}, 0.3, "no label would become more likely to be right"),
        ({}, float("nan"), "no label would become more likely to be right"),
    ],
)
def test_weak_evidence_keeps_the_labels(options, after, reason):
    verdict = recommend(findings(**options), wrong_after=after, wrong_before=0.3)
    assert verdict.verdict == "keep"
    assert reason in verdict.why[0].lower() + verdict.why[1:]
    assert verdict.finding.startswith("Keep your labels")
    assert reason in verdict.finding


def test_incomparable_baseline_need_not_be_beaten():
    name = "head, averaged over views"
    better = {"controls": {**CONTROLS, name: 0.9}}
    assert recommend(findings(**better), 0.1, 0.3).verdict == "keep"
    assert recommend(findings(**better, incomparable=[name]), 0.1, 0.3).verdict == "repair"


def test_all_reasons_are_given_and_the_first_is_the_finding():
    verdict = recommend(findings(own=0.1, noise=(0.0, 0.0, 0.01), gain=(-0.4, -0.5, -0.3)), 0.3, 0.3)
    assert verdict.why.count(";") == 5
    assert verdict.finding.count(";") == 0


def test_untrained_head_is_reported():
    verdict = recommend(findings(head_fit=0.11), 0.1, 0.3)
    assert verdict.verdict == "keep"
    assert "class_names" in verdict.finding
