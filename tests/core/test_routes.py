"""Which work is done, on what, and that every route gives the same answers; never how long it takes."""

import numpy as np
import pytest
import torch

from layerprobe.core import (
    fit_label_sets,
    fit_subspaces,
    fitting,
    lapack,
    linalg,
    predict_label_sets,
    products,
    scoring,
)
from layerprobe.core.second_moment import SecondMoment
from layerprobe.errors import InputError
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
def test_the_leading_eigenvectors_are_those_of_torch(r, scale):
    X = relu_rows(400, 300, dtype=torch.float64)
    moment = X.T @ X
    expected, vectors = torch.linalg.eigh(moment)
    eigenvalues, basis = lapack.eigh_leading(moment * scale)
    torch.testing.assert_close(eigenvalues / scale, expected.flip(0), rtol=0, atol=1e-13 * expected[-1])
    U, V = basis(r), vectors.flip(1)[:, :r]
    assert U.shape == (300, r)
    torch.testing.assert_close(U.T @ U, torch.eye(r, dtype=torch.float64), rtol=0, atol=1e-11)
    torch.testing.assert_close(
        (U.T @ V).diagonal().abs(), torch.ones(r, dtype=torch.float64), atol=1e-8, rtol=0
    )


def test_a_solver_that_fails_is_followed_by_another(monkeypatch):
    X, codes = relu_rows(900, 300), labels(900, 2)
    expected = fit_subspaces(X, codes, 2, variance=0.9)

    def fail(*arguments):
        raise torch.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(linalg, "eigh_leading", fail)
    fitted = fit_subspaces(X, codes, 2, variance=0.9)
    assert fitted.ranks == expected.ranks
    torch.testing.assert_close(fitted.squared_cosines(X), expected.squared_cosines(X), rtol=0, atol=1e-6)


def test_a_gpu_solver_that_is_silent_about_failing_is_followed_by_the_cpu(monkeypatch):
    solve, calls = torch.linalg.eigh, []

    def silent(matrix):
        calls.append(matrix.shape)
        values, vectors = solve(matrix)
        return (values * torch.nan if len(calls) == 1 else values), vectors

    moments = [(rows.T @ rows).double() for rows in (relu_rows(60, 12), relu_rows(60, 12, seed=1))]
    expected = [solve(moment).eigenvalues.flip(0).clamp(min=0) for moment in moments]
    monkeypatch.setattr(torch.linalg, "eigh", silent)
    pairs = linalg.eigenpairs_of_each(moments)
    assert calls == [(2, 12, 12)] * 2  # both in one call, and again
    for (values, _), wanted in zip(pairs, expected, strict=True):
        torch.testing.assert_close(values, wanted, rtol=0, atol=1e-12 * wanted[0])


def test_each_class_is_decomposed_once_by_its_shorter_side(monkeypatch):
    sizes, original = [], linalg._decompose
    monkeypatch.setattr(linalg, "_decompose", lambda m: sizes.append(len(m)) or original(m))
    X, codes = relu_rows(190, 60), torch.tensor([0] * 100 + [1] * 30 + [2] * 60)
    fit_subspaces(X + 1, codes, 3, variance=0.9)
    assert sorted(sizes) == [30, 60, 60]


def test_a_cut_too_close_for_float32_is_made_in_float64(monkeypatch):
    X = torch.eye(4).repeat(50, 1)  # shares of exactly 1/4, 1/2, 3/4
    again, summed = [], fitting._summed_again
    monkeypatch.setattr(fitting, "_summed_again", lambda *a: again.append(a[-1].shape[1]) or summed(*a))
    assert fit_subspaces(X, torch.zeros(200, dtype=torch.int64), 1, variance=0.5).ranks == (3,)
    assert again == [3]
    fit_subspaces(X, torch.zeros(200, dtype=torch.int64), 1, variance=0.6)
    assert again == [3]


