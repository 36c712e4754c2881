"""Closed-form probes are the same from rows and from sums over batches, for several sets of labels."""

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from layerprobe.core.statistics import LayerSums
from layerprobe.errors import InputError
from layerprobe.probes import LDA, MASC, NearestClassMean, Ridge, ShrinkageLDA, VeLPIC

K = 4
PROBES = [MASC(), MASC(components=3), VeLPIC(), NearestClassMean(), LDA(), Ridge(0.1), ShrinkageLDA(0.2)]


def draw(n=600, d=24, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    true = torch.arange(n) % K
    mixing = torch.randn(d, d, generator=generator, dtype=dtype)
    X = (2 * torch.randn(K, d, generator=generator, dtype=dtype)[true] + 5) + torch.randn(
        n, d, generator=generator, dtype=dtype
    ) @ mixing
    noisy = torch.where(torch.rand(n, generator=generator) < 0.4, (true + 1) % K, true)
    return X, true, noisy


def summed(X, codes, num_classes=K):
    sums = LayerSums(num_classes, X.shape[1], len(codes), {"moments", "scatter"}, dtype=X.dtype)
    for rows, part in zip(X.split(37), codes.split(37, dim=1), strict=True):
        sums.update(rows, part)
    return sums.finish()


@pytest.mark.parametrize("probe", PROBES, ids=str)
@pytest.mark.parametrize(("n", "dtype"), [(600, torch.float64), (600, torch.float32), (60, torch.float64)])
def test_probes_from_sums_equal_those_from_rows(probe, n, dtype):
    X, true, noisy = draw(n, dtype=dtype)
    sums = summed(X, torch.stack([noisy, true]))
    for s, labels in enumerate([noisy, true]):
        by_rows = type(probe)(**probe.get_params()).fit(X, labels)
        by_sums = type(probe)(**probe.get_params()).fit_statistics(sums.of(s), np.arange(K))
        expected, scores = by_rows.decision_function(X), by_sums.decision_function(X)
        scale = float(expected.abs().max())
        tolerance = {torch.float64: 1e-9, torch.float32: 2e-3}[dtype]
        torch.testing.assert_close(scores / scale, expected / scale, rtol=0, atol=tolerance)


def test_lda_from_sums_equals_scikit_learns_for_dependent_or_constant_features():
    X, true, _ = draw()
    X[:, 3] = 0
    X[:, 5] = X[:, 6] + 2 * X[:, 7]
    ours = LDA().fit_statistics(summed(X, true[None]).of(0), np.arange(K))
    theirs = LinearDiscriminantAnalysis().fit(X.numpy(), true.numpy())
    np.testing.assert_allclose(ours.decision_function(X), theirs.decision_function(X.numpy()), atol=1e-7)
    two = true.clamp(max=1)
    ours = LDA().fit_statistics(summed(X, two[None], 2).of(0), np.arange(2))
    theirs = LinearDiscriminantAnalysis().fit(X.numpy(), two.numpy())
    np.testing.assert_allclose(ours.decision_function(X), theirs.decision_function(X.numpy()), atol=1e-7)


def test_lda_from_sums_takes_features_of_any_units():
    X, true, _ = draw()
    units = torch.logspace(-6, 6, X.shape[1], dtype=X.dtype)
    expected = LDA().fit(X, true).decision_function(X)
    ours = LDA().fit_statistics(summed(X * units, true[None]).of(0), np.arange(K))
    torch.testing.assert_close(ours.decision_function(X * units), expected, rtol=0, atol=1e-6)
    for weight in (1.0, 1e-9):  # the sum of the weights has no effect
        ours = LDA().fit(X * units, true, sample_weight=torch.full((len(X),), weight))
        torch.testing.assert_close(ours.decision_function(X * units), expected, rtol=0, atol=1e-6)


def test_rows_that_all_sets_agree_on_are_summed_once():
    X, true, noisy = draw()
    sums = LayerSums(K, X.shape[1], 2, {"moments"}, dtype=X.dtype)
    sums.update(X, torch.stack([noisy, true]))
    changed = int((noisy != true).sum())
    assert 0.3 < changed / len(X) < 0.5
    assert [int(part.counts.sum()) for part in sums.moments] == [changed, changed, len(X) - changed]


def test_smaller_subspaces_are_parts_of_the_largest():
    X, true, _ = draw()
    statistics = summed(X, true[None]).of(0)
    largest = statistics.subspaces(variance=0.99)
    for variance in (0.9, 0.5):
        part = statistics.subspaces(variance=variance)
        assert part.columns is largest.columns
        assert part.ranks == MASC(variance).fit(X, true).subspaces_.ranks
    assert statistics.subspaces(components=1).ranks == (1,) * K


def test_classes_of_a_set_are_those_with_rows_in_it():
    X, true, _ = draw()
    sums = summed(X, torch.stack([true, true % 2]))
    few = MASC().fit_statistics(sums.of(1), np.array(["even", "odd"]))
    assert few.score(X, np.array(["even", "odd"])[true % 2]) == MASC().fit(X, true % 2).score(X, true % 2)


def test_sums_without_scatter_are_refused():
    X, true, _ = draw()
    for rows, codes, message in (
        (X, 0 * true, "at least two classes"),
        (X[:4], true[:4], "more rows than classes"),
        (0 * X, true, "all rows are the same"),
    ):
        with pytest.raises(InputError, match=message):
            LDA().fit_statistics(summed(rows, codes[None]).of(0), np.arange(K))


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_lda_from_sums_ignores_features_that_vary_by_rounding_only(scale):
    X, true, _ = draw(dtype=torch.float32)
    X[:, 3] = 0.3  # float32 means and sums leave some of it
    X[:, 5] = torch.where(true == 0, 0.7, 0.1)  # the same on all rows of a class
    sums = summed(X * scale, true[None]).of(0)
    ours = LDA().fit_statistics(sums, np.arange(K))
    theirs = LinearDiscriminantAnalysis().fit((X * scale).double().numpy(), true.numpy())
    assert np.isfinite(ours.estimator_.coef_).all()
    assert np.mean(ours.predict((X * scale).numpy()) == theirs.predict(X.double().numpy() * scale)) > 0.99
