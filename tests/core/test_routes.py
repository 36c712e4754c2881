"""Every numerical route gives the answers of the plain one in float64."""

import numpy as np
import pytest
import torch

from layerprobe.core import fit_subspaces
from layerprobe.core.kernels import eigh_leading, eigh_nonzero, serves_eigh_leading
from layerprobe.core.linalg import SecondMoment, eigenpairs
from layerprobe.core.subspaces import basis_from_moment, basis_from_rows
from layerprobe.probes import MASC

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
]


def relu_rows(n, d, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(n, 20, generator=generator) * torch.arange(1, 21) ** -0.5
    rows = latent @ torch.randn(20, d, generator=generator) + 0.05 * torch.randn(n, d, generator=generator)
    return rows.relu().to(dtype)


def labels(n, K, seed=0):
    return torch.randint(K, (n,), generator=torch.Generator().manual_seed(seed))


# Decompositions.


@pytest.mark.parametrize("r", [0, 1, 40, 150, 300])
@pytest.mark.parametrize("scale", [1.0, 1e-270, 1e270])
def test_leading_eigenvectors_equal_those_of_torch(r, scale):
    X = relu_rows(400, 300, dtype=torch.float64)
    moment = X.T @ X
    expected, vectors = torch.linalg.eigh(moment)
    eigenvalues, basis = eigh_leading(moment * scale)
    torch.testing.assert_close(eigenvalues / scale, expected.flip(0), rtol=0, atol=1e-13 * expected[-1])
    U, V = basis(r), vectors.flip(1)[:, :r]
    assert U.shape == (300, r)
    torch.testing.assert_close(U.T @ U, torch.eye(r, dtype=torch.float64), rtol=0, atol=1e-11)
    torch.testing.assert_close(
        (U.T @ V).diagonal().abs(), torch.ones(r, dtype=torch.float64), atol=1e-8, rtol=0
    )


@pytest.mark.parametrize("zeros", [0, 5, 30, 60])
@pytest.mark.parametrize("r", [0, 3, 60])
def test_eigenvectors_without_zero_features_equal_those_of_torch(zeros, r):
    def plain(matrix):
        values, vectors = torch.linalg.eigh(matrix)
        return values.flip(0).clamp(min=0), lambda r: vectors.flip(1)[:, :r]

    X = relu_rows(200, 60, dtype=torch.float64)
    X[:, :zeros] = 0
    moment = X.T @ X
    eigenvalues, basis = eigh_nonzero(moment, plain)
    expected, _ = plain(moment)
    torch.testing.assert_close(eigenvalues, expected, rtol=0, atol=1e-13 * float(moment.trace() + 1))
    U = basis(r)
    torch.testing.assert_close(U.T @ U, torch.eye(r, dtype=torch.float64), rtol=0, atol=1e-11)
    torch.testing.assert_close(
        moment @ U, U * eigenvalues[:r], rtol=0, atol=1e-10 * float(moment.trace() + 1)
    )


def test_a_wide_matrix_takes_the_fast_path_and_gives_the_same_subspace():
    X = relu_rows(1300, 1250)
    moment = X.T @ X
    assert serves_eigh_leading(moment)
    values, vectors = torch.linalg.eigh(moment.double())
    fast = basis_from_moment(moment.double(), 1300, variance=0.99)
    torch.testing.assert_close(fast.eigenvalues, values.flip(0).clamp(min=0), rtol=0, atol=1e-9 * values[-1])
    U, V = fast.vectors, vectors.flip(1)[:, : fast.rank]
    torch.testing.assert_close(
        U.T @ V @ V.T @ U, torch.eye(fast.rank, dtype=torch.float64), rtol=0, atol=1e-6
    )


def test_a_gpu_solver_that_fails_without_an_error_is_followed_by_another(monkeypatch):
    solve, calls = torch.linalg.eigh, []

    def silent(matrix):
        calls.append(matrix.shape)
        values, vectors = solve(matrix)
        return (values * torch.nan if len(calls) == 1 else values), vectors

    moment = (relu_rows(60, 12).T @ relu_rows(60, 12)).double()
    expected = solve(moment).eigenvalues.flip(0).clamp(min=0)
    monkeypatch.setattr(torch.linalg, "eigh", silent)
    values, _ = eigenpairs(moment)
    assert len(calls) == 2
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-12 * expected[0])


def test_a_class_has_as_many_eigenvalues_as_its_shorter_side():
    X, y = relu_rows(190, 60), torch.tensor([0] * 100 + [1] * 30 + [2] * 60)
    fitted = fit_subspaces(X + 1, y, 3, variance=0.9)
    assert [len(values) for values in fitted.eigenvalues] == [60, 30, 60]


@pytest.mark.filterwarnings("ignore::layerprobe.errors.DegenerateWarning")  # all 4 of 4 dimensions
def test_shares_equal_to_the_variance_are_not_above_it_in_float32():
    X = torch.eye(4).repeat(50, 1)  # shares of exactly 1/4, 1/2, 3/4
    y = torch.zeros(200, dtype=torch.int64)
    for variance, rank in ((0.25, 2), (0.5, 3), (0.6, 3), (0.75, 4)):
        assert fit_subspaces(X, y, 1, variance=variance).ranks == (rank,)


