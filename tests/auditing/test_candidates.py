"""Scores of every probe on every layer at every hyperparameter, on held-out rows."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from auditing.planted import clusters, right_of
from layerprobe import MASC
from layerprobe.auditing.method.ensemble import (
    DEFAULT_PROBES,
    HYPERPARAMETERS,
    Candidate,
    audit_probes,
    fit_candidate,
    score_candidates,
)
from layerprobe.errors import InputError
from layerprobe.probes import REGISTRY, NearestClassMean, Ridge, ShrinkageLDA, VeLPIC, WhitenedKNN, create

X, Y = clusters(90, apart=1.5)
H, HY = clusters(60, seed=1, apart=1.5)
BLIND = torch.randn(90, 4, generator=torch.Generator().manual_seed(2))


def scored(probes, layers=None, views=None, labels=HY):
    return score_candidates(
        audit_probes(probes), layers or {"seen": X}, Y, views or [{"seen": H}], right_of(labels)
    )


def test_probes_are_named():
    assert list(audit_probes(DEFAULT_PROBES)) == list(DEFAULT_PROBES)
    assert list(audit_probes("ridge")) == list(audit_probes(Ridge())) == ["ridge"]
    named = audit_probes({"mine": MASC(variance=0.3), "other": "ncm"})
    assert isinstance(named["other"], NearestClassMean)
    assert named["mine"].variance == 0.3


@pytest.mark.parametrize(
    "probes",
    [[], {}, ["ridge", "ridge"], [Ridge(), Ridge(2.0)], [LogisticRegression()], "mask", [None]],
    ids=["none", "no mapping", "twice", "two of a kind", "another library's", "unknown", "nothing"],
)
def test_invalid_probes_are_refused(probes):
    with pytest.raises(InputError):
        audit_probes(probes)


@pytest.mark.parametrize(("name", "argument"), [("ridge", "strength"), ("shrinkage_lda", "shrinkage")])
def test_a_candidate_scores_as_its_probe_fitted_alone(name, argument):
    results = scored([name])
    assert [t.candidate.hyperparameter for t in results] == list(HYPERPARAMETERS[name])
    for one in results:
        alone = create(name).set_params(**{argument: one.candidate.hyperparameter}).fit(X, Y)
        assert one.criterion == pytest.approx(alone.score(H, HY), abs=1e-6)


@pytest.mark.parametrize("probe", [MASC, WhitenedKNN])
def test_staged_candidates_score_as_refits(probe):
    name = next(key for key, kind in REGISTRY.items() if kind is probe)
    results = scored([name])
    assert len(results) == len(HYPERPARAMETERS[name])
    for one in results:
        alone = probe(**{probe.stage: one.candidate.hyperparameter}).fit(X, Y)
        # `predict` looks at ties of float32 scores again in float64: at 99 % of six features all are close
        assert one.criterion == pytest.approx(alone.score(H, HY), abs=1 / 60 + 1e-6)


def test_informative_layer_scores_higher():
    layers, copies = {"blind": BLIND, "seen": X}, [{"blind": BLIND[:60], "seen": H}]
    results = scored(["ridge", "ncm"], layers, copies)
    assert max(results, key=lambda one: one.criterion).candidate.layer == "seen"
    assert max(one.criterion for one in results if one.candidate.layer == "blind") < 0.6
    assert [t.candidate.hyperparameter for t in results if t.candidate.probe == "ncm"] == [None, None]


def test_only_scores_of_the_best_hyperparameter_are_kept():
    torch.manual_seed(0)
    few = {"seen": X, "again": torch.cat([X, torch.randn(90, 80)], 1)}  # where weak ridges fit the noise
    held = {"seen": H, "again": torch.cat([H, torch.randn(60, 80)], 1)}
    results = scored(["ridge", "masc", "velpic"], few, [held])
    assert {one.candidate.hyperparameter for one in results if one.scores is not None} - {None, 1e-3, 0.25}
    kept = [one for one in results if one.scores is not None]
    assert len(kept) == 6
    for one in kept:
        rivals = [
            t.criterion
            for t in results
            if (t.candidate.layer, t.candidate.probe) == (one.candidate.layer, one.candidate.probe)
        ]
        assert one.criterion == max(rivals)
        assert one.scores[0].shape == (60, 3)


def test_correctness_is_averaged_over_views():
    far = {"seen": H.roll(1, 0)}  # of another class, always
    (plain,), (other,), (both,) = (
        scored(["velpic"], views=c) for c in ([{"seen": H}], [far], [{"seen": H}, far])
    )
    torch.testing.assert_close(both.correct, (plain.correct + other.correct) / 2)
    (staged, *_) = scored(["ridge"], views=[{"seen": H}, far])
    (once, *_) = scored(["ridge"], views=[{"seen": H}])
    (twice, *_) = scored(["ridge"], views=[far])
    torch.testing.assert_close(staged.correct, (once.correct + twice.correct) / 2)


def test_candidate_is_fitted_at_its_hyperparameter():
    for candidate, expected in (
        (Candidate("seen", "ridge", 30), Ridge(30)),
        (Candidate("seen", "shrinkage_lda", 0.6), ShrinkageLDA(0.6)),
        (Candidate("seen", "masc", 0.5), MASC(variance=0.5)),
        (Candidate("seen", "velpic", None), VeLPIC()),
    ):
        fitted = fit_candidate(candidate, create(candidate.probe), X, Y)
        torch.testing.assert_close(fitted.decision_function(H), expected.fit(X, Y).decision_function(H))


@pytest.mark.parametrize("probe", [MASC(variance=0.3), MASC(components=1), Ridge(7.0)], ids=repr)
def test_parameters_of_a_configured_probe_are_kept(probe):
    (one,) = scored({"mine": probe})
    assert one.candidate.hyperparameter is None
    assert one.criterion == pytest.approx(type(probe)(**probe.get_params()).fit(X, Y).score(H, HY), abs=1e-6)
    fitted = fit_candidate(one.candidate, probe, X, Y)
    assert fitted.get_params() == probe.get_params()


def test_a_number_of_components_is_not_staged_over_variances():
    (one,) = scored([MASC(components=1)])
    assert one.candidate == Candidate("seen", "masc", None)


def test_two_classes_have_two_scores():
    x, y = clusters(80, K=2)
    held, held_y = clusters(40, K=2, seed=1)
    for one in score_candidates(
        audit_probes(DEFAULT_PROBES), {"seen": x}, y, [{"seen": held}], right_of(held_y)
    ):
        if one.scores is not None:
            assert one.scores[0].shape == (40, 2)
            assert one.criterion > 0.8


def test_error_names_the_layer():
    bad = X.clone()
    bad[3, 1] = torch.nan
    with pytest.raises(InputError, match=r"layer 'seen'.* row 3"):
        scored(["ridge"], {"seen": bad})
