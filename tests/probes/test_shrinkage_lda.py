import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from layerprobe.probes import ShrinkageLDA

rng = np.random.default_rng(6)


def data(n, d, K=4, dtype=np.float64):
    """Classes of different sizes, some of them close to each other."""
    codes = np.minimum(rng.integers(0, 2 * K, n), K - 1)
    codes[:K] = np.arange(K)
    rows = rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) * np.logspace(0, -1, d) + 2
    return (rows + rng.standard_normal((K, d))[codes]).astype(dtype), codes


@pytest.mark.parametrize("K", [2, 4])
@pytest.mark.parametrize(
    ("n", "d", "shrinkage"),
    [(200, 8, 0.0), *((n, d, s) for n, d in [(200, 8), (60, 90)] for s in (0.01, 0.3, 1.0))],
)
def test_scores_equal_those_of_scikit_learn(n, d, K, shrinkage):
    X, codes = data(n, d, K)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(X, codes)
    found = ShrinkageLDA(shrinkage).fit(X, codes)
    query = np.concatenate([X, rng.standard_normal((500, d)) * X.std(0) + X.mean(0)])
    np.testing.assert_array_equal(found.predict(query), theirs.predict(query))
    scores, expected = found.decision_function(query), theirs.decision_function(query)
    if K > 2:  # both up to what all classes share
        scores, expected = scores - scores[:, :1], expected - expected[:, :1]
    np.testing.assert_allclose(scores, expected, atol=1e-7 * np.abs(expected).max())


def test_without_shrinkage_directions_without_spread_are_left_out():
    X, codes = data(60, 90)
    means = np.array([X[codes == k].mean(0) for k in range(4)])
    inverse = np.linalg.pinv(np.cov((X - means[codes]).T, bias=True), rcond=1e-10, hermitian=True)
    constant = np.log(np.bincount(codes) / 60) - np.einsum("kd,de,ke->k", means, inverse, means) / 2
    expected = X @ inverse @ means.T + constant
    found = ShrinkageLDA(0.0).fit(X, codes).decision_function(X)
    np.testing.assert_allclose(found - found[:, :1], expected - expected[:, :1], rtol=1e-6, atol=1e-6)


def test_float32_rows_give_the_labels_of_float64_rows():
    X, codes = data(3000, 30, dtype=np.float32)
    single, double = ShrinkageLDA().fit(X, codes), ShrinkageLDA().fit(X.astype(np.float64), codes)
    scores, expected = single.decision_function(X), double.decision_function(X.astype(np.float64))
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(("n", "d"), [(200, 8), (60, 90)])
def test_scale_of_a_layer_does_not_change_the_scores(n, d):
    X, codes = data(n, d)
    expected = ShrinkageLDA().fit(X, codes).decision_function(X)
    for scale in (1e-100, 1e100):
        found = ShrinkageLDA().fit(X * scale, codes).decision_function(X * scale)
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8)


def test_fewer_rows_than_features_give_equal_scores():
    X, codes = data(60, 20)
    wide = X @ np.linalg.qr(rng.standard_normal((100, 100)))[0][:20]
    # The same floor s trace / d and the same (1 - s), up to a factor of all scores that priors do not have
    gram = ShrinkageLDA(0.5).fit(wide, codes)
    narrow = ShrinkageLDA(1 / 6).fit(X, codes)  # s / (1 - s) is a fifth of that in 100 dimensions
    differences = [
        (fitted.decision_function(rows) - fitted.priors_.log().numpy()) * (1 - s)
        for fitted, rows, s in ((gram, wide, 0.5), (narrow, X, 1 / 6))
    ]
    np.testing.assert_allclose(differences[0], differences[1], atol=1e-9)


def test_classes_without_spread_are_separated_by_their_means():
    means = np.array([[1.0, 0.0, 5.0], [0.0, 1.0, 5.0], [1.0, 1.0, 7.0]])
    fitted = ShrinkageLDA().fit(np.repeat(means, 4, axis=0), np.repeat([0, 1, 2], 4))
    assert fitted.predict(means).tolist() == [0, 1, 2]


def test_constant_layer_predicts_the_most_frequent_class():
    assert ShrinkageLDA().fit(np.ones((5, 3)), list("babba")).predict(np.ones((2, 3))).tolist() == ["b", "b"]
