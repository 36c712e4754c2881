import numpy as np
import pytest
import torch

from layerprobe.errors import InputError
from layerprobe.probes import WhitenedKNN, nearest_neighbours

rng = np.random.default_rng(8)


def data(n, d, K=3, dtype=np.float64):
    codes = rng.permutation(np.arange(n) % K)
    rows = rng.standard_normal((n, d)) * np.logspace(0, -2, d) + 3
    return (rows + 0.3 * rng.standard_normal((K, d))[codes]).astype(dtype), codes


def reference(X, codes, query, k, shrinkage, leave_out=False):
    """Shares of votes, by the textbook: the whole covariance inverted, one query at a time."""
    d = X.shape[1]
    covariance = np.cov(X.T, bias=True)
    shrunk = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / d * np.eye(d)
    inverse = np.linalg.inv(shrunk)
    rows, query = X - X.mean(0), query - X.mean(0)
    shares = []
    for i, x in enumerate(query):
        cosines = (
            rows @ inverse @ x / np.sqrt(np.einsum("nd,de,ne->n", rows, inverse, rows) * (x @ inverse @ x))
        )
        if leave_out:
            cosines[i] = -np.inf
        shares.append(np.bincount(codes[np.argsort(-cosines)[:k]], minlength=codes.max() + 1) / k)
    return np.array(shares)


@pytest.mark.parametrize("d", [6, 70])
@pytest.mark.parametrize("shrinkage", [0.05, 1.0])
@pytest.mark.parametrize("k", [1, 7])
@pytest.mark.parametrize("K", [2, 3])
def test_scores_are_shares_of_the_votes_of_the_nearest_whitened_rows(d, shrinkage, k, K):
    X, codes = data(50, d, K)
    query = data(20, d, K)[0]
    knn = WhitenedKNN(k, shrinkage).fit(X, codes)
    (scores,) = knn.staged_scores(query, [k])
    np.testing.assert_allclose(scores, reference(X, codes, query, k, shrinkage), atol=1.1e-3 / k)
    expected = reference(X, codes, X, k, shrinkage, leave_out=True)
    np.testing.assert_allclose(knn.loo_scores(X, codes), expected, atol=1.1e-3 / k)


def test_leave_one_out_uses_all_other_rows():
    X, codes = data(90, 8)
    knn = WhitenedKNN(5).fit(X, codes)
    left_out = knn.loo_scores(X, codes)
    for i in (0, 41, 89):
        flipped = codes.copy()
        flipped[i] = (codes[i] + 1) % 3
        other = WhitenedKNN(5).fit(X, flipped).loo_scores(X, flipped)
        np.testing.assert_array_equal(other[i], left_out[i])
        assert (other != left_out).any()
    assert not np.array_equal(left_out, knn.decision_function(X))


def test_number_of_neighbours_is_at_most_the_number_of_rows():
    X, codes = data(30, 4, 2)
    codes = np.where(np.arange(30) < 10, 0, 1)
    (scores,) = WhitenedKNN(10_000).fit(X, codes).staged_scores(X, [10_000])
    np.testing.assert_allclose(scores, np.tile([1 / 3, 2 / 3], (30, 1)), atol=1e-4)
    left_out = WhitenedKNN(30).fit(X, codes).loo_scores(X, codes)
    np.testing.assert_allclose(left_out[0], [9 / 29, 20 / 29], atol=1e-4)
    np.testing.assert_allclose(left_out[-1], [10 / 29, 19 / 29], atol=1e-4)


def test_equal_shares_are_decided_by_similarity_and_not_by_the_order_of_classes():
    X = np.array([[1.0, 0.1], [0.2, 1.0], [-1.0, -0.3], [-0.4, -0.9]])
    near = X[0] + [0.0, 0.05]
    for names in (["a", "b", "c", "d"], ["d", "c", "b", "a"]):
        assert WhitenedKNN(4).fit(X, names).predict([near]).tolist() == [names[0]]