@pytest.mark.parametrize(("n", "d"), [(900, 300), (300, 1100)])  # by the moment, by the Gram matrix
def test_ranks_are_those_of_float64_where_float32_shares_cannot_decide(n, d):
    single, found, expected = [], [], []
    for seed in range(12):
        X = relu_rows(n, d, seed) - 0.3
        values = torch.linalg.svdvals(X.double()).square()
        shares = values.cumsum(0) / values.sum()
        r = 40 + seed
        for aside in (-1e-10, 1e-10):  # of a variance that r components just reach, or just do not
            variance = float(shares[r - 1]) + aside
            expected.append(r if aside < 0 else r + 1)
            found.append(basis_from_rows(X, variance=variance).rank)
            if n >= d:  # what float32 products alone would give
                moment = SecondMoment(d).add(X).matrix()
                single.append(basis_from_moment(moment, n, variance=variance, dtype=X.dtype).rank)
    assert found == expected
    assert single != expected


def test_wide_classes_of_few_float32_rows_have_the_ranks_and_labels_of_float64():
    X, codes = relu_rows(240, 1100), labels(240, 3)
    default, exact = (fit_subspaces(X, codes, 3, variance=0.99, exact=e) for e in (False, True))
    assert default.ranks == exact.ranks
    assert default.columns.dtype == torch.float32
    assert exact.columns.dtype == torch.float64
    torch.testing.assert_close(
        default.squared_cosines(X).double(), exact.squared_cosines(X), rtol=0, atol=1e-5
    )


def test_exact_masc_is_float64_in_one_shot_and_streamed():
    X, y = relu_rows(300, 20), labels(300, 3)
    one_shot = MASC(exact=True).fit(X, y)
    streamed = MASC(exact=True).partial_fit(X[:100], y[:100], classes=[0, 1, 2]).partial_fit(X[100:], y[100:])
    wide = MASC().fit(X.double(), y)
    for masc in (one_shot, streamed):
        assert masc.subspaces_.columns.dtype == torch.float64
        torch.testing.assert_close(
            masc.squared_cosines(X), wide.squared_cosines(X.double()), rtol=0, atol=1e-12
        )


# Scoring.


@pytest.mark.filterwarnings("ignore::layerprobe.errors.DegenerateWarning")  # all 40 of 40 dimensions
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dead", [0, 3, 20])
def test_every_choice_of_columns_gives_the_projections(dead, device):
    X = relu_rows(400, 40, dtype=torch.float64)
    X[:, :dead] = 0
    codes = labels(400, 3)
    fitted = fit_subspaces(X, codes, 3, variance=1.0).to(device)
    queries = relu_rows(50, 40, seed=1, dtype=torch.float64).to(device)
    stages = [[r] * 3 for r in (0, 1, 5, 17, 20, 40 - dead)]
    scores = fitted.staged_squared_cosines(queries, stages)
    for stage, found in zip(stages, scores, strict=True):
        for k, U in enumerate(fitted.bases):
            expected = (queries @ U[:, : stage[k]]).square().sum(1) / queries.square().sum(1)
            torch.testing.assert_close(found[:, k], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("K", [1, 3])
def test_scores_do_not_depend_on_how_rows_are_split(K):
    X, y = relu_rows(3000, 30), labels(3000, K)
    fitted = fit_subspaces(X, y, K, variance=0.9)
    whole = fitted.squared_cosines(X)
    parts = torch.cat([fitted.squared_cosines(part) for part in X.split(700)])
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6)
    assert torch.equal(fitted.predict(X), torch.cat([fitted.predict(part) for part in X.split(700)]))
    assert fitted.predict(X[:0]).shape == (0,)
    assert fitted.squared_cosines(X[:0]).shape == (0, K)


def near_ties():
    """Two planes in 3-d, and rows that are almost as near to one as to the other."""
    fitted = fit_subspaces(
        torch.tensor([[1.0, 0.1, 0.3], [1.0, -0.2, 0.1], [1.0, 0.3, -0.1], [0.2, 1.0, 0.5]]),
        torch.tensor([0, 0, 1, 1]),
        2,
        components=2,
    )
    P = [(U.double() @ U.double().T) for U in fitted.bases]
    values, vectors = torch.linalg.eigh(P[0] - P[1])
    tie = vectors[:, 0] * values[2].abs().sqrt() + vectors[:, 2] * values[0].abs().sqrt()
    steps = torch.linspace(-1e-6, 1e-6, 401, dtype=torch.float64)
    return fitted, (tie + steps[:, None] * vectors[:, 2]).float()


def test_close_labels_are_those_of_float64():
    fitted, X = near_ties()
    exact = torch.stack([(X.double() @ U.double()).square().sum(1) for U in fitted.bases]).argmax(0)
    assert 50 < int(exact.sum()) < 350
    assert fitted.squared_cosines(X).argmax(1).tolist() != exact.tolist()  # float32 alone cannot decide
    assert fitted.predict(X).tolist() == exact.tolist()
    assert fitted.staged_predict(X, [fitted.ranks])[0].tolist() == exact.tolist()


@pytest.mark.parametrize("device", DEVICES)
def test_a_device_gives_the_ranks_and_labels_of_float64_on_the_cpu(device):
    X, codes = relu_rows(2000, 64), labels(2000, 4)
    X += 0.3 * relu_rows(4, 64, seed=5)[codes]
    fitted = fit_subspaces(X.to(device), codes.to(device), 4, variance=0.99)
    exact = fit_subspaces(X, codes, 4, variance=0.99, exact=True)
    assert fitted.ranks == exact.ranks
    best = exact.squared_cosines(X).topk(2).values
    clear = (best[:, 0] - best[:, 1]) > 1e-5
    assert torch.equal(fitted.predict(X.to(device)).cpu()[clear], exact.predict(X)[clear])
    assert np.mean(clear.numpy()) > 0.9
