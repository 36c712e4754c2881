import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import Ridge as ScikitLearnRidge

from layerprobe.errors import InputError
from layerprobe.probes import Ridge

rng = np.random.default_rng(5)


def data(n, d, K=3, dtype=np.float64):
    codes = rng.permutation(np.arange(n) % K)
    rows = rng.standard_normal((n, d)) * np.logspace(0, -1, d) + 3 + 0.5 * rng.standard_normal((K, d))[codes]
    return rows.astype(dtype), codes


@pytest.mark.parametrize("d", [6, 90])
@pytest.mark.parametrize("strength", [1e-3, 1.0, 50.0])
def test_scores_equal_scikit_learns_ridge_to_one_hot_targets(d, strength):
    X, codes = data(50, d)
    centred = X - X.mean(0)
    penalty = strength * np.square(centred).sum() / d
    expected = ScikitLearnRidge(alpha=penalty).fit(X, np.eye(3)[codes])
    query = data(20, d)[0]
    found = Ridge(strength).fit(X, codes)
    np.testing.assert_allclose(found.decision_function(query), expected.predict(query), atol=1e-8)
    np.testing.assert_allclose(found.coef_, expected.coef_, atol=1e-8)
    np.testing.assert_allclose(found.intercept_, expected.intercept_, atol=1e-8)


@pytest.mark.parametrize("d", [1, 6, 29, 30, 31, 90])
@pytest.mark.parametrize("strength", [1e-3, 1.0, 50.0])
@pytest.mark.parametrize("K", [2, 4])
def test_leave_one_out_scores_are_those_of_refits(d, strength, K):
    X, codes = data(30, d, K)
    ridge = Ridge(strength).fit(X, codes)
    others = [np.arange(30) != i for i in range(30)]
    refits = [clone(ridge).fit(X[rest], codes[rest]) for rest in others]
    expected = [next(refit.staged_scores(X[[i]], [strength]))[0] for i, refit in enumerate(refits)]
    np.testing.assert_allclose(ridge.loo_scores(X, codes), expected, atol=1e-9)
    refits = [refit.at(0.2) for refit in refits]
    expected = [next(refit.staged_scores(X[[i]], [0.2]))[0] for i, refit in enumerate(refits)]
    np.testing.assert_allclose(ridge.at(0.2).loo_scores(X, codes), expected, atol=1e-9)


@pytest.mark.parametrize(("n", "d"), [(3000, 40), (90, 120)])
def test_float32_rows_give_the_scores_of_float64_rows(n, d):
    X, codes = data(n, d, dtype=np.float32)
    single, double = Ridge(1e-2).fit(X, codes), Ridge(1e-2).fit(X.astype(np.float64), codes)
    scores, left_out = single.decision_function(X), single.loo_scores(X, codes)
    assert scores.dtype == left_out.dtype == np.float32
    np.testing.assert_allclose(scores, double.decision_function(X.astype(np.float64)), atol=2e-4)
    np.testing.assert_allclose(left_out, double.loo_scores(X.astype(np.float64), codes), atol=2e-4)


@pytest.mark.parametrize("d", [8, 60])
@pytest.mark.parametrize(("dtype", "scales"), [(np.float32, (1e-18, 1e18)), (np.float64, (1e-100, 1e100))])
def test_scale_of_a_layer_does_not_change_the_scores(d, dtype, scales):
    X, codes = data(40, d, dtype=dtype)
    unscaled = Ridge(0.3).fit(X, codes)
    for scale in scales:
        rows = (X * scale).astype(dtype)
        scaled = Ridge(0.3).fit(rows, codes)
        np.testing.assert_allclose(scaled.decision_function(rows), unscaled.decision_function(X), atol=1e-4)
        np.testing.assert_allclose(scaled.loo_scores(rows, codes), unscaled.loo_scores(X, codes), atol=1e-4)


def test_fewer_rows_than_features_give_equal_scores():
    X, codes = data(40, 12)
    rotation = np.linalg.qr(rng.standard_normal((50, 50)))[0][:12]
    wide = X @ rotation  # the same rows in 50 dimensions, by the Gram matrix
    narrow = Ridge(12 * 0.2).fit(X, codes)  # the mean eigenvalue is over all dimensions
    gram = Ridge(50 * 0.2).fit(wide, codes)
    np.testing.assert_allclose(gram.decision_function(wide), narrow.decision_function(X), atol=1e-9)
    np.testing.assert_allclose(gram.loo_scores(wide, codes), narrow.loo_scores(X, codes), atol=1e-9)


def test_row_whose_other_rows_are_equal_gets_the_class_shares():
    X = np.zeros((5, 3))
    X[2] = [1.0, 2.0, 3.0]
    codes = [0, 0, 1, 1, 1]
    scores = Ridge().fit(X, codes).loo_scores(X, codes)
    np.testing.assert_allclose(scores[2], [0.5, 0.5])
    assert np.isfinite(scores).all()


def test_constant_layer_predicts_the_most_frequent_class():
    X = np.full((5, 3), 7.0)
    ridge = Ridge().fit(X, ["b", "a", "b", "b", "a"])
    assert ridge.predict(X).tolist() == ["b"] * 5
    np.testing.assert_allclose(ridge.loo_scores(X, ["b", "a", "b", "b", "a"])[0], [0.5, 0.5])


def test_order_of_rows_and_blocks_does_not_change_the_scores():
    X, codes = data(5000, 7)
    order = rng.permutation(5000)
    ridge, shuffled = Ridge().fit(X, codes), Ridge().fit(X[order], codes[order])
    np.testing.assert_allclose(shuffled.coef_, ridge.coef_, atol=1e-12)
    left_out = ridge.loo_scores(X, codes)
    np.testing.assert_allclose(shuffled.loo_scores(X[order], codes[order]), left_out[order], atol=1e-12)
    tensors = ridge.loo_scores(torch.from_numpy(X), torch.from_numpy(codes))
    assert isinstance(tensors, torch.Tensor)
    np.testing.assert_array_equal(tensors, left_out)


def test_wrong_label_changes_its_fitted_score_but_not_its_leave_one_out_score():
    X, codes = data(60, 50)
    X += 3 * np.eye(3, 50)[codes]
    wrong = codes.copy()
    wrong[7] = (codes[7] + 1) % 3
    ridge = Ridge(1e-6).fit(X, wrong)
    assert ridge.predict(X)[7] == wrong[7]
    assert ridge.loo_scores(X, wrong)[7].argmax() == codes[7]


@pytest.mark.parametrize("names", [["cat", "dog", "eel"], [False, "x", 2.5]])
def test_leave_one_out_refuses_other_rows_and_other_labels(names):
    X, codes = data(30, 4)
    labels = [names[k] for k in codes]
    ridge = Ridge().fit(X, labels)
    columns = [names.index(name) for name in ridge.classes_]
    expected = Ridge().fit(X, codes).loo_scores(X, codes)[:, columns]
    # The order of classes changes the order of sums.
    np.testing.assert_allclose(ridge.loo_scores(X, labels), expected, rtol=0, atol=1e-12)
    for rows, given in [(X[1:], labels[1:]), (X, labels[::-1]), (X, codes)]:
        with pytest.raises(InputError, match="very 30 rows"):
            ridge.loo_scores(rows, given)
    with pytest.raises(ValueError, match="expecting 4 features"):
        ridge.loo_scores(X[:, 1:], labels)


def test_leave_one_out_of_a_single_row_is_refused():
    with pytest.raises(InputError, match="at least two rows"):
        Ridge().fit([[1.0, 2.0]], [0]).loo_scores([[1.0, 2.0]], [0])
