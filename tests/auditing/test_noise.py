"""Noise from label-free layers, and the bias of a weak probe."""

import pytest
import torch

from auditing.planted import clusters, corrupted, noise_matrix, scored_rows
from layerprobe.auditing.method.noise import LabelFreeScorer, estimate_noise
from layerprobe.auditing.method.policies import SelectionSet
from layerprobe.probes import Ridge


def hard(n=1500, K=5, d=60, rate=0.3, seed=0):
    """Classes that overlap, in so many dimensions that a probe fits noise: its errors look decided."""
    X, y = clusters(n, K, d, seed=seed, apart=2.0)
    return X, y, corrupted(y, K, rate, seed=seed + 1)


def measurement(scores, labels, *, of_training_rows=False, clean=False):
    return SelectionSet({}, [{}], labels, clean, [], None, of_training_rows)


def test_layer_with_the_highest_agreement_is_selected():
    X, _, given = hard()
    found = LabelFreeScorer.select({"nothing": torch.randn(X.shape), "the raw input": X}, given, seed=0)
    assert found.source == "the raw input, which does not depend on the labels"
    assert torch.allclose(found.posterior.sum(1), torch.ones(len(X), dtype=torch.float64))
    assert LabelFreeScorer.select({}, given, seed=0) is None


def test_relabelled_is_the_fit_to_the_other_labels():
    X, y, given = hard()
    first, other = Ridge(0.3).fit(X, y), Ridge(0.3).fit(X, given)
    again = first.relabelled(X, given)
    assert torch.allclose(again.coef_, other.coef_, atol=1e-6)
    assert torch.allclose(again.loo_scores(X, given), other.loo_scores(X, given), atol=1e-5)
    assert torch.equal(first.codes_, y)  # the first fit is as it was


def test_bias_correction_reduces_the_error():
    plain_errors, errors, covered = [], [], 0
    for seed in range(4):
        X, y, given = hard(seed=10 * seed)
        truth = float((given != y).double().mean())
        scorer = LabelFreeScorer.select({"the raw input": X}, given, seed=0)
        _, found = estimate_noise(
            [scorer.scores],
            measurement(scorer.scores, given, of_training_rows=True),
            scorer.scores,
            given,
            scorer,
            seed=0,
        )
        plain = scorer.noise_rate(given)
        plain_errors.append(plain - truth)
        errors.append(found.rate - truth)
        covered += found.low <= truth <= found.high
    assert sum(plain_errors) / 4 > 0.01
    assert abs(sum(errors)) < abs(sum(plain_errors)) / 2
    assert covered >= 3


def test_label_free_bias_lowers_only_the_low_end():
    X, _, given = hard()
    scorer = LabelFreeScorer.select({"the raw input": X}, given, seed=0)
    scores, _, labels = scored_rows(3000, 5, 3.0, noise_matrix(5, 0.3), seed=3)
    _, alone = estimate_noise([scores], measurement(scores, labels), scorer.scores, given, None, seed=0)
    _, beside = estimate_noise([scores], measurement(scores, labels), scorer.scores, given, scorer, seed=0)
    excess = scorer.noise_rate(given) - alone.rate
    assert excess > 0
    assert beside.low == pytest.approx(alone.low - excess)
    assert (beside.rate, beside.high) == (alone.rate, alone.high)


def test_bias_correction_is_deterministic():
    X, _, given = hard()
    scorer = [LabelFreeScorer.select({"the raw input": X}, given, seed=0) for _ in range(2)]
    first, second = (one.bias_corrected(given, seed=1) for one in scorer)
    assert first[1] == second[1]
    assert torch.equal(first[0].matrices, second[0].matrices)