@pytest.mark.parametrize(("n", "d"), [(900, 300), (300, 1100)])  # by the moment, by the Gram matrix
def test_ranks_are_those_of_float64_where_float32_shares_cannot_tell(n, d, monkeypatch):
    def ranks():
        return [fit_subspaces(X, codes, 1, variance=v).ranks[0] for X, v in problems]

    codes, problems, expected = torch.zeros(n, dtype=torch.int64), [], []
    for seed in range(12):
        X = relu_rows(n, d, seed) - 0.3
        values = torch.linalg.svdvals(X.double()).square()
        shares = values.cumsum(0) / values.sum()
        r = 40 + seed
        for aside in (-1e-10, 1e-10):  # of a variance that r components just reach, or just do not
            problems.append((X, float(shares[r - 1]) + aside))
            expected.append(r if aside < 0 else r + 1)
    assert ranks() == expected
    if n >= d:  # Gram matrices are float64 throughout
        monkeypatch.setattr(fitting, "UNSURE", 0)
        assert ranks() != expected


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


def test_the_longest_segment_and_dead_features_are_not_multiplied():
    X = relu_rows(400, 40, dtype=torch.float64)
    X[:, :10] = 0
    fitted = fit_subspaces(X, labels(400, 2), 2, components=28)
    plan = products.plan_products([fitted.request([[28, 28]])])
    assert [product.matrix.shape for product in plan.products] == [(2 * 2, 30)]
    plan = products.plan_products([fitted.request([[4, 4], [28, 28]])])
    assert [product.matrix.shape for product in plan.products] == [(2 * (4 + 2), 30)]


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
    assert fitted.squared_cosines(X).argmax(1).tolist() != exact.tolist()  # float32 alone cannot tell
    assert fitted.predict(X).tolist() == exact.tolist()
    assert fitted.staged_predict(X, [fitted.ranks])[0].tolist() == exact.tolist()


def test_only_close_rows_are_scored_again(monkeypatch):
    fitted, X = near_ties()
    clear = torch.tensor([[1.0, 0.1, 0.3], [0.2, 1.0, 0.5]])
    rows, score = [], scoring._score
    monkeypatch.setattr(scoring, "_score", lambda X, plan: rows.append((X.dtype, len(X))) or score(X, plan))
    fitted.predict(torch.cat([clear, X[:3]]))
    assert rows == [(torch.float32, 5), (torch.float64, 3)]


# Several label sets.


@pytest.mark.parametrize("d", [20, 130])  # both classes by moments; by Gram matrices
def test_label_sets_fitted_together_are_those_fitted_alone(d):
    X = relu_rows(300, d, dtype=torch.float64)
    sets = [
        labels(300, 3),
        labels(300, 3),
        torch.where(torch.arange(300) % 5 < 2, labels(300, 3, 1), labels(300, 3)),
    ]
    together = fit_label_sets(X, sets, 3, variance=0.9)
    alone = [fit_subspaces(X, codes, 3, variance=0.9) for codes in sets]
    queries = relu_rows(40, d, seed=2, dtype=torch.float64)
    for a, b in zip(together, alone, strict=True):
        assert (a.ranks, a.counts) == (b.ranks, b.counts)
        torch.testing.assert_close(a.squared_cosines(queries), b.squared_cosines(queries), rtol=0, atol=1e-11)
    stages = [[subspaces.ranks, [1, 1, 1]] for subspaces in together]
    for codes, subspaces, ranks in zip(
        predict_label_sets(queries, together, stages), together, stages, strict=True
    ):
        assert torch.equal(codes, subspaces.staged_predict(queries, ranks))
    assert [table.shape for table in predict_label_sets(queries, together)] == [(1, 40)] * 3


def test_rows_with_one_class_in_both_sets_are_multiplied_once(monkeypatch):
    X, first = relu_rows(1000, 10), labels(1000, 4)
    second = torch.where(torch.arange(1000) < 400, (first + 1) % 4, first)
    added, add = [], SecondMoment.add
    monkeypatch.setattr(SecondMoment, "add", lambda self, X: added.append(len(X)) or add(self, X))
    fit_label_sets(X, [first, second], 4, variance=0.9)
    assert sum(added) == 1000 + 400


def test_label_sets_must_be_there_and_alike():
    X, codes = relu_rows(40, 5), labels(40, 2)
    with pytest.raises(InputError, match="at least one set"):
        fit_label_sets(X, [], 2, variance=0.9)
    with pytest.raises(InputError, match="none"):
        predict_label_sets(X, [])
    mixed = [fit_subspaces(X, codes, 2, variance=0.9, exact=exact) for exact in (False, True)]
    with pytest.raises(InputError, match=r"float32.*float64"):
        predict_label_sets(X, mixed)


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