def test_a_tie_break_never_outweighs_a_vote():
    for k in (1, 500):
        X, codes = data(600, 3, 2)
        (scores,) = WhitenedKNN(k).fit(X, codes).staged_scores(X, [k])
        assert np.abs(scores * k - np.round(scores * k)).max() < 0.01  # of a vote


@pytest.mark.parametrize("d", [8, 60])
@pytest.mark.parametrize(("dtype", "scales"), [(np.float32, (1e-18, 1e18)), (np.float64, (1e-100, 1e100))])
def test_scale_of_a_layer_does_not_change_the_scores(d, dtype, scales):
    X, codes = data(50, d, dtype=dtype)
    expected = WhitenedKNN(9).fit(X, codes).loo_scores(X, codes)
    for scale in scales:
        rows = (X * scale).astype(dtype)
        np.testing.assert_allclose(
            WhitenedKNN(9).fit(rows, codes).loo_scores(rows, codes), expected, atol=1e-5
        )


def test_fewer_rows_than_features_give_equal_scores():
    X, codes = data(50, 12)
    wide = X @ np.linalg.qr(rng.standard_normal((80, 80)))[0][:12]
    narrow = WhitenedKNN(9, shrinkage=0).fit(X, codes).loo_scores(X, codes)
    np.testing.assert_allclose(WhitenedKNN(9, shrinkage=0).fit(wide, codes).loo_scores(wide, codes), narrow)


def test_chunks_batches_and_order_of_rows_do_not_change_the_scores(monkeypatch):
    X, codes = data(300, 10, dtype=np.float32)
    query = data(101, 10, dtype=np.float32)[0]
    knn = WhitenedKNN(25).fit(X, codes)
    whole, left_out = knn.decision_function(query), knn.loo_scores(X, codes)
    by_batch = np.concatenate([knn.decision_function(query[a : a + 17]) for a in range(0, 101, 17)])
    np.testing.assert_allclose(by_batch, whole, atol=1e-6)
    monkeypatch.setattr(nearest_neighbours, "SIMILARITIES", 300 * 7)  # seven queries at a time
    np.testing.assert_allclose(knn.decision_function(query), whole, atol=1e-6)
    np.testing.assert_allclose(knn.loo_scores(X, codes), left_out, atol=1e-6)
    order = rng.permutation(300)
    shuffled = WhitenedKNN(25).fit(X[order], codes[order])
    np.testing.assert_allclose(shuffled.decision_function(query), whole, atol=1e-6)
    np.testing.assert_allclose(shuffled.loo_scores(X[order], codes[order]), left_out[order], atol=1e-6)
    tensors = knn.loo_scores(torch.from_numpy(X), torch.from_numpy(codes))
    assert isinstance(tensors, torch.Tensor)


def test_invalid_arguments_and_rows_are_refused():
    X, codes = data(30, 4)
    for shrinkage in (-0.1, 1.1, "auto", None):
        with pytest.raises(InputError, match="shrinkage must be a number of at least 0 and at most 1"):
            WhitenedKNN(shrinkage=shrinkage).fit(X, codes)
    with pytest.raises(InputError, match="very 30 rows"):
        WhitenedKNN().fit(X, codes).loo_scores(X[1:], codes[1:])
    with pytest.raises(InputError, match="at least two rows"):
        WhitenedKNN().fit(X[:1], [0]).loo_scores(X[:1], [0])


def test_small_directions_of_float32_rows_are_whitened():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(400) % 2
    X = torch.randn(400, 12, generator=generator, dtype=torch.float64)
    X[:, 0] = 1e-3 * (2 * y - 1 + 0.1 * X[:, 0])  # the classes differ in a direction of 1e-7 of the variance
    Q = torch.randn(200, 12, generator=generator, dtype=torch.float64)
    Q[:, 0] = 1e-3 * (2 * (torch.arange(200) % 2) - 1)
    probe = WhitenedKNN(shrinkage=0).fit(X.float(), y)
    assert (probe.predict(Q.float()) == torch.arange(200) % 2).all()
